// Rows of the flows table. A click on a value filters by it, with Alt it excludes it, elsewhere it opens the flow.

import { For, Show, type JSX } from "solid-js";
import { addFilter } from "../../routes";
import { bytesOf, end, endToken, packetsOf, reasonOf, type Side } from "../../state/ends";
import type { Token } from "../../state/filters";
import { bytes, clock, count, exact, micros } from "../../state/format";
import type { FlowRow, GapRow, Row } from "../../state/rows";
import { now } from "../../state/store";
import { verdictName, VerdictMark } from "../verdict";

export type SortKey = "time" | "verdict" | "source" | "destination" | "protocol" | "bytes" | "packets" | "rtt" | "node" | "reason";

const COLUMNS: { key: SortKey; name: string; num?: boolean }[] = [
  { key: "time", name: "Time" },
  { key: "verdict", name: "Verdict" },
  { key: "source", name: "Source" },
  { key: "destination", name: "Destination" },
  { key: "protocol", name: "Proto" },
  { key: "bytes", name: "Bytes", num: true },
  { key: "packets", name: "Packets", num: true },
  { key: "rtt", name: "RTT", num: true },
  { key: "node", name: "Node" },
  { key: "reason", name: "Reason" },
];

const VALUE: Record<SortKey, (r: FlowRow) => string | number | undefined> = {
  time: (r) => r.time,
  verdict: (r) => r.flow.verdict,
  source: (r) => `${end(r.flow, "source").namespace ?? ""}/${end(r.flow, "source").name}`,
  destination: (r) => `${end(r.flow, "destination").namespace ?? ""}/${end(r.flow, "destination").name}`,
  protocol: (r) => r.flow.protocol,
  bytes: (r) => bytesOf(r.flow),
  packets: (r) => packetsOf(r.flow),
  rtt: (r) => r.flow.rtt_us,
  node: (r) => r.flow.node,
  reason: (r) => reasonOf(r.flow) || undefined,
};

/** Unknown is last, whichever way the rest is sorted. */
export function sortRows(rows: readonly FlowRow[], key: SortKey, up: boolean): FlowRow[] {
  const value = VALUE[key];
  return [...rows].sort((a, b) => {
    const x = value(a);
    const y = value(b);
    if (x === undefined || y === undefined) return Number(x === undefined) - Number(y === undefined);
    return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
  });
}

export function Head(p: { sort: { key: SortKey; up: boolean } | null; set?: (s: { key: SortKey; up: boolean } | null) => void }) {
  const click = (c: { key: SortKey; num?: boolean }) => {
    const s = p.sort;
    const first = c.num || c.key === "time" ? false : true;
    p.set?.(s?.key !== c.key ? { key: c.key, up: first } : s.up === first ? { key: c.key, up: !first } : null);
  };
  return (
    <div class="flow-row head" role="row">
      <For each={COLUMNS}>
        {(c) => (
          <span role="columnheader" classList={{ num: c.num }} aria-sort={p.sort?.key === c.key ? (p.sort.up ? "ascending" : "descending") : undefined}>
            <Show when={p.set} fallback={c.name}>
              <button type="button" onClick={() => click(c)}>
                {c.name}
                {p.sort?.key === c.key ? (p.sort.up ? " ↑" : " ↓") : ""}
              </button>
            </Show>
          </span>
        )}
      </For>
    </div>
  );
}

interface RowProps {
  row: Row;
  compact: boolean;
  chosen: boolean;
  open: boolean;
  onOpen: () => void;
}

export function RowView(p: RowProps) {
  return p.row.kind === "gap" ? <GapView row={p.row} /> : p.compact ? <CompactRow {...p} row={p.row} /> : <WideRow {...p} row={p.row} />;
}

function GapView(p: { row: GapRow }) {
  return (
    <div class="flow-row gap" role="row" data-testid="gap-row">
      <span role="cell" class="mono">
        {clock(p.row.time, now())}
      </span>
      <span role="cell" class="gap-text" title={p.row.cause}>
        <b>{p.row.lost === null ? "Gap" : `${exact(p.row.lost)} not shown`}</b> {p.row.cause}
      </span>
    </div>
  );
}

export function Val(p: { token: Token; children: JSX.Element; class?: string; title?: string }) {
  return (
    <button
      type="button"
      class={`val ${p.class ?? ""}`}
      tabindex="-1"
      title={`${p.title ? `${p.title}\n` : ""}Click: only this. Alt-click: all but this`}
      onClick={(e) => {
        e.stopPropagation();
        addFilter({ ...p.token, not: e.altKey });
      }}
    >
      {p.children}
    </button>
  );
}

