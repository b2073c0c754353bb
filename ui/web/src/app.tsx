// Frame of the page: bar, filter, banner, one view.

import { createSignal, ErrorBoundary, For, Match, onMount, Show, Switch } from "solid-js";
import { Icon } from "./parts/icon";
import { useKeys } from "./parts/keys";
import { go, href, page } from "./routes";
import { ago, duration } from "./state/format";
import { lost, now, setTheme, status, theme, toast, type Theme } from "./state/store";
import { VIEWS, type View } from "./state/url";
import { FilterBar } from "./views/bar/filter";
import { Help } from "./views/bar/help";
import { HealthStrip } from "./views/bar/strip";
import { Flows } from "./views/flows/flows";
import { Health } from "./views/health/health";
import { MapView } from "./views/map/map";
import { Query } from "./views/query/query";

const NAMES: Record<View, string> = { flows: "Flows", map: "Map", sql: "SQL", health: "Health" };
const THEMES: Record<Theme, { next: Theme; icon: "auto" | "sun" | "moon"; name: string }> = {
  auto: { next: "light", icon: "auto", name: "Colours: as the system" },
  light: { next: "dark", icon: "sun", name: "Colours: light" },
  dark: { next: "auto", icon: "moon", name: "Colours: dark" },
};

export function App() {
  const [help, setHelp] = createSignal(false);
  const to = (view: View) => () => go({ view, flow: null });
  useKeys({
    "/": () => document.querySelector<HTMLElement>("[data-testid=filter-input], [data-testid=sql-editor]")?.focus(),
    "?": () => setHelp(true),
    "g f": to("flows"),
    "g m": to("map"),
    "g s": to("sql"),
    "g h": to("health"),
  });
  onMount(() => document.documentElement.classList.add("ready"));
  return (
    <div class="app">
      <header class="top">
        <a class="brand" href={href("flows")} onClick={(e) => follow(e, "flows")} aria-label="Weir">
          <svg viewBox="0 0 16 16" aria-hidden="true">
            <path d="M1.5 5h5.6c2.2 0 2 6 4.1 6h3.3" />
            <path class="fall" d="M7 8v6.5" />
          </svg>
          <span>Weir</span>
        </a>
        <nav class="tabs" aria-label="Views">
          <For each={VIEWS}>
            {(v) => (
              <a
                href={href(v)}
                data-testid={`tab-${v}`}
                aria-current={page.view === v ? "page" : undefined}
                onClick={(e) => follow(e, v)}
              >
                {NAMES[v]}
              </a>
            )}
          </For>
        </nav>
        <HealthStrip />
        <div class="top-end">
          <button
            type="button"
            class="button quiet"
            title={THEMES[theme()].name}
            aria-label={THEMES[theme()].name}
            data-testid="theme-toggle"
            onClick={() => setTheme(THEMES[theme()].next)}
          >
            <Icon name={THEMES[theme()].icon} />
          </button>
          <button type="button" class="button quiet" title="Keys and hints (?)" aria-label="Help" data-testid="help" onClick={() => setHelp(true)}>
            <Icon name="help" />
          </button>
        </div>
      </header>
      <Show when={page.view === "flows" || page.view === "map"}>
        <FilterBar />
      </Show>
      <Show when={lost()}>
        <div class="banner" role="alert" data-testid="state-disconnected">
          <Icon name="warn" />
          <span>
            <b>No connection to the relay.</b>{" "}
            {status.at() ? `What you see is from ${ago(new Date(status.at()).toISOString(), now())}. ` : ""}
            Trying again.
          </span>
          <button type="button" class="button" onClick={status.again}>
            Try now
          </button>
        </div>
      </Show>
      <Show when={!lost() && status.data()?.storage?.ingest && status.data()!.storage.ingest !== "ok"}>
        <div class="banner warn" role="alert" data-testid="ingest-stopped">
          <Icon name="warn" />
          <span>
            <b>New flows are not being stored</b> ({status.data()!.storage.ingest}). Live view and queries go on.
          </span>
        </div>
      </Show>
      <main>
        <ErrorBoundary fallback={(e, reset) => <Broken error={e} reset={reset} />}>
          <Switch>
            <Match when={page.view === "flows"}>
              <Flows />
            </Match>
            <Match when={page.view === "map"}>
              <MapView />
            </Match>
            <Match when={page.view === "sql"}>
              <Query />
            </Match>
            <Match when={page.view === "health"}>
              <Health />
            </Match>
          </Switch>
        </ErrorBoundary>
      </main>
      <Show when={help()}>
        <Help close={() => setHelp(false)} version={status.data()?.version} uptime={duration((status.data()?.uptime_s ?? NaN) * 1000)} />
      </Show>
      <div class="toast" role="status" aria-live="polite" classList={{ on: toast() !== "" }}>
        {toast()}
      </div>
    </div>
  );
}

/** A plain click stays in the page; with a modifier the browser does what it always does. */
function follow(e: MouseEvent, view: View): void {
  if (e.ctrlKey || e.metaKey || e.shiftKey || e.button !== 0) return;
  e.preventDefault();
  go({ view, flow: null });
}

/** A fault of this page, not of the data: said as such, and only this view is gone. */
function Broken(p: { error: unknown; reset: () => void }) {
  console.error(p.error);
  return (
    <div class="state failed" role="alert" data-testid="state-broken">
      <h2>This view failed</h2>
      <div class="state-text">
        <p>That is a fault of the page; the data is not affected. The other views and the API go on.</p>
        <p class="muted mono">{String(p.error)}</p>
        <button type="button" class="button" onClick={p.reset}>
          Try again
        </button>
      </div>
    </div>
  );
}
