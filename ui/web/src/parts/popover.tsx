// A button and the panel it opens. Esc and a click outside close it.

import { createSignal, createUniqueId, onCleanup, onMount, Show, type JSX } from "solid-js";

interface Props {
  label: JSX.Element;
  class?: string;
  title?: string;
  testid?: string;
  align?: "left" | "right";
  children: (close: () => void) => JSX.Element;
}

export function Popover(p: Props) {
  const [open, setOpen] = createSignal(false);
  const id = createUniqueId();
  let box!: HTMLDivElement;
  let button!: HTMLButtonElement;
  const outside = (e: PointerEvent) => open() && !box.contains(e.target as Node) && setOpen(false);
  onMount(() => document.addEventListener("pointerdown", outside));
  onCleanup(() => document.removeEventListener("pointerdown", outside));
  return (
    <div
      class="popover"
      ref={box}
      onKeyDown={(e) => {
        if (e.key === "Escape" && open()) {
          e.stopPropagation();
          setOpen(false);
          button.focus();
        }
      }}
    >
      <button
        ref={button}
        type="button"
        class={p.class ?? "button"}
        title={p.title}
        aria-expanded={open()}
        aria-controls={id}
        data-testid={p.testid}
        onClick={() => setOpen(!open())}
      >
        {p.label}
      </button>
      <Show when={open()}>
        <div id={id} class="panel" classList={{ right: p.align === "right" }}>
          {p.children(() => setOpen(false))}
        </div>
      </Show>
    </div>
  );
}
