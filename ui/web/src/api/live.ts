// The event stream of /flows?follow=true. Says how it is: connecting, open, or lost since when.

import { BASE } from "./client";
import type { Flow, Gap, LiveStatus } from "./types";

export type LiveState = { kind: "connecting" } | { kind: "open" } | { kind: "lost"; since: number; retryAt: number };

export interface Handlers {
  flow(f: Flow): void;
  gap(g: Gap): void;
  status(s: LiveStatus): void;
  state(s: LiveState): void;
}

// The relay sends a status every second; this long without one is a dead connection.
const SILENCE_MS = 6_000;
const BACKOFF_MS = [500, 1000, 2000, 5000, 10_000];

export function follow(params: [string, string][], on: Handlers): () => void {
  const url = `${BASE}flows?${new URLSearchParams([["follow", "true"], ...params])}`;
  let source: EventSource | undefined;
  let timer: number | undefined;
  let watch: number | undefined;
  let tries = 0;
  /** Since when the browser has been reconnecting, and since when there has been no stream to resume. */
  let waiting: number | undefined;
  let lostSince: number | undefined;
  let told: LiveState["kind"] | undefined;
  let opened = false;
  let stopped = false;

  const tell = (s: LiveState) => {
    told = s.kind;
    on.state(s);
  };
  const arm = () => {
    clearTimeout(watch);
    watch = window.setTimeout(silent, SILENCE_MS);
  };

  /** An open stream that says nothing is dead. One that the browser is reconnecting resumes by its cursor: leave it. */
  function silent(): void {
    if (opened && source?.readyState === EventSource.CONNECTING) arm();
    else reopen();
  }

  function alive(): void {
    arm();
    opened = true;
    tries = 0;
    waiting = undefined;
    if (told !== "open") tell({ kind: "open" });
    if (lostSince === undefined) return;
    // a new EventSource has no Last-Event-ID, so the relay cannot resume: say so in place
    on.gap({ lost: NaN, cause: `no connection for ${Math.round((Date.now() - lostSince) / 1000)} s; those flows are in history` });
    lostSince = undefined;
  }

  function reopen(): void {
    if (stopped) return;
    source?.close();
    clearTimeout(watch);
    clearTimeout(timer);
    if (opened) lostSince ??= waiting ?? Date.now();
    const wait = BACKOFF_MS[Math.min(tries++, BACKOFF_MS.length - 1)]!;
    tell({ kind: "lost", since: lostSince ?? Date.now(), retryAt: Date.now() + wait });
    timer = window.setTimeout(open, wait);
  }

  function open(): void {
    if (stopped) return;
    source = new EventSource(url);
    arm();
    const hear = <T>(name: string, f: (data: T) => void) =>
      source!.addEventListener(name, (e) => {
        alive();
        f(JSON.parse((e as MessageEvent<string>).data) as T);
      });
    hear("flow", on.flow);
    hear("gap", on.gap);
    hear("status", on.status);
    source.onerror = () => {
      if (source!.readyState === EventSource.CLOSED) return reopen();
      // CONNECTING: the browser itself retries and sends Last-Event-ID
      waiting ??= Date.now();
      tell({ kind: "lost", since: waiting, retryAt: Date.now() + 3000 });
    };
  }

  tell({ kind: "connecting" });
  open();
  return () => {
    stopped = true;
    clearTimeout(timer);
    clearTimeout(watch);
    source?.close();
  };
}
