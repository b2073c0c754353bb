// Filters: text `namespace=shop -port=53` <-> tokens <-> query parameters.

import { canonical, field, PROTOCOLS, VERDICTS } from "./fields";

export interface Token {
  field: string;
  value: string;
  not: boolean;
}

export interface Parsed {
  tokens: Token[];
  /** Words that are no filter, with the reason. */
  errors: { word: string; why: string }[];
}

/** Splits on spaces outside double quotes; `\"` inside quotes is a quote. */
export function words(text: string): string[] {
  const out: string[] = [];
  let word = "";
  let quoted = false;
  let started = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (quoted && c === "\\" && (text[i + 1] === '"' || text[i + 1] === "\\")) {
      word += text[++i];
    } else if (c === '"') {
      quoted = !quoted;
      started = true;
    } else if (!quoted && /\s/.test(c)) {
      if (started) out.push(word);
      word = "";
      started = false;
    } else {
      word += c;
      started = true;
    }
  }
  if (started) out.push(word);
  return out;
}

const IPV4 = /^\d{1,3}(\.\d{1,3}){3}(\/\d{1,2})?$/;
const IPV6 = /^[0-9a-f]*:[0-9a-f:.]*(\/\d{1,3})?$/i;

/** What a bare word most likely means. The chip shows the guess. */
export function guess(word: string): { field: string; value: string } {
  const upper = word.toUpperCase();
  if ((VERDICTS as readonly string[]).includes(upper)) return { field: "verdict", value: upper };
  const protocol = PROTOCOLS.find((p) => p.toUpperCase() === upper);
  if (protocol) return { field: "protocol", value: protocol };
  if (/^\d{1,5}$/.test(word) && Number(word) <= 65535) return { field: "port", value: word };
  if (IPV4.test(word) || (IPV6.test(word) && word.includes(":"))) return { field: "ip", value: word };
  if (word.includes("/")) return { field: "pod", value: word };
  if (word.includes(".")) return { field: "name", value: word };
  return { field: "workload", value: word };
}

function normal(name: string, value: string): string {
  if (name === "verdict" || name === "drop_reason") return value.toUpperCase();
  if (name === "protocol") return PROTOCOLS.find((p) => p.toUpperCase() === value.toUpperCase()) ?? value;
  return value;
}

export function parse(text: string): Parsed {
  const tokens: Token[] = [];
  const errors: Parsed["errors"] = [];
  for (const raw of words(text)) {
    const m = /^([-!]?)([A-Za-z][\w.]*)(!?=|:(?!:))(.*)$/s.exec(raw);
    if (m && !(m[3] === ":" && !field(canonical(m[2]!)))) {
      const name = canonical(m[2]!);
      if (!field(name)) errors.push({ word: raw, why: `unknown field ${m[2]}` });
      else if (m[4] === "") errors.push({ word: raw, why: `${name} needs a value` });
      else tokens.push({ field: name, value: normal(name, m[4]!), not: (m[1] !== "") !== (m[3] === "!=") });
      continue;
    }
    const not = raw.length > 1 && /^[-!]/.test(raw);
    const bare = not ? raw.slice(1) : raw;
    if (bare === "" || bare === "-") errors.push({ word: raw, why: "not a filter" });
    else tokens.push({ ...guess(bare), not });
  }
  return { tokens: dedupe(tokens), errors };
}

const quote = (v: string): string => (/[\s"\\]/.test(v) || v === "" ? `"${v.replace(/["\\]/g, "\\$&")}"` : v);

export const formatToken = (t: Token): string => `${t.not ? "-" : ""}${t.field}=${quote(t.value)}`;

export const format = (tokens: readonly Token[]): string => tokens.map(formatToken).join(" ");

export const same = (a: Token, b: Token): boolean => a.field === b.field && a.value === b.value && a.not === b.not;

export function dedupe(tokens: readonly Token[]): Token[] {
  const seen = new Set<string>();
  return tokens.filter((t) => {
    const key = `${t.not}\0${t.field}\0${t.value}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

/** Adds a token; its opposite goes away. */
export function add(tokens: readonly Token[], t: Token): Token[] {
  const kept = tokens.filter((o) => !(o.field === t.field && o.value === t.value && o.not !== t.not));
  return dedupe([...kept, t]);
}

export const remove = (tokens: readonly Token[], t: Token): Token[] => tokens.filter((o) => !same(o, t));

export const invert = (tokens: readonly Token[], t: Token): Token[] =>
  dedupe(tokens.map((o) => (same(o, t) ? { ...o, not: !o.not } : o)));

/** Exchanges source_… and destination_…: "show me the other direction". */
export const swapEnds = (tokens: readonly Token[]): Token[] =>
  dedupe(
    tokens.map((t) => {
      const name = t.field.startsWith("source_")
        ? t.field.replace("source_", "destination_")
        : t.field.replace("destination_", "source_");
      return field(name) ? { ...t, field: name } : t;
    }),
  );

export function toParams(tokens: readonly Token[]): [string, string][] {
  return tokens.map((t) => [`${t.not ? "-" : ""}${t.field}`, t.value]);
}

export function fromParams(params: Iterable<[string, string]>): Token[] {
  const out: Token[] = [];
  for (const [key, value] of params) {
    const not = key.startsWith("-");
    const name = not ? key.slice(1) : key;
    if (field(name) && value !== "") out.push({ field: name, value, not });
  }
  return dedupe(out);
}
