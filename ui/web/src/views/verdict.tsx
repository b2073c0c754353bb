// A verdict has a shape and a colour: either is enough to tell them apart.

const SHAPES: Record<string, string> = {
  FORWARDED: "M2 6h7M6 2.8L9.4 6 6 9.2",
  DROPPED: "M2.6 2.6l6.8 6.8M9.4 2.6L2.6 9.4",
  AUDIT: "M6 1.8L10.2 6 6 10.2 1.8 6z",
  REDIRECTED: "M2 9.5V5.5h6.5M5.8 2.6L8.8 5.5 5.8 8.4",
  ERROR: "M6 1.8l4.6 8.4H1.4zM6 5v2.4M6 8.8v.1",
};

export function VerdictMark(p: { verdict: string | undefined }) {
  return (
    <svg class={`mark ${(p.verdict ?? "unknown").toLowerCase()}`} viewBox="0 0 12 12" aria-hidden="true">
      <path d={SHAPES[p.verdict ?? ""] ?? "M3 6h6"} />
    </svg>
  );
}

export const verdictName = (v: string | undefined): string => (v ? v.charAt(0) + v.slice(1).toLowerCase() : "Unknown");
