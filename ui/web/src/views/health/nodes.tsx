// One row per node; opened it shows what is on, what is off and why, and the balance of its interfaces.

import { createSignal, For, Show } from "solid-js";
import type { NodeInfo } from "../../api/types";
import { Icon } from "../../parts/icon";
import { go, page } from "../../routes";
import { add } from "../../state/filters";
import { ago, bytes, duration, exact, rate } from "../../state/format";
import { nodeLevel } from "../../state/health";
import { now } from "../../state/store";

export function Nodes(p: { nodes: readonly NodeInfo[] }) {
  const sorted = () => {
    const bad = { bad: 0, warn: 1, unknown: 2, good: 3 };
    return [...p.nodes].sort((a, b) => bad[nodeLevel(a)] - bad[nodeLevel(b)] || (a.name < b.name ? -1 : 1));
  };
  const names = () => sorted().map((n) => n.name);
  const [shut, setShut] = createSignal<ReadonlySet<string>>(new Set());
  const toggle = (name: string) =>
    setShut((s) => {
      const n = new Set(s);
      if (!n.delete(name)) n.add(name);
      return n;
    });
  // few nodes: all open; many: closed until asked
  const open = (name: string) => (p.nodes.length <= 4) !== shut().has(name);
  return (
    <div class="nodes" data-testid="nodes">
      <For each={names()}>
        {(name) => {
          const n = () => p.nodes.find((x) => x.name === name)!;
          return (
            <article class="node-card" data-testid="node-card">
              <button type="button" class="node-head" aria-expanded={open(name)} onClick={() => toggle(name)}>
                <span class={`dot ${nodeLevel(n())}`} />
                <b>{name}</b>
                <span class="muted mono">{n().address ?? ""}</span>
                <span class="node-stats">
                  <Show
                    when={n().connected}
                    fallback={
                      <span class="bad-text">
                        not connected, last seen {ago(n().last_seen, now())}
                      </span>
                    }
                  >
                    <span>
                      lag <b>{duration(n().lag_ms)}</b>
                    </span>
                    <span>
                      <b>{rate(n().flows_per_s)}</b> flows/s
                    </span>
                  </Show>
                  <span classList={{ "warn-text": (n().lost_events ?? 0) > 0 }}>
                    lost <b>{exact(n().lost_events)}</b>
                  </span>
                  <span class="muted">
                    {n().mode} {n().version}
                  </span>
                </span>
              </button>
              <Show when={open(name)}>
                <div class="node-body">
                  <Features node={n()} />
                  <Interfaces node={n()} />
                  <div>
                    <button type="button" class="button small" onClick={() => go({ view: "flows", tokens: add(page.tokens, { field: "node", value: name, not: false }) })}>
                      Its flows
                    </button>
                  </div>
                </div>
              </Show>
            </article>
          );
        }}
      </For>
    </div>
  );
}

function Features(p: { node: NodeInfo }) {
  return (
    <ul class="features">
      <For each={[...(p.node.features ?? [])].sort((a, b) => Number(a.on) - Number(b.on))} fallback={<li class="muted">The node did not say which features it has.</li>}>
        {(f) => (
          <li classList={{ off: !f.on }}>
            <Icon name={f.on ? "check" : "minus"} />
            <span class="mono">{f.name}</span>
            <span class="muted">{f.on ? (f.why ?? "") : `off: ${f.why ?? "no reason given"}`}</span>
          </li>
        )}
      </For>
    </ul>
  );
}

function Interfaces(p: { node: NodeInfo }) {
  return (
    <Show when={p.node.interfaces?.length} fallback={<p class="muted">No interface is counted.</p>}>
      <div class="scroll-x">
        <table class="grid">
          <thead>
            <tr>
              <th>Interface</th>
              <th class="num">Received</th>
              <th class="num">Sent</th>
              <th class="num">Not attributed</th>
              <th>Balance</th>
            </tr>
          </thead>
          <tbody>
            <For each={p.node.interfaces}>
              {(i) => {
                const all = () => i.rx_bytes + i.tx_bytes;
                return (
                  <tr>
                    <td class="mono">{i.name}</td>
                    <td class="num">{bytes(i.rx_bytes)}</td>
                    <td class="num">{bytes(i.tx_bytes)}</td>
                    <td class="num" title={exact(i.unattributed_bytes)}>
                      {bytes(i.unattributed_bytes)}
                    </td>
                    <td classList={{ "warn-text": i.unattributed_bytes > 0 }}>
                      {i.unattributed_bytes === 0
                        ? "every byte has a flow"
                        : `${all() ? ((100 * i.unattributed_bytes) / all()).toPrecision(2) : "?"} % has no flow`}
                    </td>
                  </tr>
                );
              }}
            </For>
          </tbody>
        </table>
      </div>
    </Show>
  );
}
