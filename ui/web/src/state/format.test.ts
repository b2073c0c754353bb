import { describe, expect, test } from "vitest";
import { ago, bytes, clock, count, duration, exact, hostPort, micros, plural, rate, words } from "./format";

describe("format", () => {
  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.00 KiB"],
    [10_240, "10.0 KiB"],
    [1_048_575, "1.00 MiB"],
    [1_048_576, "1.00 MiB"],
    [5e12, "4.55 TiB"],
    [-2048, "−2.00 KiB"],
  ])("bytes %d", (n, s) => expect(bytes(n)).toBe(s));
  test("unknown is not zero", () => {
    for (const f of [bytes, count, exact, micros, duration, rate]) {
      expect(f(null)).toBe("–");
      expect(f(undefined)).toBe("–");
      expect(f(Number.NaN)).toBe("–");
      expect(f(0)).not.toBe("–");
    }
    expect(clock(null)).toBe("–");
    expect(ago("nonsense")).toBe("–");
  });
  test("count is exact while it fits", () => {
    expect(count(9999)).toBe("9,999");
    expect(count(12_345)).toBe("12.3k");
    expect(count(999_999)).toBe("1.00M");
  });
  test("exact groups", () => {
    expect(exact(1_234_567)).toBe("1,234,567");
    expect(exact(1234.5)).toBe("1,234.5");
    expect(exact(-1000)).toBe("−1,000");
  });
  test("lengths of time", () => {
    expect(micros(420)).toBe("420 µs");
    expect(micros(1500)).toBe("1.50 ms");
    expect(duration(420)).toBe("420 ms");
    expect(duration(14_300)).toBe("14.3 s");
    expect(duration(125_000)).toBe("2m 5s");
    expect(duration(90_000_000)).toBe("1d 1h");
    expect(ago(new Date(1000).toISOString(), 61_000)).toBe("1m 0s ago");
    expect(ago(new Date(1000).toISOString(), 10_000)).toBe("9 s ago");
  });
  test("clock has the date when it is another day", () => {
    const now = new Date(2026, 4, 1, 12).getTime();
    expect(clock(new Date(2026, 4, 1, 1, 2, 3, 4).toISOString(), now)).toBe("01:02:03.004");
    expect(clock(new Date(2026, 3, 30, 1, 2, 3).toISOString(), now, false)).toBe("04-30 01:02:03");
  });
  test("words", () => {
    expect(words("POLICY_DENIED")).toBe("Policy denied");
    expect(plural(1, "row")).toBe("1 row");
    expect(plural(2000, "row")).toBe("2,000 rows");
    expect(hostPort("::1", 53)).toBe("[::1]:53");
    expect(hostPort("10.0.0.1", undefined)).toBe("10.0.0.1");
  });
});
