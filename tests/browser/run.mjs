// The page of a running `weir demo`, in a real browser. Needs root; run after `make build`.
//
//   node tests/browser/run.mjs            starts a demo of its own
//   WEIR_SHOT=1 node tests/browser/run.mjs    also takes docs/screenshot.png
//
// Prints a line per test and ends with "N passed, M failed".
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "../../ui/web/dev/browser.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const weir = process.env.WEIR ?? join(root, "target/debug/weir");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// --- the demo -----------------------------------------------------------------------------------

const folder = mkdtempSync(join(tmpdir(), "weir-browser-"));
const ready = join(folder, "ready.json");
const demo = spawn(weir, ["demo", "--listen", "127.0.0.1:0", "--seconds", "240", "--ready-file", ready]);
let printed = "";
demo.stdout.on("data", (data) => (printed += data));
demo.stderr.on("data", (data) => (printed += data));
const ended = new Promise((done) => demo.on("exit", done));

async function address() {
  for (let i = 0; i < 900 && demo.exitCode === null; i++) {
    try {
      return JSON.parse(readFileSync(ready, "utf8")).ui.replace(/\/$/, "");
    } catch {
      await sleep(100);
    }
  }
  throw new Error(`the demo is not ready:\n${printed}`);
}

/** Runs a shell line inside a pod of the demo. */
function inPod(pod, line) {
  execFileSync("nsenter", [`--net=/run/netns/weir-demo-${pod}`, "bash", "-c", line], { stdio: "ignore" });
}

/** The IPv4 address of a pod. */
function addressOf(pod) {
  const text = execFileSync("ip", ["-n", `weir-demo-${pod}`, "-j", "-4", "addr", "show", "eth0"], { encoding: "utf8" });
  return JSON.parse(text)[0].addr_info[0].local;
}

// --- tests --------------------------------------------------------------------------------------

let passed = 0;
let failed = 0;
const outside = new Set();

async function test(name, path, body) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const faults = [];
  page.on("request", (r) => !r.url().startsWith(url) && !/^(blob|data):/.test(r.url()) && outside.add(r.url()));
  page.on("pageerror", (e) => faults.push(e.message));
  page.on("console", (m) => m.type() === "error" && faults.push(m.text()));
  try {
    await page.goto(url + path);
    await body(page, (id) => page.getByTestId(id));
    assert.deepEqual(faults, [], "errors in the page");
    console.log(`ok      ${name}`);
    passed++;
  } catch (error) {
    console.log(`FAILED  ${name}\n${error.stack}\n${faults.join("\n")}`);
    failed++;
  }
  await context.close();
}

const texts = (locator) => locator.evaluateAll((all) => all.map((e) => e.innerText.replace(/\s+/g, " ")));
const search = (page) => new URL(page.url()).searchParams;

