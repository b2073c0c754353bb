// A list of rows of one height, of which only those in sight are in the document.

import { createSignal, For, onCleanup, onMount, type JSX } from "solid-js";

interface Props<T> {
  rows: readonly T[];
  height: number;
  row: (item: T, index: () => number) => JSX.Element;
  class?: string;
  label: string;
  testid?: string;
  onScroll?: (top: number) => void;
  ref?: (el: HTMLDivElement) => void;
  foot?: JSX.Element;
  head?: JSX.Element;
}

const MARGIN = 8;

export function Virtual<T>(p: Props<T>) {
  const [top, setTop] = createSignal(0);
  const [seen, setSeen] = createSignal(600);
  let box!: HTMLDivElement;
  onMount(() => {
    const o = new ResizeObserver(() => setSeen(box.clientHeight));
    o.observe(box);
    onCleanup(() => o.disconnect());
  });
  const first = () => Math.max(0, Math.min(Math.floor(top() / p.height) - MARGIN, p.rows.length));
  const last = () => Math.ceil((top() + seen()) / p.height) + MARGIN;
  const slice = () => p.rows.slice(first(), last());
  return (
    <div
      class={`virtual ${p.class ?? ""}`}
      ref={(el) => {
        box = el;
        p.ref?.(el);
      }}
      role="table"
      aria-label={p.label}
      aria-rowcount={p.rows.length}
      data-testid={p.testid}
      tabindex="0"
      onScroll={() => {
        setTop(box.scrollTop);
        p.onScroll?.(box.scrollTop);
      }}
    >
      {p.head}
      <div class="virtual-size" role="rowgroup" style={{ height: `${p.rows.length * p.height}px` }}>
        <div class="virtual-window" style={{ transform: `translateY(${first() * p.height}px)` }}>
          <For each={slice()}>{(item, i) => p.row(item, () => first() + i())}</For>
        </div>
      </div>
      {p.foot}
    </div>
  );
}
