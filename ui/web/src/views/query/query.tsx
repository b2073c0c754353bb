// SQL: an editor, examples, the tables; the result with how long it took and how complete it is.

import { createSignal, For, onCleanup, onMount, Show } from "solid-js";
import * as api from "../../api/client";
import type { SqlAnswer } from "../../api/types";
import { Icon } from "../../parts/icon";
import { useMedia } from "../../parts/media";
import { go, link, page } from "../../routes";
import { curlSql } from "../../state/copy";
import { EXAMPLES, TABLES } from "../../state/result";
import { copy, setShown } from "../../state/store";
import { Result } from "./result";

export function Query() {
  const [text, setText] = createSignal(page.sql ?? EXAMPLES[0]!.sql);
  const [answer, setAnswer] = createSignal<SqlAnswer>();
  const [error, setError] = createSignal<api.ApiError>();
  const [running, setRunning] = createSignal(0);
  const [ran, setRan] = createSignal("");
  const [tick, setTick] = createSignal(Date.now());
  const narrow = useMedia("(max-width: 900px)");
  let editor!: HTMLTextAreaElement;
  let stop: AbortController | undefined;
  const timer = setInterval(() => running() && setTick(Date.now()), 100);
  onCleanup(() => {
    clearInterval(timer);
    stop?.abort();
    setShown(undefined);
  });

  async function run(): Promise<void> {
    const sql = text().trim();
    if (!sql) return;
    stop?.abort();
    const mine = (stop = new AbortController());
    setError(undefined);
    setRunning(Date.now());
    setTick(Date.now());
    go({ sql }, page.sql === sql);
    try {
      const a = await api.sql(sql, mine.signal);
      if (mine.signal.aborted) return;
      setAnswer(a);
      setRan(sql);
      if (a.completeness) setShown({ what: "This query", completeness: a.completeness });
    } catch (e) {
      if (mine.signal.aborted) return;
      setError(api.asError(e));
      setAnswer(undefined);
    }
    setRunning(0);
  }
  function cancel(): void {
    stop?.abort();
    setRunning(0);
  }
  // a shared link shows its result, not only its text
  onMount(() => page.sql && void run());

  function insert(what: string): void {
    const { selectionStart: a, selectionEnd: b } = editor;
    setText(text().slice(0, a) + what + text().slice(b));
    editor.focus();
    editor.setSelectionRange(a + what.length, a + what.length);
  }
  async function csv(): Promise<void> {
    try {
      const { body } = await api.sqlCsv(ran());
      const url = URL.createObjectURL(body);
      const a = document.createElement("a");
      a.href = url;
      a.download = `weir-${new Date().toISOString().slice(0, 19).replace(/:/g, "-")}.csv`;
      a.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (e) {
      setError(api.asError(e));
    }
  }
  const keys = (e: KeyboardEvent) => {
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      void run();
    } else if (e.key === "Escape") editor.blur();
  };

  return (
    <div class="query">
      <aside class="query-side">
        <details open={!narrow()}>
          <summary>Examples</summary>
          <ul class="examples">
            <For each={EXAMPLES}>
              {(x) => (
                <li>
                  <button
                    type="button"
                    onClick={() => {
                      setText(x.sql);
                      void run();
                    }}
                  >
                    {x.name}
                  </button>
                </li>
              )}
            </For>
          </ul>
        </details>
        <details open={!narrow()}>
          <summary>Tables</summary>
          <For each={TABLES}>
            {(t) => (
              <details class="table-cols" open={t.name === "flows" && !narrow()}>
                <summary>
                  <code>{t.name}</code> <span class="muted">{t.help}</span>
                </summary>
                <div class="cols">
                  <For each={t.columns} fallback={<span class="muted">SELECT * shows the columns</span>}>
                    {(c) => (
                      <button type="button" class="mono" title="Insert" onClick={() => insert(c)}>
                        {c}
                      </button>
                    )}
                  </For>
                </div>
              </details>
            )}
          </For>
        </details>
      </aside>
      <div class="query-main">
        <div class="editor">
          <textarea
            ref={editor}
            class="mono"
            data-testid="sql-editor"
            aria-label="SQL"
            spellcheck={false}
            autocapitalize="off"
            autocomplete="off"
            rows={Math.min(18, Math.max(5, text().split("\n").length + 1))}
            value={text()}
            onInput={(e) => setText(e.currentTarget.value)}
            onKeyDown={keys}
          />
          <div class="toolbar">
            <Show
              when={running()}
              fallback={
                <button type="button" class="button primary" data-testid="sql-run" onClick={() => void run()}>
                  <Icon name="play" />
                  Run <kbd>Ctrl ⏎</kbd>
                </button>
              }
            >
              <button type="button" class="button" data-testid="sql-cancel" onClick={cancel}>
                <Icon name="close" />
                Cancel <span class="tabular">{((tick() - running()) / 1000).toFixed(1)} s</span>
              </button>
            </Show>
            <span class="grow" />
            <button type="button" class="button quiet" onClick={() => copy(link({ ...page, sql: text() }), "link")}>
              <Icon name="copy" />
              Link
            </button>
            <button type="button" class="button quiet" onClick={() => copy(curlSql(api.absoluteBase(), text()), "curl")}>
              <Icon name="copy" />
              curl
            </button>
            <button type="button" class="button quiet" disabled={!answer()} onClick={() => void csv()} data-testid="sql-csv">
              <Icon name="down" />
              CSV
            </button>
          </div>
        </div>
        <Result answer={answer()} error={error()} running={running() > 0} stale={answer() !== undefined && ran() !== text().trim()} />
      </div>
    </div>
  );
}
