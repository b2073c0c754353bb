// Completion of the filter bar: fields first, then their values.

import { canonical, field, FIELDS } from "./fields";

export interface Ask {
  kind: "field" | "value";
  /** Field whose values are wanted. */
  field?: string;
  prefix: string;
  not: boolean;
}

export interface Choice {
  /** What is put in the input. */
  text: string;
  label: string;
  help: string;
  /** The word is a whole filter. */
  done: boolean;
}

/** What the word before the caret asks for. */
export function ask(text: string): Ask {
  const word = /(?:[^\s"]|"[^"]*"?)*$/.exec(text)![0];
  const not = word.startsWith("-") || word.startsWith("!");
  const bare = not ? word.slice(1) : word;
  const eq = bare.search(/!?=|:(?!:)/);
  if (eq > 0) {
    const name = canonical(bare.slice(0, eq));
    if (field(name)) {
      const negated = bare[eq] === "!";
      return { kind: "value", field: name, prefix: bare.slice(eq + (negated ? 2 : 1)).replace(/"/g, ""), not: not !== negated };
    }
  }
  return { kind: "field", prefix: bare, not };
}

export function fieldChoices(a: Ask): Choice[] {
  const p = a.prefix.toLowerCase();
  const sign = a.not ? "-" : "";
  const rank = (n: string): number => (n.startsWith(p) ? 0 : n.split("_").some((w) => w.startsWith(p)) ? 1 : canonical(p) === n ? 0 : 2);
  return FIELDS.map((f) => ({ f, r: p === "" ? 0 : rank(f.name) }))
    .filter((x) => x.r < 2)
    .sort((x, y) => x.r - y.r)
    .map(({ f }) => ({ text: `${sign}${f.name}=`, label: `${sign}${f.name}`, help: f.help, done: false }));
}

const quoted = (v: string): string => (/[\s"\\]/.test(v) ? `"${v.replace(/["\\]/g, "\\$&")}"` : v);

export function valueChoices(a: Ask, values: readonly string[]): Choice[] {
  const sign = a.not ? "-" : "";
  const p = a.prefix.toLowerCase();
  return values
    .filter((v) => v.toLowerCase().includes(p))
    .map((v) => ({ text: `${sign}${a.field}=${quoted(v)}`, label: v, help: "", done: true }));
}

/** Replaces the last word of the input. */
export function put(text: string, choice: string): string {
  return text.replace(/(?:[^\s"]|"[^"]*"?)*$/, () => choice);
}
