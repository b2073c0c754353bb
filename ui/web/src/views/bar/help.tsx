import { For, onMount } from "solid-js";
import { Icon } from "../../parts/icon";

const KEYS: [string[], string][] = [
  [["/"], "go to the filter (on SQL: to the editor)"],
  [["j", "k"], "next, previous row"],
  [["Enter"], "open the row"],
  [["Esc"], "close what is open"],
  [["Space"], "pause or follow the live list"],
  [["r"], "ask again (history)"],
  [["t"], "map as table and back"],
  [["g", "f"], "flows"],
  [["g", "m"], "map"],
  [["g", "s"], "SQL"],
  [["g", "h"], "health"],
  [["Ctrl", "Enter"], "run the query (SQL)"],
  [["?"], "this page"],
];

export function Help(p: { close: () => void; version: string | undefined; uptime: string }) {
  let box!: HTMLDialogElement;
  onMount(() => box.showModal());
  return (
    <dialog class="help" ref={box} onClose={p.close} onClick={(e) => e.target === box && box.close()} aria-label="Help">
      <div class="help-in">
        <header>
          <h2>Keys and hints</h2>
          <button type="button" class="button quiet" aria-label="Close" onClick={() => box.close()}>
            <Icon name="close" />
          </button>
        </header>
        <dl class="keys">
          <For each={KEYS}>
            {([keys, what]) => (
              <div>
                <dt>
                  <For each={keys}>{(k) => <kbd>{k}</kbd>}</For>
                </dt>
                <dd>{what}</dd>
              </div>
            )}
          </For>
        </dl>
        <h3>Filter</h3>
        <p>
          <code>namespace=shop -port=53 verdict=DROPPED</code> — same field twice means either, different fields mean both, a leading
          minus excludes. Bare words are guessed: <code>10.0.0.0/8</code>, <code>dropped</code>, <code>443</code>,{" "}
          <code>shop/web</code>, <code>api.example.com</code>.
        </p>
        <p>Click a value in the table to filter by it; Alt-click to exclude it. Drag over the timeline to choose a time range.</p>
        <p class="muted">
          Everything you see is in the address: copy it to share. Weir {p.version ?? ""}, up {p.uptime}.
        </p>
      </div>
    </dialog>
  );
}
