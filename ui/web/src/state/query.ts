// One asked thing: the answer, its error, whether it is on its way. An old answer stays until the new one is there.

import { createEffect, createSignal, on, onCleanup, untrack } from "solid-js";
import { ApiError, asError } from "../api/client";

export interface Query<T> {
  data: () => T | undefined;
  error: () => ApiError | undefined;
  loading: () => boolean;
  /** When the answer came. */
  at: () => number;
  again: () => void;
}

/**
 * Asks when `key` changes, and again every `every()` ms while the page is visible.
 * A key of null asks nothing. An answer to an older key is thrown away.
 */
export function createQuery<K, T>(
  key: () => K | null,
  ask: (key: K, signal: AbortSignal) => Promise<T>,
  every: () => number | null = () => null,
): Query<T> {
  const [data, setData] = createSignal<T>();
  const [error, setError] = createSignal<ApiError>();
  const [loading, setLoading] = createSignal(true);
  const [at, setAt] = createSignal(0);
  let stop: AbortController | undefined;
  let timer: number | undefined;
  let failed = 0;

  function plan(): void {
    clearTimeout(timer);
    const ms = untrack(every) ?? (failed ? 2000 : null);
    if (ms !== null) timer = window.setTimeout(run, failed ? Math.max(ms, Math.min(1000 * 2 ** failed, 15_000)) : ms);
  }

  async function run(): Promise<void> {
    const k = untrack(key);
    stop?.abort();
    clearTimeout(timer);
    if (k === null) return void setLoading(false);
    if (document.hidden && untrack(data) !== undefined) return plan();
    const mine = (stop = new AbortController());
    setLoading(true);
    try {
      const answer = await ask(k, mine.signal);
      if (mine.signal.aborted) return;
      failed = 0;
      setData(() => answer);
      setError(undefined);
      setAt(Date.now());
    } catch (e) {
      if (mine.signal.aborted) return;
      const err = asError(e);
      failed = err.disconnected ? failed + 1 : 0;
      setError(err);
    }
    setLoading(false);
    plan();
  }

  createEffect(
    on(
      () => JSON.stringify(key()),
      (k, old) => {
        if (old !== undefined && k !== old) setData(undefined);
        void run();
      },
    ),
  );
  createEffect(on(every, plan, { defer: true }));
  const shown = () => !document.hidden && (untrack(every) !== null || untrack(error)) && void run();
  document.addEventListener("visibilitychange", shown);
  onCleanup(() => {
    stop?.abort();
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", shown);
  });
  return { data, error, loading, at, again: () => void run() };
}
