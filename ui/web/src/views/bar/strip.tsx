// Health at a glance, always in sight: who reports, how fast, how late, what was lost, is it complete.

import { For, Show } from "solid-js";
import type { Completeness } from "../../api/types";
import { Icon } from "../../parts/icon";
import { Popover } from "../../parts/popover";
import { go } from "../../routes";
import { clock, count, duration, exact, rate } from "../../state/format";
import { judge, lostText, maxLag } from "../../state/health";
import { liveStatus, lost, nodes, shown, status } from "../../state/store";

export function HealthStrip() {
  const s = status.data;
  const c = (): Completeness | undefined => shown()?.completeness ?? liveStatus()?.completeness ?? s()?.completeness;
  const verdict = () => judge(c());
  const lag = () => c()?.late_ms ?? maxLag(nodes.data()?.nodes ?? []);
  const missing = () => (s() ? s()!.nodes.expected - s()!.nodes.reporting : 0);
  return (
    <div class="strip" data-testid="health-strip" classList={{ stale: lost() }} role="group" aria-label="Health">
      <Show when={s()} fallback={<span class="muted">{lost() ? "Disconnected" : "Connecting …"}</span>}>
        <button type="button" class="stat" title="Nodes reporting, of those expected" onClick={() => go({ view: "health", flow: null })}>
          <span class={`dot ${lost() ? "unknown" : missing() > 0 ? "bad" : "good"}`} />
          <b>
            {s()!.nodes.reporting}/{s()!.nodes.expected}
          </b>
          <span class="unit">nodes</span>
        </button>
        <span class="stat wide" title="Flow records per second">
          <b>{rate(liveStatus()?.rate ?? s()!.flows_per_s)}</b>
          <span class="unit">flows/s</span>
        </span>
        <span class="stat wide" classList={{ warn: (lag() ?? 0) > 10_000 }} title="How far the slowest node is behind">
          <span class="unit">lag</span>
          <b>{duration(lag())}</b>
        </span>
        <span class="stat wide" classList={{ warn: (c()?.lost_events ?? 0) > 0 }} title={`Events lost: ${exact(c()?.lost_events)}`}>
          <span class="unit">lost</span>
          <b>{count(c()?.lost_events)}</b>
        </span>
      </Show>
      <Popover
        class={`complete ${lost() ? "unknown" : verdict().level}`}
        testid="completeness"
        align="right"
        title="How complete is what is on screen"
        label={
          <>
            <Icon name={verdict().level === "good" && !lost() ? "check" : verdict().level === "unknown" || lost() ? "help" : "warn"} />
            <span>{lost() ? "Not known" : verdict().text}</span>
          </>
        }
      >
        {(close) => (
          <div class="complete-panel">
            <h3>{verdict().level === "good" ? "Nothing is missing" : verdict().text}</h3>
            <p class="muted">
              {shown()?.what ?? "Now"}
              <Show when={c()?.from && c()?.until}>
                , {clock(c()!.from, undefined, false)} to {clock(c()!.until, undefined, false)}
              </Show>
            </p>
            <ul>
              <For each={verdict().why}>{(w) => <li>{w}</li>}</For>
            </ul>
            <Show when={c()}>
              {(c) => (
                <dl class="facts">
                  <div>
                    <dt>Nodes</dt>
                    <dd>
                      {c().nodes_reporting} of {c().nodes_expected}
                    </dd>
                  </div>
                  <div>
                    <dt>Events lost</dt>
                    <dd>{exact(c().lost_events)}</dd>
                  </div>
                  <div>
                    <dt>Flow records lost</dt>
                    <dd>{exact(c().lost_flows)}</dd>
                  </div>
                  <div>
                    <dt>Bytes without a flow</dt>
                    <dd>{exact(c().unattributed_bytes)}</dd>
                  </div>
                  <div>
                    <dt>Behind by</dt>
                    <dd>{duration(c().late_ms)}</dd>
                  </div>
                </dl>
              )}
            </Show>
            <Show when={c()?.causes?.length}>
              <table class="grid">
                <thead>
                  <tr>
                    <th>Stage</th>
                    <th>Cause</th>
                    <th>Node</th>
                    <th>Lost</th>
                  </tr>
                </thead>
                <tbody>
                  <For each={c()!.causes}>
                    {(x) => (
                      <tr>
                        <td>{x.stage}</td>
                        <td>{x.cause}</td>
                        <td>{x.node ?? "–"}</td>
                        <td>{lostText(x)}</td>
                      </tr>
                    )}
                  </For>
                </tbody>
              </table>
            </Show>
            <button
              type="button"
              class="button"
              onClick={() => {
                close();
                go({ view: "health", flow: null });
              }}
            >
              Open health
            </button>
          </div>
        )}
      </Popover>
    </div>
  );
}