let url;
let browser;
try {
  url = await address();
  browser = await launch();
  await tests();
} catch (error) {
  console.log(`FAILED  ${error.stack}`);
  failed++;
} finally {
  await browser?.close();
  demo.kill("SIGINT");
  await ended;
  rmSync(folder, { recursive: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);

async function tests() {
  await test("flows come live, with pods and workloads", "/", async (page, at) => {
    await at("flow-row").nth(10).waitFor();
    const rows = (await texts(at("flow-row"))).join("\n");
    for (const name of ["web", "api"]) assert.match(rows, new RegExp(name), rows);
    assert.match(await at("health-strip").innerText(), /2\/2/);
  });

  await test("a flow appears within two seconds of its packet", "/", async (page, at) => {
    await at("flow-row").first().waitFor();
    const to = addressOf("cart-0");
    const delays = [];
    for (const port of [4701, 4702, 4703, 4704, 4705]) {
      await at("filter-clear").click().catch(() => {});
      await at("filter-input").fill(`destination_port=${port}`);
      await page.keyboard.press("Enter");
      await page.waitForURL(/destination_port=/);
      await sleep(1500);
      assert.equal(await at("flow-row").count(), 0);
      const sent = Date.now();
      inPod("loadgen-0", `exec 3<>/dev/tcp/${to}/${port} || true`);
      await at("flow-row").first().waitFor();
      delays.push(Date.now() - sent);
    }
    console.log(`        after ${delays.join(", ")} ms`);
    assert.ok(Math.max(...delays) < 2000, `${delays} ms`);
  });

  await test("a filter shows what matches and nothing else, and is in the address", "/", async (page, at) => {
    await at("flow-row").first().waitFor();
    await at("filter-input").fill("protocol=UDP");
    await page.keyboard.press("Enter");
    await page.waitForURL(/protocol=UDP/);
    await at("flow-row").nth(3).waitFor();
    for (const row of await texts(at("flow-row"))) assert.match(row, /UDP/);
    await page.reload();
    assert.equal(search(page).get("protocol"), "UDP");
    await at("flow-row").nth(3).waitFor();
    for (const row of await texts(at("flow-row"))) assert.match(row, /UDP/);
  });

  await test("completion offers real values", "/flows?since=5m", async (page, at) => {
    await at("flow-row").first().waitFor();
    await at("filter-input").fill("source_workload=lo");
    await page.locator("#filter-choices li", { hasText: "loadgen" }).first().waitFor();
    await page.keyboard.press("Tab");
    assert.equal(search(page).get("source_workload"), "loadgen");
  });

  await test("a flow opens with its reason, both ends and its intervals", "/flows?since=5m&source_workload=web&destination_workload=api", async (page, at) => {
    await at("flow-row").first().click({ position: { x: 30, y: 8 } });
    // The history of the flow comes a moment after what the table knows of it.
    await at("flow-detail").getByText(/interval/).first().waitFor();
    await at("flow-detail").getByText(/Seen at/).first().waitFor();
    const detail = await at("flow-detail").innerText();
    for (const part of [/web/, /api/, /interval/, /Seen at/]) assert.match(detail, part);
  });

  await test("the map has the demo's workloads and who talks to whom", "/map?since=5m", async (page, at) => {
    await at("map-edge").first().waitFor();
    const nodes = await at("map-node").evaluateAll((all) => all.map((e) => e.getAttribute("aria-label")));
    for (const name of ["shop/web", "shop/api", "shop/cart", "shop/loadgen", "data/redis", "kube-system/dns"]) {
      assert.ok(nodes.some((node) => node.includes(name)), `${name} is not in ${nodes}`);
    }
    const edges = await at("map-edge").evaluateAll((all) => all.map((e) => e.getAttribute("aria-label")));
    assert.ok(edges.some((edge) => /web.*api/.test(edge)), edges.join("\n"));
  });

  await test("SQL runs and shows its rows", "/sql", async (page, at) => {
    await at("sql-editor").fill("SELECT source_workload, sum(bytes_out) AS b FROM flows WHERE source_workload IS NOT NULL GROUP BY 1 ORDER BY 1");
    await at("sql-run").click();
    await at("sql-result").locator("tbody tr").nth(3).waitFor();
    const result = await at("sql-result").innerText();
    for (const name of ["api", "cart", "loadgen", "web"]) assert.match(result, new RegExp(`\\b${name}\\b`));
  });

  await test("wrong SQL says what is wrong", "/sql", async (page, at) => {
    page.removeAllListeners("console"); // the browser logs the status 400 by itself
    await at("sql-editor").fill("SELECT nothing FROM flows");
    await at("sql-run").click();
    assert.match(await at("sql-error").innerText(), /nothing/);
  });

  await test("health shows both nodes", "/health", async (page, at) => {
    await at("node-card").nth(1).waitFor();
    const cards = (await texts(at("node-card"))).join("\n");
    for (const node of ["node-a", "node-b"]) assert.match(cards, new RegExp(node));
  });

  await test("nothing is asked of another host", "/", async (page, at) => {
    await at("flow-row").first().waitFor();
    assert.deepEqual([...outside], []);
  });

  if (process.env.WEIR_SHOT) await shots();
}

/** The pictures of the README. */
async function shots() {
  await sleep(35_000); // a burst and a policy's drops are in the picture
  for (const [name, path, scheme] of [["screenshot", "/flows?since=5m", "light"], ["screenshot-map", "/map?since=5m", "light"]]) {
    const page = await browser.newPage({ viewport: { width: 1440, height: 860 }, colorScheme: scheme });
    await page.goto(url + path);
    await sleep(2500);
    await page.screenshot({ path: join(root, `docs/${name}.png`) });
    await page.close();
  }
}
