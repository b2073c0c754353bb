// One flow: what happened and why, both ends, its intervals, every field; to be copied as a command, SQL, curl.

import { For, Show } from "solid-js";
import * as api from "../../api/client";
import type { Flow } from "../../api/types";
import { Icon } from "../../parts/icon";
import { go, page } from "../../routes";
import { bytesOf, end, packetsOf, reasonOf } from "../../state/ends";
import { field } from "../../state/fields";
import { curl, flowObserve } from "../../state/copy";
import { bytes, clock, duration, exact, hostPort, micros, plural } from "../../state/format";
import { judge } from "../../state/health";
import { createQuery } from "../../state/query";
import { fromAnswer } from "../../state/rows";
import { flowSql } from "../../state/sql";
import { copy, now } from "../../state/store";
import { verdictName, VerdictMark } from "../verdict";
import { Val } from "./table";

const GROUPS: [string, RegExp][] = [
  ["Verdict", /^(verdict|drop_|policy_|policies_|attempts)/],
  ["Source", /^source_/],
  ["Destination", /^(destination_|backend_)/],
  ["Transport", /^(protocol|ip_version|tcp_|retransmits|rtt_us|connect_us|closed)/],
  ["Counters", /^(packets_|bytes_|estimated)/],
  ["Process", /^(process_name|pid)/],
  ["Seen by", /^(cluster|node|interface|reporter|direction)/],
  ["Record", /./],
];

function grouped(f: Flow): { name: string; fields: [string, unknown][] }[] {
  const out = GROUPS.map(([name]) => ({ name, fields: [] as [string, unknown][] }));
  for (const [k, v] of Object.entries(f)) {
    if (v === null || v === undefined) continue;
    out[GROUPS.findIndex(([, re]) => re.test(k))]!.fields.push([k, v]);
  }
  return out.filter((g) => g.fields.length);
}

const show = (k: string, v: unknown): string => {
  if (Array.isArray(v)) return v.join(", ");
  if (typeof v === "number" && /^bytes_/.test(k)) return v >= 10_000 ? `${exact(v)} (${bytes(v)})` : exact(v);
  if (typeof v === "number" && /_us$/.test(k)) return micros(v);
  if (typeof v === "number" && /^packets_|attempts|retransmits/.test(k)) return exact(v);
  return String(v);
};

const FILTER_AS: Record<string, string> = { process_name: "process", destination_service: "service" };