function EndView(p: { row: FlowRow; side: Side }) {
  const e = () => end(p.row.flow, p.side);
  const port = () => (p.side === "destination" ? e().port : undefined);
  return (
    <span role="cell" class="end">
      <Show when={e().namespace}>
        {(ns) => (
          <>
            <Val token={{ field: `${p.side}_namespace`, value: ns(), not: false }} class="ns">
              {ns()}
            </Val>
            <span class="slash">/</span>
          </>
        )}
      </Show>
      <Val token={endToken(p.row.flow, p.side)} class={`name ${e().kind === "ip" ? "mono" : ""}`} title={e().address}>
        {e().kind === "ip" ? (p.row.flow[`${p.side}_ip`] ?? "–") : e().name}
      </Val>
      <Show when={port()}>
        {(n) => (
          <Val token={{ field: "destination_port", value: String(n()), not: false }} class="port mono">
            :{n()}
          </Val>
        )}
      </Show>
    </span>
  );
}

function WideRow(p: Omit<RowProps, "row"> & { row: FlowRow }) {
  const f = p.row.flow;
  return (
    <div
      class="flow-row"
      classList={{ chosen: p.chosen, open: p.open, dropped: f.verdict === "DROPPED" || f.verdict === "ERROR" }}
      role="row"
      data-testid="flow-row"
      data-flow-id={f.flow_id}
      onClick={() => p.onOpen()}
    >
      <span role="cell" class="mono time-cell" title={`${f.start_time} – ${f.end_time}`}>
        {clock(p.row.time, now())}
      </span>
      <span role="cell">
        <Val token={{ field: "verdict", value: f.verdict ?? "", not: false }} class={`verdict ${(f.verdict ?? "").toLowerCase()}`}>
          <VerdictMark verdict={f.verdict} />
          {verdictName(f.verdict)}
        </Val>
      </span>
      <EndView row={p.row} side="source" />
      <EndView row={p.row} side="destination" />
      <span role="cell">
        <Val token={{ field: "protocol", value: f.protocol ?? "", not: false }}>{f.protocol ?? "–"}</Val>
      </span>
      <span role="cell" class="num" title={`out ${exact(f.bytes_out)}, in ${exact(f.bytes_in)}`}>
        {bytes(bytesOf(f))}
      </span>
      <span role="cell" class="num" title={`out ${exact(f.packets_out)}, in ${exact(f.packets_in)}`}>
        {count(packetsOf(f))}
      </span>
      <span role="cell" class="num">
        {micros(f.rtt_us)}
      </span>
      <span role="cell">
        <Val token={{ field: "node", value: f.node ?? "", not: false }}>{f.node ?? "–"}</Val>
      </span>
      <span role="cell" class="reason" title={reasonOf(f)}>
        <Show when={f.drop_reason} fallback={<span class="muted">{reasonOf(f)}</span>}>
          <Val token={{ field: "drop_reason", value: f.drop_reason!, not: false }} class="why">
            {f.drop_reason}
          </Val>
          <span class="muted">{reasonOf(f).slice(f.drop_reason!.length)}</span>
        </Show>
      </span>
    </div>
  );
}

function CompactRow(p: Omit<RowProps, "row"> & { row: FlowRow }) {
  const f = p.row.flow;
  const s = () => end(f, "source");
  const d = () => end(f, "destination");
  return (
    <div
      class="flow-row compact"
      classList={{ chosen: p.chosen, open: p.open, dropped: f.verdict === "DROPPED" || f.verdict === "ERROR" }}
      role="row"
      data-testid="flow-row"
      data-flow-id={f.flow_id}
      onClick={() => p.onOpen()}
    >
      <span role="cell" class="line">
        <span class={`verdict ${(f.verdict ?? "").toLowerCase()}`}>
          <VerdictMark verdict={f.verdict} />
          {verdictName(f.verdict)}
        </span>
        <span class="mono muted">{clock(p.row.time, now(), false)}</span>
        <span class="grow" />
        <span class="muted">{f.drop_reason ?? bytes(bytesOf(f))}</span>
      </span>
      <span role="cell" class="line pair">
        <span class="one">{s().kind === "ip" ? f.source_ip : s().name}</span>
        <span class="arrow">→</span>
        <span class="one">{d().kind === "ip" ? f.destination_ip : d().name}</span>
        <span class="mono muted">
          {f.destination_port ? `:${f.destination_port}` : ""} {f.protocol}
        </span>
      </span>
    </div>
  );
}
