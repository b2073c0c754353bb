// The filter bar: chips, an input that completes, the time.

import { createEffect, createSignal, For, on, onCleanup, Show } from "solid-js";
import * as api from "../../api/client";
import { Icon } from "../../parts/icon";
import { go, page } from "../../routes";
import { ask, fieldChoices, put, valueChoices, type Choice } from "../../state/complete";
import { field } from "../../state/fields";
import { dedupe, formatToken, invert, parse, remove, swapEnds } from "../../state/filters";
import { TimePicker } from "./time";

export function FilterBar() {
  const [text, setText] = createSignal("");
  const [focus, setFocus] = createSignal(false);
  const [choices, setChoices] = createSignal<Choice[]>([]);
  const [active, setActive] = createSignal(-1);
  const [error, setError] = createSignal("");
  let input!: HTMLInputElement;
  let stop: AbortController | undefined;
  let timer: number | undefined;
  onCleanup(() => {
    stop?.abort();
    clearTimeout(timer);
  });

  createEffect(
    on([text, focus], () => {
      stop?.abort();
      clearTimeout(timer);
      setActive(-1);
      if (!focus()) return void setChoices([]);
      const a = ask(text());
      if (a.kind === "field") return void setChoices(fieldChoices(a));
      const known = field(a.field!)?.values;
      if (known) return void setChoices(valueChoices(a, known));
      setChoices((old) => old.filter((c) => c.done && c.label.startsWith(a.prefix)));
      timer = window.setTimeout(async () => {
        const mine = (stop = new AbortController());
        try {
          const values = await api.complete(a.field!, a.prefix, mine.signal);
          if (!mine.signal.aborted) setChoices(valueChoices(a, values).slice(0, 50));
        } catch {
          // completion is a comfort: without it one can still type
        }
      }, 100);
    }),
  );

  function commit(what: string): void {
    const { tokens, errors } = parse(what);
    setError(errors.map((e) => `${e.word}: ${e.why}`).join("; "));
    if (tokens.length) go({ tokens: dedupe([...page.tokens, ...tokens]) });
    setText(errors.map((e) => e.word).join(" "));
  }

  function pick(c: Choice): void {
    const next = put(text(), c.text);
    if (c.done) commit(next);
    else setText(next);
    input.focus();
  }

  function key(e: KeyboardEvent): void {
    const n = choices().length;
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      if (n) setActive((active() + (e.key === "ArrowDown" ? 1 : active() < 0 ? 0 : -1) + n) % n);
    } else if (e.key === "Tab" && !e.shiftKey && n && text() !== "") {
      e.preventDefault();
      pick(choices()[Math.max(0, active())]!);
    } else if (e.key === "Enter") {
      e.preventDefault();
      const c = choices()[active()];
      if (c) pick(c);
      else if (text().trim()) commit(text());
    } else if (e.key === " " && /=.+/.test(text()) && (text().match(/"/g)?.length ?? 0) % 2 === 0) {
      e.preventDefault();
      commit(text());
    } else if (e.key === "Backspace" && text() === "" && page.tokens.length) {
      const last = page.tokens[page.tokens.length - 1]!;
      go({ tokens: page.tokens.slice(0, -1) });
      setText(formatToken(last));
      e.preventDefault();
    } else if (e.key === "Escape") {
      e.stopPropagation();
      if (active() >= 0) setActive(-1);
      else input.blur();
    }
  }

  return (
    <div class="filterbar">
      <div class="filter" classList={{ focus: focus(), bad: error() !== "" }} onClick={(e) => e.target === e.currentTarget && input.focus()}>
        <Icon name="search" />
        <For each={page.tokens}>
          {(t) => (
            <span class="chip" classList={{ not: t.not }} data-testid="filter-chip">
              <button
                type="button"
                title={t.not ? "Excluded. Click to include" : "Click to exclude instead"}
                onClick={() => go({ tokens: invert(page.tokens, t) })}
              >
                <span class="chip-field">
                  {t.not ? "not " : ""}
                  {t.field}
                </span>
                <span class="chip-value">{t.value}</span>
              </button>
              <button
                type="button"
                class="chip-x"
                aria-label={`Remove ${formatToken(t)}`}
                onClick={() => go({ tokens: remove(page.tokens, t) })}
              >
                <Icon name="close" />
              </button>
            </span>
          )}
        </For>
        <input
          ref={input}
          type="text"
          data-testid="filter-input"
          value={text()}
          placeholder={page.tokens.length ? "and …" : "Filter: namespace=shop -port=53 verdict=DROPPED"}
          spellcheck={false}
          autocomplete="off"
          autocapitalize="off"
          role="combobox"
          aria-label="Filter"
          aria-expanded={choices().length > 0}
          aria-controls="filter-choices"
          aria-autocomplete="list"
          aria-activedescendant={active() >= 0 ? `choice-${active()}` : undefined}
          onInput={(e) => {
            setError("");
            setText(e.currentTarget.value);
          }}
          onKeyDown={key}
          onFocus={() => setFocus(true)}
          onBlur={() => {
            setFocus(false);
            if (/^[-!]?\w+!?=.+/.test(text())) commit(text());
          }}
        />
        <Show when={page.tokens.length > 0}>
          <button type="button" class="button quiet small" title="Exchange source and destination" aria-label="Exchange source and destination" onClick={() => go({ tokens: swapEnds(page.tokens) })}>
            <Icon name="swap" />
          </button>
          <button type="button" class="button quiet small" onClick={() => go({ tokens: [] })} data-testid="filter-clear">
            Clear
          </button>
        </Show>
        <Show when={focus() && choices().length > 0}>
          <ul class="choices" id="filter-choices" role="listbox">
            <For each={choices()}>
              {(c, i) => (
                <li
                  id={`choice-${i()}`}
                  role="option"
                  aria-selected={i() === active()}
                  ref={(el) => createEffect(() => i() === active() && el.scrollIntoView({ block: "nearest" }))}
                  onPointerDown={(e) => {
                    e.preventDefault();
                    pick(c);
                  }}
                >
                  <span>{c.label}</span>
                  <span class="muted">{c.help}</span>
                </li>
              )}
            </For>
          </ul>
        </Show>
        <Show when={error()}>
          <div class="filter-error" role="alert">
            {error()}
          </div>
        </Show>
      </div>
      <TimePicker />
    </div>
  );
}
