import { createMemo, For, Show } from "solid-js";
import type { ApiError } from "../../api/client";
import type { SqlAnswer } from "../../api/types";
import { Icon } from "../../parts/icon";
import { Loading } from "../../parts/state";
import { exact, plural } from "../../state/format";
import { judge } from "../../state/health";
import { cell, numeric, short } from "../../state/result";

const MOST = 1000;

export function Result(p: { answer: SqlAnswer | undefined; error: ApiError | undefined; running: boolean; stale: boolean }) {
  const verdict = createMemo(() => judge(p.answer?.completeness));
  return (
    <div class="result" data-testid="sql-result" aria-busy={p.running}>
      <Show when={p.error}>
        {(e) => (
          <div class="sql-error" role="alert" data-testid={e().disconnected ? "state-disconnected" : "sql-error"}>
            <Icon name="warn" />
            <div>
              <b>{e().message}</b>
              <Show when={e().hint}>
                <p>{e().hint}</p>
              </Show>
              <p class="muted mono">{e().code}</p>
            </div>
          </div>
        )}
      </Show>
      <Show when={p.running && !p.answer}>
        <Loading what="the result" rows={6} />
      </Show>
      <Show when={!p.answer && !p.error && !p.running}>
        <div class="state small" data-testid="state-idle">
          <p class="muted">Run the query, or pick an example. The result says how complete it is.</p>
        </div>
      </Show>
      <Show when={p.answer}>
        {(a) => (
          <>
            <div class="result-bar" classList={{ stale: p.running || p.stale }}>
              <b>{plural(a().stats.rows, "row")}</b>
              <span class="muted tabular">{a().stats.elapsed_ms.toFixed(a().stats.elapsed_ms < 100 ? 1 : 0)} ms</span>
              <Show when={a().stats.truncated}>
                <span class="note warn" data-testid="sql-truncated">
                  Truncated: there are more rows than the limit allows
                </span>
              </Show>
              <Show when={a().rows.length > MOST}>
                <span class="note">The first {exact(MOST)} are shown; CSV has all</span>
              </Show>
              <span class={`note ${verdict().level}`} title={verdict().why.join("\n")}>
                <Icon name={verdict().level === "good" ? "check" : "warn"} />
                {a().completeness ? verdict().text : "Completeness not known"}
                <Show when={verdict().level === "bad" || verdict().level === "warn"}>: {verdict().why[0]}</Show>
              </span>
              <Show when={p.stale && !p.running}>
                <span class="muted">of the query before your change</span>
              </Show>
            </div>
            <Show
              when={a().rows.length}
              fallback={
                <div class="state small" data-testid="state-empty">
                  <h2>No rows</h2>
                  <p class="muted">The query ran and nothing matched. Check the time condition first.</p>
                </div>
              }
            >
              <div class="scroll">
                <table class="grid sql-grid">
                  <thead>
                    <tr>
                      <For each={a().schema}>
                        {(c) => (
                          <th classList={{ num: numeric(c.type) }} title={c.type}>
                            {c.name}
                          </th>
                        )}
                      </For>
                    </tr>
                  </thead>
                  <tbody>
                    <For each={a().rows.slice(0, MOST)}>
                      {(r) => (
                        <tr>
                          <For each={a().schema}>
                            {(c, i) => {
                              const v = r[i()];
                              const text = cell(v, c.type, c.name);
                              return (
                                <td classList={{ num: numeric(c.type), null: v === null || v === undefined }} title={text.length > 40 ? text : undefined}>
                                  {short(text)}
                                </td>
                              );
                            }}
                          </For>
                        </tr>
                      )}
                    </For>
                  </tbody>
                </table>
              </div>
            </Show>
          </>
        )}
      </Show>
    </div>
  );
}
