// Verdicts over time, stacked; where something was lost the ground is hatched. Dragging chooses a time range.

import { createSignal, For, onCleanup, onMount, Show } from "solid-js";
import * as api from "../../api/client";
import type { Bucket } from "../../api/types";
import { bars, nice, STACK, tickLabel, ticks, total } from "../../graph/bars";
import { go, page } from "../../routes";
import { toParams } from "../../state/filters";
import { bytes, clock, count, exact } from "../../state/format";
import { createQuery } from "../../state/query";
import { status } from "../../state/store";
import { fixed, LIVE, query, spanMs, widen } from "../../state/time";

const H = 64;
const AXIS = 18;
const LEFT = 44;

export function Timeline() {
  const [width, setWidth] = createSignal(800);
  const [over, setOver] = createSignal<number | null>(null);
  const [drag, setDrag] = createSignal<[number, number] | null>(null);
  let box!: HTMLDivElement;
  onMount(() => {
    const o = new ResizeObserver(() => setWidth(Math.max(240, box.clientWidth)));
    o.observe(box);
    onCleanup(() => o.disconnect());
  });
  const buckets = () => (width() < 560 ? 40 : 80);
  const every = () => {
    const r = page.range;
    return r.kind === "live" ? 2000 : r.kind === "last" ? Math.min(60_000, Math.max(3000, (spanMs(r.span) ?? 0) / 80)) : null;
  };
  const q = createQuery(
    () => [...query(page.range), ["buckets", String(buckets())], ...toParams(page.tokens)] as [string, string][],
    (params, s) => api.timeline(params, s),
    every,
  );
  const list = () => q.data()?.buckets ?? [];
  const step = () => q.data()?.bucket_ms ?? 1;
  const from = () => (list()[0] ? Date.parse(list()[0]!.time) : 0);
  const until = () => from() + step() * list().length;
  const inner = () => width() - LEFT - 4;
  const x = (t: number) => LEFT + ((t - from()) / Math.max(1, until() - from())) * inner();
  const t = (px: number) => from() + (Math.min(inner(), Math.max(0, px - LEFT)) / inner()) * (until() - from());
  const max = () => nice(Math.max(1, ...list().map(total)));
  const bw = () => inner() / Math.max(1, list().length);
  const oldest = () => {
    const o = status.data()?.storage?.oldest;
    return o ? Date.parse(o) : null;
  };

  const px = (e: PointerEvent) => e.clientX - box.getBoundingClientRect().left;
  const hover = () => (over() === null ? undefined : list()[over()!]);

  function end(): void {
    const d = drag();
    setDrag(null);
    if (!d || Math.abs(d[0] - d[1]) < 5) return;
    go({ range: fixed(t(Math.min(...d)), t(Math.max(...d))) });
  }

  return (
    <div
      class="timeline"
      data-testid="timeline"
      ref={box}
      tabindex="0"
      role="group"
      aria-label="Flows over time. Left and right move through buckets, Enter narrows to the bucket, minus widens."
      onKeyDown={(e) => {
        const n = list().length;
        if (!n) return;
        const i = over() ?? n - 1;
        if (e.key === "ArrowLeft") setOver(Math.max(0, i - 1));
        else if (e.key === "ArrowRight") setOver(Math.min(n - 1, i + 1));
        else if (e.key === "Enter" && hover()) go({ range: fixed(Date.parse(hover()!.time), Date.parse(hover()!.time) + step()) });
        else if (e.key === "-") go({ range: widen(page.range, Date.now()) });
        else return;
        e.preventDefault();
        e.stopPropagation();
      }}
      onBlur={() => setOver(null)}
    >
      <svg
        width={width()}
        height={H + AXIS}
        onPointerDown={(e) => {
          if (e.button !== 0 || !list().length) return;
          e.currentTarget.setPointerCapture(e.pointerId);
          setDrag([px(e), px(e)]);
        }}
        onPointerMove={(e) => {
          const at = px(e);
          const i = Math.floor((at - LEFT) / bw());
          setOver(i >= 0 && i < list().length ? i : null);
          const d = drag();
          if (d) setDrag([d[0], Math.min(width() - 4, Math.max(LEFT, at))]);
        }}
        onPointerUp={end}
        onPointerCancel={() => setDrag(null)}
        onPointerLeave={() => !drag() && setOver(null)}
        onDblClick={() => go({ range: page.range.kind === "fixed" ? LIVE : widen(page.range, Date.now()) })}
      >
        <defs>
          <pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
            <rect width="6" height="6" class="hatch-bg" />
            <line x1="0" y1="0" x2="0" y2="6" class="hatch-line" />
          </pattern>
        </defs>
        <line class="rule" x1={LEFT} x2={width() - 4} y1={H + 0.5} y2={H + 0.5} />
        <line class="rule faint" x1={LEFT} x2={width() - 4} y1={6.5} y2={6.5} />
        <text class="axis" x={LEFT - 6} y="10" text-anchor="end">
          {list().length ? count(max()) : ""}
        </text>
        <text class="axis" x={LEFT - 6} y={H} text-anchor="end">
          0
        </text>
        <For each={list()}>
          {(b, i) => (
            <>
              <Show when={b.lost > 0}>
                <rect class="lost" data-testid="timeline-lost" x={LEFT + i() * bw()} y="2" width={bw()} height={H - 2} fill="url(#hatch)" />
              </Show>
              <For each={bars(b, max(), LEFT + i() * bw(), Math.max(1, bw() - (bw() > 3 ? 1 : 0)), H - 6)}>
                {(r) => <rect class={r.part} x={r.x} y={r.y + 6} width={r.w} height={r.h} />}
              </For>
            </>
          )}
        </For>
        <Show when={oldest() !== null && oldest()! > from() && list().length > 0}>
          <rect class="before" x={LEFT} y="2" width={Math.max(0, Math.min(x(oldest()!), width()) - LEFT)} height={H - 2} />
          <text class="axis" x={LEFT + 6} y="16">
            {x(oldest()!) - LEFT > 130 ? "before the first stored flow" : ""}
          </text>
        </Show>
        <For each={list().length ? ticks(from(), until(), Math.floor(inner() / 90)) : []}>
          {(v) => (
            <>
              <line class="rule" x1={x(v)} x2={x(v)} y1={H} y2={H + 4} />
              <text class="axis" x={x(v)} y={H + 14} text-anchor="middle">
                {tickLabel(v, until() - from())}
              </text>
            </>
          )}
        </For>
        <Show when={over() !== null && !drag()}>
          <rect class="hover" x={LEFT + over()! * bw()} y="2" width={bw()} height={H - 2} />
        </Show>
        <Show when={drag()}>
          {(d) => <rect class="brush" data-testid="brush" x={Math.min(...d())} y="0" width={Math.abs(d()[1] - d()[0])} height={H} />}
        </Show>
      </svg>
      <Show when={q.error() && !list().length}>
        <div class="timeline-note">No timeline: {q.error()!.message}</div>
      </Show>
      <Show when={!q.error() && q.loading() && !list().length}>
        <div class="timeline-note muted">Loading timeline …</div>
      </Show>
      <div class="legend">
        <Show when={hover() ?? null} fallback={<Legend />}>
          {(b) => <Tip b={b()} step={step()} />}
        </Show>
      </div>
    </div>
  );
}

function Legend() {
  return (
    <>
      <For each={[...STACK].reverse()}>
        {(part) => (
          <span class="key">
            <i class={`swatch ${part}`} />
            {part}
          </span>
        )}
      </For>
      <span class="key">
        <i class="swatch lost" />
        lost
      </span>
      <span class="muted hint">drag to choose a time range</span>
    </>
  );
}

function Tip(p: { b: Bucket; step: number }) {
  const end = () => new Date(Date.parse(p.b.time) + p.step).toISOString();
  return (
    <>
      <b class="mono">
        {clock(p.b.time, undefined, p.step < 1000)} – {clock(end(), undefined, p.step < 1000)}
      </b>
      <For each={[...STACK].reverse().filter((s) => p.b[s] > 0)}>
        {(s) => (
          <span class="key">
            <i class={`swatch ${s}`} />
            {exact(p.b[s])} {s}
          </span>
        )}
      </For>
      <span class="muted">{bytes(p.b.bytes)}</span>
      <Show when={p.b.lost > 0}>
        <span class="key">
          <i class="swatch lost" />
          {exact(p.b.lost)} lost
        </span>
      </Show>
    </>
  );
}
