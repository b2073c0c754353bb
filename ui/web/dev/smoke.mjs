// Walks through the page of a running stand-in relay as a person would: node dev/smoke.mjs [URL]
import assert from "node:assert/strict";
import { launch } from "./browser.mjs";

const url = process.argv[2] ?? "http://127.0.0.1:4280";
const browser = await launch();
const faults = [];
const outside = [];
let done = 0;

async function step(name, path, f, mode = "ok") {
  await fetch(`${url}/mode?set=${mode}`);
  const context = await browser.newContext({ viewport: { width: 1440, height: 860 }, permissions: ["clipboard-read", "clipboard-write"], acceptDownloads: true });
  const page = await context.newPage();
  page.setDefaultTimeout(8000);
  page.on("request", (r) => !r.url().startsWith(url) && !r.url().startsWith("blob:") && outside.push(r.url()));
  page.on("pageerror", (e) => faults.push(`${name}: ${e.message}`));
  page.on("console", (m) => /content security policy/i.test(m.text()) && faults.push(`${name}: ${m.text()}`));
  try {
    await page.goto(url + path);
    await f(page, (id) => page.getByTestId(id));
    console.log(`ok    ${name}`);
    done++;
  } catch (e) {
    faults.push(`${name}: ${e.message.split("\n").slice(0, 4).join(" ")}`);
    console.log(`FAIL  ${name}`);
  }
  await context.close();
}

const search = (p) => new URL(p.url()).search;

