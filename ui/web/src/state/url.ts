// The whole state of the page as a path segment and query parameters, and back.

import * as filters from "./filters";
import type { Token } from "./filters";
import * as time from "./time";
import type { Range } from "./time";

export const VIEWS = ["flows", "map", "sql", "health"] as const;
export type View = (typeof VIEWS)[number];
export type MapBy = "workload" | "pod" | "namespace";

export interface Page {
  view: View;
  tokens: Token[];
  range: Range;
  /** Open flow. */
  flow: string | null;
  sql: string | null;
  by: MapBy;
  /** The map as a table. */
  table: boolean;
}

export const HOME: Page = { view: "flows", tokens: [], range: time.LIVE, flow: null, sql: null, by: "workload", table: false };

/** Path without the view: "/" or the prefix of a proxy. */
export const root = (pathname: string): string => pathname.slice(0, pathname.lastIndexOf("/") + 1);

export function read(pathname: string, search: string): Page {
  const last = pathname.slice(pathname.lastIndexOf("/") + 1);
  const p = new URLSearchParams(search);
  const by = p.get("by");
  return {
    view: (VIEWS as readonly string[]).includes(last) ? (last as View) : "flows",
    tokens: filters.fromParams(p),
    range: time.fromParams(p.get("since"), p.get("until")),
    flow: p.get("flow") || null,
    sql: p.get("q"),
    by: by === "pod" || by === "namespace" ? by : "workload",
    table: p.get("as") === "table",
  };
}

/** Relative to the root; only what differs from the default is written. */
export function write(page: Page): string {
  const p = new URLSearchParams([...filters.toParams(page.tokens), ...time.toParams(page.range)]);
  if (page.flow) p.set("flow", page.flow);
  if (page.sql !== null && page.sql !== "") p.set("q", page.sql);
  if (page.by !== "workload") p.set("by", page.by);
  if (page.table) p.set("as", "table");
  const query = p.toString();
  return `${page.view}${query ? `?${query}` : ""}`;
}
