// What every view shares: clock, status of the relay, completeness of what is on screen, theme.

import { createRoot, createSignal } from "solid-js";
import * as api from "../api/client";
import type { Completeness, LiveStatus } from "../api/types";
import { createQuery } from "./query";

const [now, setNow] = createSignal(Date.now());
setInterval(() => !document.hidden && setNow(Date.now()), 1000);
export { now };

export const { status, nodes } = createRoot(() => ({
  status: createQuery(() => "status", (_, s) => api.status(s), () => 5000),
  nodes: createQuery(() => "nodes", (_, s) => api.nodes(s), () => 5000),
}));

/** The last status of the open event stream, if one is open. */
export const [liveStatus, setLiveStatus] = createSignal<LiveStatus>();

/** Completeness of the answer on screen; the strip shows this one while it is known. */
export const [shown, setShown] = createSignal<{ what: string; completeness: Completeness }>();

export const lost = (): boolean => status.error()?.disconnected ?? false;

export type Theme = "auto" | "light" | "dark";
const stored = (): Theme => {
  try {
    const t = localStorage.getItem("weir-theme");
    return t === "light" || t === "dark" ? t : "auto";
  } catch {
    return "auto";
  }
};
const [theme, set] = createSignal<Theme>(stored());
export { theme };
export function setTheme(t: Theme): void {
  set(t);
  try {
    localStorage.setItem("weir-theme", t);
  } catch {
    // private mode: the choice lasts as long as the page
  }
  applyTheme();
}
export function applyTheme(): void {
  if (theme() === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme();
}

/** Fields worth a toast: what was copied. */
export const [toast, setToast] = createSignal("");
let toastTimer: number | undefined;
export async function copy(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    setToast(`Copied: ${what}`);
  } catch {
    // no clipboard without https or permission: a selection still works
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    setToast(document.execCommand("copy") ? `Copied: ${what}` : "The browser did not allow to copy");
    area.remove();
  }
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => setToast(""), 2500);
}
