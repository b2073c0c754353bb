// Keyboard: single keys and `g x` pairs, never while something is being typed.

import { onCleanup, onMount } from "solid-js";

export type Keys = Record<string, (e: KeyboardEvent) => void>;

const typing = (t: EventTarget | null): boolean =>
  t instanceof HTMLElement && (t.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(t.tagName));

/** A button or link already answers to Enter and space. */
const pressable = (t: EventTarget | null): boolean => t instanceof Element && t.closest("button, a, summary, [role=button]") !== null;

export function useKeys(keys: Keys): void {
  let lead = "";
  let timer: number | undefined;
  const down = (e: KeyboardEvent) => {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey) return;
    if (typing(e.target)) return;
    if ((e.key === " " || e.key === "Enter") && pressable(e.target)) return;
    if (document.querySelector("dialog[open]") && e.key !== "Escape") return;
    const key = lead ? `${lead} ${e.key}` : e.key;
    lead = "";
    clearTimeout(timer);
    const f = keys[key];
    if (f) {
      e.preventDefault();
      f(e);
    } else if (Object.keys(keys).some((k) => k.startsWith(`${e.key} `) && k.length === 3)) {
      lead = e.key;
      timer = window.setTimeout(() => (lead = ""), 1200);
    }
  };
  onMount(() => document.addEventListener("keydown", down));
  onCleanup(() => document.removeEventListener("keydown", down));
}