await step("title, strip, live rows", "/", async (p, at) => {
  assert.equal(await p.title(), "Weir");
  await at("flow-row").first().waitFor();
  assert.match(await at("health-strip").innerText(), /3\/3/);
  assert.match(await at("completeness").innerText(), /Complete/);
});
await step("a click on a value filters, with Alt it excludes, back undoes", "/flows?since=1h", async (p, at) => {
  await at("flow-row").first().waitFor();
  await p.locator('[data-testid=flow-row] .val.verdict').first().click();
  assert.match(search(p), /verdict=FORWARDED|verdict=DROPPED/);
  await p.goBack();
  assert.equal(await at("filter-chip").count(), 0);
  await at("flow-row").first().waitFor();
  await p.locator("[data-testid=flow-row] .val.port").first().click({ modifiers: ["Alt"] });
  assert.match(search(p), /-destination_port=/);
  assert.equal(await at("filter-chip").count(), 1);
});
await step("filter bar: typing, completion, errors, Backspace", "/flows?since=1h", async (p, at) => {
  await at("flow-row").first().waitFor();
  await p.keyboard.press("/");
  await p.keyboard.type("namespace=shop -port=53 ");
  assert.equal(await at("filter-chip").count(), 2);
  await p.keyboard.type("source_names");
  await p.keyboard.press("Tab");
  await p.keyboard.type("pa");
  await p.locator("#filter-choices li").first().waitFor();
  await p.keyboard.press("Tab");
  assert.match(search(p), /source_namespace=pay/);
  await p.keyboard.type("nope=1");
  await p.keyboard.press("Enter");
  await p.locator(".filter-error").waitFor();
  await at("filter-input").fill("");
  await p.keyboard.press("Backspace");
  assert.equal(await at("filter-input").inputValue(), "source_namespace=pay");
});
await step("keys: j, k, Enter, Esc, g m, g s, g h, g f, ?", "/flows?since=1h", async (p, at) => {
  await at("flow-row").first().waitFor();
  for (const k of ["j", "j", "k"]) await p.keyboard.press(k);
  await p.keyboard.press("Enter");
  await at("flow-detail").waitFor();
  assert.match(search(p), /flow=/);
  await p.keyboard.press("j");
  await p.keyboard.press("Escape");
  await at("flow-detail").waitFor({ state: "detached" });
  for (const [k, id] of [["m", "map-canvas"], ["s", "sql-editor"], ["h", "health-view"], ["f", "flows-table"]]) {
    await p.keyboard.press("g");
    await p.keyboard.press(k);
    await at(id).waitFor();
  }
  await p.keyboard.press("?");
  await p.locator("dialog[open]").waitFor();
});
await step("live: pause holds and counts, resume shows; scrolling pauses", "/", async (p, at) => {
  await at("flow-row").first().waitFor();
  await p.waitForTimeout(600);
  await p.keyboard.press("Space");
  const id = await at("flow-row").first().getAttribute("data-flow-id");
  await p.waitForFunction(() => /\d+ new held/.test(document.querySelector("[data-testid=held]")?.textContent ?? ""));
  assert.equal(await at("flow-row").first().getAttribute("data-flow-id"), id);
  await at("live-toggle").click();
  await p.waitForFunction((old) => document.querySelector("[data-testid=flow-row]").dataset.flowId !== old, id);
  await at("flows-table").evaluate((e) => (e.scrollTop = 400));
  await at("held").waitFor();
  await at("flows-table").evaluate((e) => (e.scrollTop = 0));
  await at("held").waitFor({ state: "detached" });
});
await step("detail: all fields, intervals, copy", "/flows?since=1h&verdict=DROPPED", async (p, at) => {
  await at("flow-row").first().click({ position: { x: 40, y: 10 } });
  const d = at("flow-detail");
  await d.getByText("3 intervals").waitFor();
  assert.match(await d.innerText(), /drop_reason/);
  for (const [name, want] of [["weir observe", /^weir observe --from-ip/], ["SQL", /flow_id = '/], ["curl", /^curl .*flows\//], ["weir why", /^weir why /]]) {
    await d.getByRole("button", { name, exact: true }).click();
    assert.match(await p.evaluate(() => navigator.clipboard.readText()), want);
  }
});
await step("timeline: brush chooses, wider widens", "/flows?since=1h", async (p, at) => {
  await p.locator("[data-testid=timeline] rect.forwarded").first().waitFor();
  const box = await at("timeline").boundingBox();
  await p.mouse.move(box.x + 400, box.y + 30);
  await p.mouse.down();
  await p.mouse.move(box.x + 600, box.y + 30, { steps: 4 });
  await at("brush").waitFor();
  await p.mouse.up();
  assert.match(search(p), /since=20.*until=20/);
  await at("flow-row").first().waitFor();
});
await step("map: nodes, edges, panel to flows, table", "/map?since=1h", async (p, at) => {
  await at("map-edge").first().waitFor();
  assert.ok((await at("map-node").count()) > 10 && (await at("map-edge").count()) > 10);
  await p.locator('[data-id="pay/payments"]').click();
  await at("map-panel").waitFor();
  await at("map-toggle").click();
  await at("map-table").waitFor();
  await at("map-toggle").click();
  await p.keyboard.press("Escape");
  await at("map-panel").waitFor({ state: "detached" });
  await p.locator('[data-id="pay/payments"]').focus();
  await p.keyboard.press("Enter");
  await at("map-panel").getByText("Show its flows").click();
  await at("flow-row").first().waitFor();
  assert.match(search(p), /workload=payments/);
});
await step("map: a refresh keeps the elements", "/map", async (p, at) => {
  await at("map-node").first().waitFor();
  await p.evaluate(() => (document.querySelector("[data-testid=map-edge]").kept = true));
  await p.waitForTimeout(6000);
  assert.equal(await p.evaluate(() => document.querySelector("[data-testid=map-edge]").kept), true);
});
await step("SQL: run, link, CSV, error", "/sql", async (p, at) => {
  await at("sql-editor").fill("SELECT 1");
  await p.keyboard.press("Control+Enter");
  await at("sql-result").getByText("19 rows").waitFor();
  assert.match(await at("sql-result").innerText(), /12\.7 ms[\s\S]*Complete/);
  assert.match(search(p), /q=SELECT\+1/);
  const [file] = await Promise.all([p.waitForEvent("download"), at("sql-csv").click()]);
  assert.match(file.suggestedFilename(), /^weir-.*\.csv$/);
  await at("sql-editor").fill("DROP TABLE flows");
  await at("sql-run").click();
  await at("sql-error").waitFor();
});
await step("a shared SQL link runs", "/sql?q=SELECT+2", async (p, at) => void (await at("sql-result").getByText("19 rows").waitFor()));
await step("lossy: gaps in the list, hatched timeline, causes", "/", async (p, at) => {
  await at("gap-row").first().waitFor();
  await at("timeline-lost").first().waitFor();
  assert.match(await at("completeness").innerText(), /Incomplete/);
  await at("completeness").click();
  await p.getByText("ring full", { exact: true }).waitFor();
  await at("ingest-stopped").waitFor();
}, "lossy");
await step("health: off and why, losses, balance", "/health", async (p, at) => {
  await p.getByText("off: needs cgroup v2", { exact: false }).first().waitFor();
  await at("losses-table").waitFor();
  await p.getByText("has no flow", { exact: false }).waitFor();
}, "lossy");
await step("empty says why", "/flows?since=1h&namespace=none", async (p, at) => {
  await at("state-empty").getByText("last 24 hours").waitFor();
}, "empty");
await step("disconnected and back", "/", async (p, at) => {
  await at("flow-row").first().waitFor();
  await fetch(`${url}/mode?set=down`);
  await at("state-disconnected").first().waitFor({ timeout: 15_000 });
  assert.match(await at("completeness").innerText(), /Not known/);
  await fetch(`${url}/mode?set=ok`);
  await at("state-disconnected").waitFor({ state: "detached", timeout: 20_000 });
});
await step("theme by hand", "/", async (p, at) => {
  await at("theme-toggle").click();
  await at("theme-toggle").click();
  assert.equal(await p.evaluate(() => document.documentElement.dataset.theme), "dark");
  await p.reload();
  assert.equal(await p.evaluate(() => document.documentElement.dataset.theme), "dark");
});

await browser.close();
faults.push(...outside.map((o) => `a request outside: ${o}`));
console.log(faults.length ? `\n${faults.join("\n")}` : `\n${done} passed, no request outside, nothing against the content security policy`);
process.exitCode = faults.length ? 1 : 0;
