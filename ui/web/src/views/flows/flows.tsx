// Flows: the timeline above, the table below, the open flow beside it.

import { createEffect, createMemo, createSignal, onCleanup, Show } from "solid-js";
import * as api from "../../api/client";
import { Icon } from "../../parts/icon";
import { useKeys } from "../../parts/keys";
import { useMedia } from "../../parts/media";
import { Empty, Failed, Loading } from "../../parts/state";
import { Virtual } from "../../parts/virtual";
import { go, page } from "../../routes";
import { clock, exact, plural } from "../../state/format";
import { setShown, status } from "../../state/store";
import { LIVE } from "../../state/time";
import { toParams } from "../../state/filters";
import { CopyMenu } from "./copymenu";
import { Detail } from "./detail";
import { useHistory, useLive } from "./source";
import { Head, RowView, sortRows, type SortKey } from "./table";
import { Timeline } from "./timeline";
import type { FlowRow, Row } from "../../state/rows";

export function Flows() {
  const isLive = () => page.range.kind === "live";
  const live = useLive(isLive);
  const history = useHistory(() => !isLive());
  const compact = useMedia("(max-width: 760px)");
  const [sort, setSort] = createSignal<{ key: SortKey; up: boolean } | null>(null);
  const [at, setAt] = createSignal(-1);
  let list: HTMLDivElement | undefined;

  const rows = createMemo<readonly Row[]>(() => {
    if (isLive()) return live.rows();
    const s = sort();
    return s ? sortRows(history.rows(), s.key, s.up) : history.rows();
  });
  const height = () => (compact() ? 52 : 28);
  const open = (r: Row | undefined) => r?.kind === "flow" && go({ flow: r.flow.flow_id }, page.flow !== null);
  // j and k hold on to the row, not to its number: live rows push it down
  const [chosen, setChosen] = createSignal<string | null>(null);
  createEffect(() => {
    const key = chosen();
    if (key !== null) setAt(rows().findIndex((r) => r.key === key));
  });

  function move(by: number): void {
    const n = rows().length;
    if (!n) return;
    if (isLive()) live.pause("key");
    let next = Math.min(n - 1, Math.max(0, (at() < 0 ? (by > 0 ? -1 : 0) : at()) + by));
    while (rows()[next]?.kind === "gap" && next + by >= 0 && next + by < n) next += by;
    setAt(next);
    setChosen(rows()[next]?.key ?? null);
    if (page.flow) open(rows()[next]);
    if (!list) return;
    const head = compact() ? 0 : 28;
    const top = next * height();
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + height() + head > list.scrollTop + list.clientHeight) list.scrollTop = top + height() + head - list.clientHeight;
  }
  const toggle = () => {
    if (!isLive()) return go({ range: LIVE });
    if (live.paused()) {
      list?.scrollTo({ top: 0 });
      live.resume();
    } else live.pause("asked");
  };
  useKeys({
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    Enter: () => open(rows()[at()]),
    Escape: () => page.flow && go({ flow: null }),
    " ": toggle,
    r: () => !isLive() && history.again(),
  });
  const scrolled = (top: number) => {
    if (!isLive()) return;
    if (top > 4) live.pause("scroll");
    else if (live.pausedBy() === "scroll") live.resume();
  };
  onCleanup(() => setShown(undefined));

  const opened = () => rows().find((r): r is FlowRow => r.kind === "flow" && r.flow.flow_id === page.flow)?.flow;
  const error = () => (isLive() ? undefined : history.error());

  return (
    <div class="flows" classList={{ split: page.flow !== null }}>
      <div class="flows-main">
        <Timeline />
        <div class="toolbar">
          <button
            type="button"
            class="button live-toggle"
            classList={{ on: isLive() && !live.paused() }}
            aria-pressed={isLive() && !live.paused()}
            data-testid="live-toggle"
            title={isLive() ? "Pause or follow (space)" : "Follow live"}
            onClick={toggle}
          >
            <Icon name={isLive() && !live.paused() ? "pause" : "play"} />
            {isLive() ? (live.paused() ? "Resume" : "Pause") : "Go live"}
          </button>
          <Show when={isLive() && live.state().kind === "lost"}>
            <span class="note bad" data-testid="stream-lost">
              Stream interrupted, reconnecting …
            </span>
          </Show>
          <Show when={isLive() && live.paused()}>
            <button type="button" class="held" data-testid="held" onClick={toggle}>
              {live.held() > 0 ? `${exact(live.held())} new held` : "Paused"}
              {live.pausedBy() === "scroll" ? " while you read" : ""}
            </button>
          </Show>
          <span class="muted count" data-testid="row-count">
            {plural(rows().filter((r) => r.kind === "flow").length, "connection")}
            {isLive() && live.evicted() > 0 ? `, ${exact(live.evicted())} older ones left the page (they are in history)` : ""}
            {!isLive() && history.full() ? `, the newest ${exact(history.limit())} records` : ""}
          </span>
          <Show when={!isLive() && history.at() > 0}>
            <button type="button" class="button quiet" title="Ask again (r)" disabled={history.loading()} onClick={history.again} data-testid="refresh">
              <Icon name="again" />
              as of {clock(new Date(history.at()).toISOString(), undefined, false)}
            </button>
          </Show>
          <span class="grow" />
          <CopyMenu />
        </div>
        <Show when={!error()} fallback={<Failed error={error()!} again={history.again} />}>
          <Show when={rows().length > 0} fallback={<Nothing waiting={isLive() ? !live.ready() : history.loading()} live={isLive()} />}>
            <Virtual
              class={`flow-list ${compact() ? "compact" : ""}`}
              label="Flows"
              testid="flows-table"
              rows={rows()}
              height={height()}
              ref={(el) => (list = el)}
              onScroll={scrolled}
              head={
                <Show when={!compact()}>
                  <Head sort={isLive() ? null : sort()} set={isLive() ? undefined : setSort} />
                </Show>
              }
              row={(r, i) => (
                <RowView
                  row={r}
                  compact={compact()}
                  chosen={i() === at()}
                  open={r.kind === "flow" && page.flow === r.flow.flow_id}
                  onOpen={() => {
                    setAt(i());
                    setChosen(r.key);
                    open(r);
                  }}
                />
              )}
              foot={
                <Show when={!isLive() && history.full()}>
                  <div class="more">
                    <button type="button" class="button" disabled={history.loading()} onClick={history.more}>
                      {history.loading() ? "Loading …" : "Load older"}
                    </button>
                  </div>
                </Show>
              }
            />
          </Show>
        </Show>
      </div>
      <Show when={page.flow}>
        {(id) => <Detail id={id()} flow={opened()} close={() => go({ flow: null })} />}
      </Show>
    </div>
  );
}

