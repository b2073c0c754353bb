// Opens the page of a running stand-in relay in a browser and takes pictures: node dev/shots.mjs [URL] [FOLDER]
import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { launch } from "./browser.mjs";

const url = process.argv[2] ?? "http://127.0.0.1:4280";
const out = process.argv[3] ?? join(tmpdir(), "weir-shots");
const only = process.argv[4];
mkdirSync(out, { recursive: true });
const browser = await launch();
const faults = [];

async function shot(name, path, { dark = false, width = 1440, height = 860, mode = "ok", act, wait = 1200 } = {}) {
  if (only && !name.includes(only)) return;
  await fetch(`${url}/mode?set=${mode === "gone" ? "ok" : mode}`);
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: dark ? "dark" : "light" });
  page.on("console", (m) => m.type() === "error" && !/status of 400/.test(m.text()) && mode !== "gone" && mode !== "down" && faults.push(`${name}: ${m.text()}`));
  page.on("pageerror", (e) => faults.push(`${name}: ${e.stack ?? e.message}`));
  await page.goto(url + path);
  await page.waitForTimeout(wait);
  if (mode === "gone") {
    await fetch(`${url}/mode?set=down`);
    await page.waitForTimeout(9000);
  }
  if (act) await act(page);
  await page.screenshot({ path: `${out}/${name}.png` });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  if (wide) faults.push(`${name}: wider than the window`);
  await page.close();
}

const first = async (p) => (await p.getByTestId("flow-row").nth(4).click({ position: { x: 40, y: 10 } }), await p.waitForTimeout(500));
await shot("flows-light", "/");
await shot("flows-dark", "/flows?since=1h&-port=53", { dark: true });
await shot("flows-detail", "/flows?since=1h&verdict=DROPPED", { act: first });
await shot("flows-detail-dark", "/", { act: async (p) => (await p.keyboard.press("Space"), await first(p)), dark: true });
await shot("flows-lossy", "/", { mode: "lossy", act: async (p) => (await p.waitForTimeout(3000), await p.getByTestId("completeness").click()) });
await shot("flows-empty", "/flows?since=5m&namespace=nowhere", { mode: "empty" });
await shot("flows-gone", "/", { mode: "gone" });
await shot("flows-down", "/flows?since=1h", { mode: "down", wait: 1500 });
await shot("flows-360", "/", { width: 360, height: 740 });
await shot("filter-complete", "/flows?since=1h&namespace=shop", { act: async (p) => (await p.getByTestId("filter-input").fill("-destination_work"), await p.waitForTimeout(300)) });
await shot("held", "/", { act: async (p) => (await p.getByTestId("flows-table").evaluate((e) => (e.scrollTop = 300)), await p.waitForTimeout(1500)) });
await shot("map-light", "/map?since=1h");
await shot("map-dark", "/map", { dark: true });
await shot("map-node", "/map?since=1h", { act: async (p) => (await p.locator('[data-id="pay/payments"]').click(), await p.waitForTimeout(200)) });
await shot("map-pod", "/map?since=1h&by=pod");
await shot("map-namespace", "/map?since=1h&by=namespace");
await shot("map-table", "/map?since=1h&as=table");
await shot("map-360", "/map?since=1h", { width: 360, height: 740 });
await shot("map-empty", "/map?since=1h", { mode: "empty" });
await shot("sql-light", "/sql?q=SELECT%201");
await shot("sql-dark", "/sql", { dark: true, act: async (p) => (await p.getByTestId("sql-run").click(), await p.waitForTimeout(400)) });
await shot("sql-error", "/sql?q=DROP%20TABLE%20flows");
await shot("sql-360", "/sql?q=SELECT%201", { width: 360, height: 740 });
await shot("health-light", "/health");
await shot("health-lossy-dark", "/health", { dark: true, mode: "lossy" });
await shot("health-360", "/health", { width: 360, height: 740, mode: "lossy" });
await shot("help", "/", { act: async (p) => (await p.keyboard.press("?"), await p.waitForTimeout(200)) });
await browser.close();
console.log(faults.length ? [...new Set(faults)].join("\n") : "no faults");
