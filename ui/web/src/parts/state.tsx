// What stands where data would: nothing there, on its way, failed. Each looks different and says why.

import { For, Show, type JSX } from "solid-js";
import type { ApiError } from "../api/client";
import { Icon } from "./icon";

export function Empty(p: { title: string; children?: JSX.Element }) {
  return (
    <div class="state" data-testid="state-empty">
      <svg class="state-art" viewBox="0 0 120 40" aria-hidden="true">
        <path d="M4 14h40c12 0 10 16 22 16h50" />
        <path class="dash" d="M58 20v16" />
      </svg>
      <h2>{p.title}</h2>
      <div class="state-text">{p.children}</div>
    </div>
  );
}

export function Loading(p: { what: string; rows?: number }) {
  return (
    <div class="loading" data-testid="state-loading" role="status" aria-label={`Loading ${p.what}`}>
      <For each={Array.from({ length: p.rows ?? 8 })}>{() => <div class="bone" />}</For>
      <p class="muted">Loading {p.what} …</p>
    </div>
  );
}

export function Failed(p: { error: ApiError; again: () => void }) {
  return (
    <div class="state failed" role="alert" data-testid={p.error.disconnected ? "state-disconnected" : "state-error"}>
      <span class="state-mark">
        <Icon name="warn" />
      </span>
      <h2>{p.error.message}</h2>
      <div class="state-text">
        <Show when={p.error.hint}>
          <p>{p.error.hint}</p>
        </Show>
        <Show when={p.error.disconnected}>
          <p>The page keeps trying. What happens meanwhile is in history if the nodes run.</p>
        </Show>
        <p class="muted mono">{p.error.code}</p>
        <button type="button" class="button" onClick={p.again}>
          Try again
        </button>
      </div>
    </div>
  );
}