/** No rows: each cause has its own words. */
function Nothing(p: { waiting: boolean; live: boolean }) {
  const [wider, setWider] = createSignal<number | null>(null);
  createEffect(() => {
    if (p.waiting || !page.tokens.length) return;
    const stop = new AbortController();
    onCleanup(() => stop.abort());
    const params = toParams(page.tokens);
    void api
      .flows([["since", "24h"], ["limit", "1"], ...params], stop.signal)
      .then((a) => setWider(a.flows.length), () => setWider(null));
  });
  const s = () => status.data();
  return (
    <Show when={!p.waiting} fallback={<Loading what="flows" rows={12} />}>
      <Empty title={page.tokens.length ? "No flow matches" : p.live ? "No flows yet" : "No flows in this time range"}>
        <Show when={page.tokens.length > 0}>
          <p>
            {wider() === null
              ? "Nothing in this time range passes the filter."
              : wider()! > 0
                ? "Nothing in this time range, but there are matches in the last 24 hours."
                : "Nothing in the last 24 hours passes this filter either."}
          </p>
        </Show>
        <Show when={s()}>
          {(s) => (
            <p class="muted">
              {s().nodes.reporting} of {plural(s().nodes.expected, "node")} reporting, {exact(Math.round(s().flows_per_s))} flows/s,{" "}
              {exact(s().flows_stored)} stored{s().nodes.reporting === 0 ? ". Is weir-agent running on the nodes?" : "."}
            </p>
          )}
        </Show>
        <div class="actions">
          <Show when={page.tokens.length > 0}>
            <button type="button" class="button" onClick={() => go({ tokens: [] })}>
              Clear the filter
            </button>
          </Show>
          <Show when={(page.range.kind !== "last" || page.range.span !== "24h") && wider() !== 0}>
            <button type="button" class="button" onClick={() => go({ range: { kind: "last", span: "24h" } })}>
              Look at the last 24 h
            </button>
          </Show>
        </div>
      </Empty>
    </Show>
  );
}