export function Detail(p: { id: string; flow: Flow | undefined; close: () => void }) {
  const q = createQuery(
    () => p.id,
    (id, s) => api.flow(id, s),
  );
  const merged = () => {
    const a = q.data();
    return a?.intervals.length ? fromAnswer(a.intervals)[0]!.flow : undefined;
  };
  const f = () => merged() ?? p.flow;
  const took = (f: Flow) => Date.parse(f.end_time) - Date.parse(f.start_time);
  return (
    <aside class="detail" data-testid="flow-detail" aria-label="Flow">
      <header>
        <h2 class="mono" title={p.id}>
          {p.id}
        </h2>
        <button type="button" class="button quiet" aria-label="Close" title="Close (Esc)" onClick={p.close}>
          <Icon name="close" />
        </button>
      </header>
      <Show
        when={f()}
        fallback={
          <div class="detail-body">
            <p class="muted">{q.error() ? q.error()!.message : "Loading …"}</p>
            <Show when={q.error()?.hint}>
              <p class="muted">{q.error()!.hint}</p>
            </Show>
          </div>
        }
      >
        {(f) => (
          <div class="detail-body">
            <div class={`headline ${(f().verdict ?? "").toLowerCase()}`}>
              <VerdictMark verdict={f().verdict} />
              <b>{verdictName(f().verdict)}</b>
              <span>{f().protocol}</span>
              <span class="muted">
                {clock(f().start_time, now())}, {duration(took(f()))}
                {f().closed ? "" : ", still open"}
              </span>
            </div>
            <p class="why-text">{q.data()?.reason || reasonOf(f()) || "No reason was recorded."}</p>
            <div class="ends">
              <EndCard flow={f()} side="source" />
              <div class="between" aria-hidden="true">
                ↓
              </div>
              <EndCard flow={f()} side="destination" />
            </div>
            <dl class="tiles">
              <div>
                <dt title={`as counted at ${f().node ?? "?"} ${f().interface ?? ""}`}>Bytes out / in</dt>
                <dd>
                  {bytes(f().bytes_out)} / {bytes(f().bytes_in)}
                </dd>
              </div>
              <div>
                <dt>Packets out / in</dt>
                <dd>
                  {exact(f().packets_out)} / {exact(f().packets_in)}
                </dd>
              </div>
              <div>
                <dt>RTT</dt>
                <dd>{micros(f().rtt_us)}</dd>
              </div>
              <div>
                <dt>Connect</dt>
                <dd>{micros(f().connect_us)}</dd>
              </div>
            </dl>
            <div class="actions">
              <button type="button" class="button" onClick={() => copy(flowObserve(f()), "weir observe")}>
                <Icon name="copy" />
                weir observe
              </button>
              <button type="button" class="button" onClick={() => copy(flowSql(f()), "SQL")}>
                <Icon name="copy" />
                SQL
              </button>
              <button type="button" class="button" onClick={() => copy(curl(api.absoluteBase(), `flows/${encodeURIComponent(p.id)}`), "curl")}>
                <Icon name="copy" />
                curl
              </button>
              <button type="button" class="button" onClick={() => copy(`weir why ${p.id}`, "weir why")}>
                <Icon name="copy" />
                weir why
              </button>
            </div>
            <Show when={q.data()}>
              {(a) => (
                <>
                  <Show when={!judge(a().completeness).text.startsWith("Complete")}>
                    <p class="note warn">{judge(a().completeness).why.join(" ")}</p>
                  </Show>
                  <Show when={a().ends.length}>
                    <h3>Seen at</h3>
                    <ul class="seen">
                      <For each={a().ends}>
                        {(e) => (
                          <li>
                            <span>{e.node}</span> <span class="mono muted">{e.interface}</span> <span class="muted">{e.reporter?.toLowerCase()}</span>
                          </li>
                        )}
                      </For>
                    </ul>
                  </Show>
                  <h3>{plural(a().intervals.length, "interval")}</h3>
                  <Intervals rows={a().intervals} />
                </>
              )}
            </Show>
            <Show when={!q.data() && q.error()}>
              <p class="note warn">History of this flow is not there: {q.error()!.message}</p>
            </Show>
            <h3>All fields</h3>
            <For each={grouped(f())}>
              {(g) => (
                <dl class="fields">
                  <h4>{g.name}</h4>
                  <For each={g.fields}>
                    {([k, v]) => (
                      <div>
                        <dt>{k}</dt>
                        <dd class="mono">
                          <Show when={field(FILTER_AS[k] ?? k) && !Array.isArray(v)} fallback={show(k, v)}>
                            <Val token={{ field: FILTER_AS[k] ?? k, value: String(v), not: false }}>{show(k, v)}</Val>
                          </Show>
                        </dd>
                      </div>
                    )}
                  </For>
                </dl>
              )}
            </For>
            <div class="actions">
              <button type="button" class="button" onClick={() => go({ view: "sql", sql: flowSql(f()), flow: null })}>
                Open in SQL
              </button>
              <button
                type="button"
                class="button"
                onClick={() => go({ tokens: [...page.tokens.filter((t) => t.field !== "flow_id"), { field: "flow_id", value: p.id, not: false }] })}
              >
                Only this flow
              </button>
            </div>
          </div>
        )}
      </Show>
    </aside>
  );
}

function EndCard(p: { flow: Flow; side: "source" | "destination" }) {
  const e = () => end(p.flow, p.side);
  return (
    <div class="end-card">
      <span class="tag">{p.side}</span>
      <div>
        <b>
          {e().namespace ? <span class="ns">{e().namespace}/</span> : null}
          {e().name}
        </b>
        <div class="mono muted">
          {e().address}
          {p.side === "destination" && p.flow.backend_ip && p.flow.backend_ip !== p.flow.destination_ip
            ? ` → ${hostPort(p.flow.backend_ip, p.flow.backend_port)}`
            : ""}
        </div>
        <Show when={p.flow[`${p.side}_workload`] && e().kind === "pod"}>
          <div class="muted">
            {p.flow[`${p.side}_workload_kind`]} {p.flow[`${p.side}_workload`]}
            {p.flow[`${p.side}_node`] ? ` on ${p.flow[`${p.side}_node`]}` : ""}
          </div>
        </Show>
      </div>
    </div>
  );
}

function Intervals(p: { rows: readonly Flow[] }) {
  return (
    <div class="scroll-x">
      <table class="grid">
        <thead>
          <tr>
            <th class="num">#</th>
            <th>Time</th>
            <th aria-label="Verdict" />
            <th class="num">Bytes</th>
            <th class="num">Packets</th>
            <th class="num">RTT</th>
            <th>Seen by</th>
          </tr>
        </thead>
        <tbody>
          <For each={p.rows}>
            {(i) => (
              <tr>
                <td class="num">{i.seq ?? "–"}</td>
                <td class="mono">{clock(i.start_time, now())}</td>
                <td>
                  <span class={`verdict ${(i.verdict ?? "").toLowerCase()}`} title={verdictName(i.verdict)}>
                    <VerdictMark verdict={i.verdict} />
                  </span>
                </td>
                <td class="num">{bytes(bytesOf(i))}</td>
                <td class="num">{exact(packetsOf(i))}</td>
                <td class="num">{micros(i.rtt_us)}</td>
                <td class="muted">
                  {i.node} {i.interface}
                </td>
              </tr>
            )}
          </For>
        </tbody>
      </table>
    </div>
  );
}
