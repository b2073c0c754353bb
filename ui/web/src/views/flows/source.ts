// Where the table's rows come from: the event stream, or an answer over history.

import { createEffect, createMemo, createSignal, on, onCleanup, untrack } from "solid-js";
import * as api from "../../api/client";
import { follow, type LiveState } from "../../api/live";
import { page } from "../../routes";
import { toParams } from "../../state/filters";
import { createQuery } from "../../state/query";
import { fromAnswer, Live, type Event, type Row } from "../../state/rows";
import { liveStatus, setLiveStatus, setShown } from "../../state/store";
import { label, query } from "../../state/time";

const all = (): boolean => page.tokens.some((t) => t.field === "reporter");
const PAINT_MS = 200;

export function useLive(on_: () => boolean) {
  const [rows, setRows] = createSignal<readonly Row[]>([]);
  const [held, setHeld] = createSignal(0);
  const [evicted, setEvicted] = createSignal(0);
  const [pausedBy, setPausedBy] = createSignal<"scroll" | "asked" | "key" | null>(null);
  const [state, setState] = createSignal<LiveState>({ kind: "connecting" });
  const [ready, setReady] = createSignal(false);
  let live = new Live();
  let queue: Event[] = [];

  const paint = () => {
    setRows(live.rows);
    setHeld(live.held);
    setEvicted(live.evicted);
  };

  createEffect(
    on(
      () => (on_() ? JSON.stringify(toParams(page.tokens)) : null),
      (key) => {
        if (key === null) return;
        live = new Live(5000, all());
        queue = [];
        setPausedBy(null);
        setReady(false);
        paint();
        const params = untrack(() => toParams(page.tokens));
        const stop = new AbortController();
        // what was just before: a quiet network is not an empty page
        void api
          .flows([["since", "5m"], ["limit", "200"], ...params], stop.signal)
          .then((a) => {
            live.push(queue);
            queue = [];
            live.seed(fromAnswer(a.flows, live.all));
          })
          .catch(() => {})
          .finally(() => {
            if (stop.signal.aborted) return;
            setReady(true);
            paint();
          });
        const timer = setInterval(() => {
          if (!queue.length) return;
          live.push(queue);
          queue = [];
          paint();
        }, PAINT_MS);
        const close = follow(params, {
          flow: (flow) => queue.push({ flow }),
          gap: (gap) => queue.push({ gap, time: new Date().toISOString() }),
          status: (s) => {
            setLiveStatus(s);
            setShown({ what: "Live", completeness: s.completeness });
          },
          state: setState,
        });
        onCleanup(() => {
          stop.abort();
          clearInterval(timer);
          close();
          setLiveStatus(undefined);
          setShown(undefined);
        });
      },
    ),
  );

  return {
    rows,
    held,
    evicted,
    state,
    ready,
    pausedBy,
    paused: () => pausedBy() !== null,
    status: liveStatus,
    pause(by: "scroll" | "asked" | "key") {
      if (untrack(pausedBy) !== null) return;
      live.paused = true;
      setPausedBy(by);
    },
    resume() {
      live.resume();
      setPausedBy(null);
      paint();
    },
  };
}

export function useHistory(on_: () => boolean) {
  const [limit, setLimit] = createSignal(500);
  const q = createQuery(
    () => (on_() ? { params: [...query(page.range), ...toParams(page.tokens)] } : null),
    async (k, s) => {
      const n = untrack(limit);
      const a = await api.flows([...k.params, ["limit", String(n)]], s);
      return { rows: fromAnswer(a.flows, untrack(all)), full: a.flows.length >= n, completeness: a.completeness };
    },
  );
  createEffect(
    on(
      () => JSON.stringify([page.range, page.tokens]),
      () => setLimit(500),
      { defer: true },
    ),
  );
  createEffect(() => {
    const d = q.data();
    if (d && on_()) setShown({ what: `Flows, ${label(page.range).toLowerCase()}`, completeness: d.completeness });
  });
  const rows = createMemo(() => q.data()?.rows ?? []);
  return {
    rows,
    limit,
    full: () => q.data()?.full ?? false,
    loading: q.loading,
    error: q.error,
    again: q.again,
    at: q.at,
    more() {
      setLimit(limit() * 2);
      q.again();
    },
  };
}
