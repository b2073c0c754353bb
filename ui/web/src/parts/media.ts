import { createSignal, onCleanup } from "solid-js";

export function useMedia(query: string): () => boolean {
  const m = window.matchMedia(query);
  const [hit, setHit] = createSignal(m.matches);
  const f = () => setHit(m.matches);
  m.addEventListener("change", f);
  onCleanup(() => m.removeEventListener("change", f));
  return hit;
}
