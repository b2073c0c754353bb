// Page state <-> address bar. Every change that a person makes is a step the back button undoes.

import { createStore, reconcile } from "solid-js/store";
import { ROOT } from "./api/client";
import { add, type Token } from "./state/filters";
import { read, write, type Page, type View } from "./state/url";

const here = (): Page => read(location.pathname, location.search);

const [page, setPage] = createStore<Page>(here());
export { page };

export function go(change: Partial<Page>, replace = false): void {
  const next: Page = { ...page, ...change };
  const url = ROOT + write(next);
  if (url !== location.pathname + location.search) {
    if (replace) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
  }
  setPage(reconcile(next));
}

export const href = (view: View): string => ROOT + write({ ...page, view, flow: null });
export const link = (p: Page): string => location.origin + ROOT + write(p);

export function addFilter(t: Token): void {
  if (t.value !== "") go({ tokens: add(page.tokens, t) });
}

window.addEventListener("popstate", () => setPage(reconcile(here())));
