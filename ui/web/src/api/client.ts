// The only place that fetches (live.ts opens the event stream).

import { root } from "../state/url";
import type {
  Completeness,
  FlowAnswer,
  FlowsAnswer,
  LossesAnswer,
  MapAnswer,
  NodesAnswer,
  SqlAnswer,
  StatusAnswer,
  TimelineAnswer,
} from "./types";

/** Where the page was loaded from: also behind the prefix of a proxy. */
export const ROOT = typeof location === "undefined" ? "/" : root(location.pathname);
export const BASE = `${ROOT}api/v1/`;
export const absoluteBase = (): string => location.origin + BASE;

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string | null,
  ) {
    super(message);
  }
  /** The relay could not be reached at all, or a proxy answered in its place. */
  get disconnected(): boolean {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

export function asError(e: unknown): ApiError {
  if (e instanceof ApiError) return e;
  if (e instanceof DOMException && e.name === "TimeoutError") {
    return new ApiError(0, "timeout", "The relay did not answer in time.", "Try a shorter time range or a narrower filter.");
  }
  return new ApiError(0, "unreachable", "The relay cannot be reached.", null);
}

async function failure(r: Response): Promise<ApiError> {
  try {
    const { error } = (await r.json()) as { error: { code: string; message: string; hint?: string } };
    return new ApiError(r.status, error.code, error.message, error.hint ?? null);
  } catch {
    return new ApiError(r.status, `http_${r.status}`, `The server answered ${r.status} ${r.statusText}`.trim(), null);
  }
}

async function send(path: string, init: RequestInit, signal?: AbortSignal, timeout = 30_000): Promise<Response> {
  const limit = AbortSignal.timeout(timeout);
  let r: Response;
  try {
    r = await fetch(BASE + path, { ...init, signal: signal ? AbortSignal.any([signal, limit]) : limit });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw asError(e);
  }
  if (!r.ok) throw await failure(r);
  return r;
}

type Params = [string, string][];

async function get<T>(path: string, params: Params = [], signal?: AbortSignal): Promise<T> {
  const q = new URLSearchParams(params).toString();
  const r = await send(q ? `${path}?${q}` : path, { headers: { Accept: "application/json" } }, signal);
  return (await r.json()) as T;
}

export const flows = (p: Params, s?: AbortSignal) => get<FlowsAnswer>("flows", p, s);
export const flow = (id: string, s?: AbortSignal) => get<FlowAnswer>(`flows/${encodeURIComponent(id)}`, [], s);
export const map = (p: Params, s?: AbortSignal) => get<MapAnswer>("map", p, s);
export const timeline = (p: Params, s?: AbortSignal) => get<TimelineAnswer>("timeline", p, s);
export const nodes = (s?: AbortSignal) => get<NodesAnswer>("nodes", [], s);
export const losses = (p: Params, s?: AbortSignal) => get<LossesAnswer>("losses", p, s);
export const status = (s?: AbortSignal) => get<StatusAnswer>("status", [], s);

export async function complete(field: string, prefix: string, s?: AbortSignal): Promise<string[]> {
  return (await get<{ values: string[] }>("complete", [["field", field], ["prefix", prefix]], s)).values;
}

const post = (query: string, accept: string): RequestInit => ({
  method: "POST",
  headers: { Accept: accept, "Content-Type": "text/plain" },
  body: query,
});

export async function sql(query: string, s?: AbortSignal): Promise<SqlAnswer> {
  const r = await send("sql", post(query, "application/json"), s, 120_000);
  return (await r.json()) as SqlAnswer;
}

export async function sqlCsv(query: string, s?: AbortSignal): Promise<{ body: Blob; completeness: Completeness | null }> {
  const r = await send("sql", post(query, "text/csv"), s, 120_000);
  const header = r.headers.get("weir-completeness");
  return { body: await r.blob(), completeness: header ? (JSON.parse(header) as Completeness) : null };
}
