// The picture: islands, members, edges. Wheel zooms, dragging moves, a click chooses.

import { createEffect, createMemo, createSignal, For, on, onCleanup, onMount, Show } from "solid-js";
import type { MapEdge, MapNode } from "../../api/types";
import { curve, edgeWidth, place } from "../../graph/edges";
import type { Lane, Placed } from "../../graph/layout";
import { Icon } from "../../parts/icon";
import { bytes, count, exact } from "../../state/format";
import { CALLERS, edgeKey, NODES, OUTSIDE, type Graph } from "../../state/map";

interface Props {
  graph: Graph;
  placed: Placed;
  chosen: string | null;
  choose: (id: string | null) => void;
}

const NAMES: Record<string, string> = { [OUTSIDE]: "outside", [CALLERS]: "from outside", [NODES]: "nodes" };

export function Canvas(p: Props) {
  const [view, setView] = createSignal({ x: 0, y: 0, k: 1 });
  const [over, setOver] = createSignal<string | null>(null);
  let svg!: SVGSVGElement;
  let moved = false;
  let grab: { x: number; y: number } | null = null;

  const MARGIN = 28;
  function fit(): void {
    const w = svg.clientWidth - MARGIN * 2;
    const h = svg.clientHeight - MARGIN * 2;
    if (w <= 0 || h <= 0) return;
    // on a narrow page a readable part is better than an unreadable whole
    const k = Math.min(1.25, Math.max(w < 500 ? 0.62 : 0.35, Math.min(w / p.placed.width, h / p.placed.height)));
    const x = p.placed.width * k > w ? MARGIN : MARGIN + (w - p.placed.width * k) / 2;
    const y = p.placed.height * k > h ? MARGIN : MARGIN + (h - p.placed.height * k) / 2;
    setView({ x, y, k });
  }
  const zoom = (f: number, cx = svg.clientWidth / 2, cy = svg.clientHeight / 2) => {
    const v = view();
    const k = Math.min(3, Math.max(0.12, v.k * f));
    setView({ k, x: cx - ((cx - v.x) * k) / v.k, y: cy - ((cy - v.y) * k) / v.k });
  };
  createEffect(on(() => `${p.placed.islands.map((i) => i.id).join()}|${Math.round(p.placed.width)}`, fit));
  onMount(() => {
    const o = new ResizeObserver(fit);
    o.observe(svg);
    const wheel = (e: WheelEvent) => {
      e.preventDefault();
      const r = svg.getBoundingClientRect();
      zoom(Math.exp(-e.deltaY * 0.0015), e.clientX - r.left, e.clientY - r.top);
    };
    svg.addEventListener("wheel", wheel, { passive: false });
    onCleanup(() => {
      o.disconnect();
      svg.removeEventListener("wheel", wheel);
    });
  });

  // what is chosen is not left under the panel that tells of it
  createEffect(
    on(
      () => p.chosen,
      (id) => {
        const b = id === null ? undefined : p.placed.nodes.get(id);
        const free = svg.clientWidth - (svg.clientWidth > 800 ? 460 : 0);
        if (!b) return;
        const right = view().x + (b.x + b.w) * view().k;
        if (right > free) setView((v) => ({ ...v, x: v.x - (right - free) }));
      },
      { defer: true },
    ),
  );

  const focus = () => over() ?? p.chosen;
  const near = createMemo(() => {
    const f = focus();
    if (f === null) return null;
    const set = new Set<string>([f]);
    for (const e of p.graph.edges) {
      const key = edgeKey(e);
      if (key === f || e.source === f || e.target === f) set.add(key).add(e.source).add(e.target);
    }
    return set;
  });
  const dim = (id: string) => near() !== null && !near()!.has(id);
  const drawn = createMemo(() => {
    // edges that share a lane lie beside one another in it
    const sharing = new Map<string, number>();
    const lanes = p.graph.edges.map((e) => (p.placed.nodes.has(e.source) && p.placed.nodes.has(e.target) ? p.placed.lanes(e) : []));
    const laneOf = (l: Lane[]) => (l.length ? `${l[0]!.x0}:${l[0]!.y}` : "");
    const all = lanes.reduce((m, l) => m.set(laneOf(l), (m.get(laneOf(l)) ?? 0) + 1), new Map<string, number>());
    return p.graph.edges
      .map((e, i) => {
        const a = p.placed.nodes.get(e.source);
        const b = p.placed.nodes.get(e.target);
        if (!a || !b) return null;
        const w = edgeWidth(e.bytes);
        const lane = laneOf(lanes[i]!);
        const k = sharing.get(lane) ?? 0;
        sharing.set(lane, k + 1);
        const shift = lane ? (k - (all.get(lane)! - 1) / 2) * Math.min(8, 40 / all.get(lane)!) : 0;
        return { e, key: edgeKey(e), w, ...curve(a, b, w, lanes[i], shift) };
      })
      .filter((d) => d !== null)
      .reverse();
  });
  const keys = createMemo(() => drawn().map((d) => d.key));
  const edgeOf = createMemo(() => new Map(drawn().map((d) => [d.key, d])));
  const ids = createMemo(() => p.graph.nodes.filter((n) => p.placed.nodes.has(n.id)).map((n) => n.id));
  const nodeOf = createMemo(() => new Map(p.graph.nodes.map((n) => [n.id, n])));
  const labels = createMemo(() => {
    const f = near();
    const all = [...drawn()]
      .filter((d) => (f ? f.has(d.key) : d.e.dropped > 0 || drawn().length <= 60))
      .sort((a, b) => Number(b.e.dropped > 0) - Number(a.e.dropped > 0) || b.e.bytes - a.e.bytes)
      .map((d) => {
        const drop = d.e.dropped > 0;
        const text = drop ? `✕ ${count(d.e.dropped)} dropped` : bytes(d.e.bytes);
        return { at: d.at, w: text.length * 6.3 + 12, h: 16, text, key: d.key, drop, must: drop && (f !== null || drawn().length <= 60) };
      });
    return place(all, [...p.placed.nodes.values()]);
  });
  const by = (id: string, e: MouseEvent | KeyboardEvent) => {
    e.stopPropagation();
    if (!moved) p.choose(p.chosen === id ? null : id);
  };
  const press = (id: string) => (e: KeyboardEvent) => {
    if (e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    moved = false;
    by(id, e);
  };
  const told = (e: MapEdge) => {
    const name = (id: string) => nodeOf().get(id)?.name ?? id;
    return `${name(e.source)} to ${name(e.target)}: ${bytes(e.bytes)}, ${exact(e.flows)} flows, ${exact(e.dropped)} dropped, ${e.ports.join(" ")}`;
  };

  return (
    <div class="map-wrap">
      <svg
        ref={svg}
        class="map-canvas"
        data-testid="map-canvas"
        role="group"
        aria-label="Map of who talks to whom. The same is there as a table."
        onPointerDown={(e) => {
          if (e.button !== 0) return;
          moved = false;
          grab = { x: e.clientX, y: e.clientY };
        }}
        onPointerMove={(e) => {
          if (!grab) return;
          const dx = e.clientX - grab.x;
          const dy = e.clientY - grab.y;
          if (!moved && Math.abs(dx) + Math.abs(dy) < 4) return;
          if (!moved) svg.setPointerCapture(e.pointerId);
          moved = true;
          grab = { x: e.clientX, y: e.clientY };
          setView((v) => ({ ...v, x: v.x + dx, y: v.y + dy }));
        }}
        onPointerUp={() => (grab = null)}
        onPointerCancel={() => (grab = null)}
        onClick={() => !moved && p.choose(null)}
      >
        <g transform={`translate(${view().x.toFixed(1)} ${view().y.toFixed(1)}) scale(${view().k.toFixed(3)})`}>
          <For each={p.placed.islands}>
            {(i) => (
              <g class="island" classList={{ outside: i.id === OUTSIDE || i.id === CALLERS }} data-testid="map-island">
                <rect x={i.x} y={i.y} width={i.w} height={i.h} rx="10" />
              </g>
            )}
          </For>
          <For each={keys()}>
            {(key) => (
              <Show when={edgeOf().get(key)}>
                {(d) => (
                  <g
                    class="edge"
                    data-testid="map-edge"
                    classList={{ drop: d().e.dropped > 0, dim: dim(key), on: focus() === key }}
                    tabindex="0"
                    role="button"
                    aria-label={told(d().e)}
                    onPointerEnter={() => setOver(key)}
                    onPointerLeave={() => setOver(null)}
                    onClick={(e) => by(key, e)}
                    onKeyDown={press(key)}
                  >
                    <path class="hit" d={d().path} />
                    <path class="line" d={d().path} stroke-width={d().w} />
                    <path class="tip" d={d().tip} />
                  </g>
                )}
              </Show>
            )}
          </For>
          <For each={p.placed.islands}>
            {(i) => (
              <text class="island-name" x={i.x + 16} y={i.y + 22}>
                {NAMES[i.id] ?? i.id}
              </text>
            )}
          </For>
          <For each={ids()}>
            {(id) => {
              const n = () => nodeOf().get(id)!;
              const b = () => p.placed.nodes.get(id)!;
              return (
                <g
                  class={`node ${n().kind}`}
                  data-testid="map-node"
                  data-id={id}
                  classList={{ dim: dim(id), on: focus() === id }}
                  transform={`translate(${b().x} ${b().y})`}
                  tabindex="0"
                  role="button"
                  aria-label={`${n().kind} ${n().namespace ? `${n().namespace}/` : ""}${n().name}`}
                  onPointerEnter={() => setOver(id)}
                  onPointerLeave={() => setOver(null)}
                  onClick={(e) => by(id, e)}
                  onKeyDown={press(id)}
                >
                  <title>{n().namespace ? `${n().namespace}/${n().name}` : n().name}</title>
                  <rect width={b().w} height={b().h} rx="6" />
                  <Glyph kind={n().kind} />
                  <text x="26" y="18">
                    {n().name.length > 26 ? `${n().name.slice(0, 25)}…` : n().name}
                  </text>
                </g>
              );
            }}
          </For>
          <For each={labels()}>
            {(l) => (
              <g class="label" classList={{ drop: l.drop }} transform={`translate(${l.x.toFixed(1)} ${l.y.toFixed(1)})`}>
                <rect x={-l.w / 2} y={-l.h / 2} width={l.w} height={l.h} rx="4" />
                <text y="4" text-anchor="middle">
                  {l.text}
                </text>
              </g>
            )}
          </For>
        </g>
      </svg>
      <div class="map-tools">
        <button type="button" class="button" aria-label="Zoom in" onClick={() => zoom(1.3)}>
          <Icon name="plus" />
        </button>
        <button type="button" class="button" aria-label="Zoom out" onClick={() => zoom(1 / 1.3)}>
          <Icon name="minus" />
        </button>
        <button type="button" class="button" aria-label="Fit" title="Fit" onClick={fit}>
          <Icon name="fit" />
        </button>
      </div>
      <div class="map-legend" aria-hidden="true">
        <svg viewBox="0 0 30 10">
          <path class="line" d="M1 5h28" stroke-width="1.5" />
        </svg>
        <svg viewBox="0 0 30 10">
          <path class="line" d="M1 5h28" stroke-width="5" />
        </svg>
        wider: more bytes
        <svg viewBox="0 0 30 10" class="drop">
          <path class="line" d="M1 5h28" stroke-width="1.8" />
          <path class="cross" d="M12 2l6 6m0-6l-6 6" />
        </svg>
        something dropped
      </div>
    </div>
  );
}

const GLYPHS: Record<string, string> = {
  workload: "M9 14a4.5 4.5 0 1 0 9 0 4.5 4.5 0 1 0-9 0",
  pod: "M9.5 11.8l4-2.3 4 2.3v4.4l-4 2.3-4-2.3z",
  service: "M9.5 9.5h8v9h-8z",
  host: "M9 10h9v3.2H9zM9 15h9v3.2H9z",
  world: "M9 14a4.5 4.5 0 1 0 9 0 4.5 4.5 0 1 0-9 0M9 14h9M13.5 9.5c-3 3-3 6 0 9c3-3 3-6 0-9",
  name: "M9 14a4.5 4.5 0 1 0 9 0 4.5 4.5 0 1 0-9 0M9 14h9M13.5 9.5c-3 3-3 6 0 9c3-3 3-6 0-9",
};

const Glyph = (p: { kind: MapNode["kind"] }) => <path class="glyph" d={GLYPHS[p.kind] ?? GLYPHS.workload} />;
