// The time picker: live, the last so long, or from–to.

import { createSignal, For, Show } from "solid-js";
import { Icon } from "../../parts/icon";
import { Popover } from "../../parts/popover";
import { go, page } from "../../routes";
import { now } from "../../state/store";
import { bounds, fixed, label, LIVE, PRESETS, toLocalInput, widen, type Range } from "../../state/time";

export function TimePicker() {
  const is = (r: Range) => JSON.stringify(r) === JSON.stringify(page.range);
  return (
    <div class="time">
      <div class="segments" role="group" aria-label="Time range">
        <button type="button" classList={{ on: page.range.kind === "live" }} aria-pressed={page.range.kind === "live"} onClick={() => go({ range: LIVE })} data-testid="time-live">
          <span class="pulse" aria-hidden="true" />
          Live
        </button>
        <For each={PRESETS}>
          {(span) => (
            <button
              type="button"
              class="preset"
              classList={{ on: is({ kind: "last", span }) }}
              aria-pressed={is({ kind: "last", span })}
              data-testid={`time-${span}`}
              onClick={() => go({ range: { kind: "last", span } })}
            >
              {span}
            </button>
          )}
        </For>
      </div>
      <Show when={page.range.kind !== "live"}>
        <button type="button" class="button quiet" title="Twice as long" aria-label="Twice as long" onClick={() => go({ range: widen(page.range, Date.now()) })}>
          <Icon name="out" />
        </button>
      </Show>
      <Popover
        align="right"
        testid="time-picker"
        title="From and to"
        label={
          <>
            <Icon name="clock" />
            <span class="time-label">{page.range.kind === "fixed" ? label(page.range) : page.range.kind === "last" ? label(page.range) : "Range"}</span>
          </>
        }
      >
        {(close) => <Absolute close={close} />}
      </Popover>
    </div>
  );
}

function Absolute(p: { close: () => void }) {
  const [a, b] = bounds(page.range, now());
  const [from, setFrom] = createSignal(toLocalInput(a));
  const [until, setUntil] = createSignal(toLocalInput(b));
  const ok = () => Date.parse(from()) < Date.parse(until());
  return (
    <form
      class="absolute"
      onSubmit={(e) => {
        e.preventDefault();
        if (!ok()) return;
        go({ range: fixed(Date.parse(from()), Date.parse(until())) });
        p.close();
      }}
    >
      <div class="quick">
        <For each={["15m", "3h", "12h", "3d", "30d"]}>
          {(span) => (
            <button type="button" class="button small" onClick={() => (go({ range: { kind: "last", span } }), p.close())}>
              {span}
            </button>
          )}
        </For>
      </div>
      <label>
        From
        <input type="datetime-local" step="1" value={from()} onInput={(e) => setFrom(e.currentTarget.value)} />
      </label>
      <label>
        To
        <input type="datetime-local" step="1" value={until()} onInput={(e) => setUntil(e.currentTarget.value)} />
      </label>
      <Show when={!ok()}>
        <p class="error-text">The start must be before the end.</p>
      </Show>
      <button type="submit" class="button primary" disabled={!ok()}>
        Apply
      </button>
      <p class="muted">Local time ({Intl.DateTimeFormat().resolvedOptions().timeZone}).</p>
    </form>
  );
}
