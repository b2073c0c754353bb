// A stand-in for the relay: plausible answers of /api/v1 and the built page from dist/, under a strict policy.
//   node dev/mock.mjs [--port 4280] [--mode ok|lossy|empty|down]
import { createServer } from "node:http";
import { existsSync, readFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import { answer, makeFlow, reset } from "./world.mjs";

const arg = (name, fallback) => {
  const i = process.argv.indexOf(`--${name}`);
  return i < 0 ? fallback : process.argv[i + 1];
};
const port = Number(arg("port", "4280"));
let mode = arg("mode", "ok");
const streams = new Set();
const dist = new URL("../dist/", import.meta.url).pathname;
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

function json(res, status, body, headers = {}) {
  res.writeHead(status, { "content-type": "application/json", ...headers });
  res.end(JSON.stringify(body));
}

function page(res, path) {
  let file = join(dist, normalize(path));
  const found = extname(file) && existsSync(file);
  if (!found && path.startsWith("/assets/")) return void res.writeHead(404).end();
  if (!found) file = join(dist, "index.html");
  res.writeHead(200, {
    "content-type": TYPES[extname(file)] ?? "application/octet-stream",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
  });
  res.end(readFileSync(file));
}

function stream(res, params) {
  res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  streams.add(res.socket);
  let id = 0;
  const send = (event, data) => res.write(`event: ${event}\nid: ${id++}\ndata: ${JSON.stringify(data)}\n\n`);
  const status = () =>
    send("status", { time: new Date().toISOString(), rate: mode === "empty" ? 0 : 38.4, completeness: answer("completeness", params, mode) });
  status();
  const timers = [setInterval(status, 1000)];
  if (mode !== "empty") {
    for (let i = 0; i < 60; i++) send("flow", makeFlow(params));
    timers.push(setInterval(() => send("flow", makeFlow(params)), 90));
  }
  if (mode === "lossy") {
    send("gap", { lost: 1204, cause: "event ring full on node-b" });
    timers.push(setInterval(() => send("gap", { lost: 87, cause: "event ring full on node-b" }), 4000));
  }
  res.on("close", () => {
    streams.delete(res.socket);
    timers.forEach(clearInterval);
  });
}

createServer((req, res) => {
  const url = new URL(req.url, "http://localhost");
  if (url.pathname === "/mode") {
    mode = url.searchParams.get("set") ?? mode;
    reset();
    if (mode === "down") for (const s of streams) s.destroy();
    return json(res, 200, { mode });
  }
  if (!url.pathname.startsWith("/api/")) return page(res, url.pathname);
  if (mode === "down") return req.socket.destroy();
  const path = url.pathname.replace(/^\/api\/v1\//, "");
  if (path === "flows" && url.searchParams.get("follow") === "true") return stream(res, url.searchParams);
  let body = "";
  req.on("data", (d) => (body += d));
  req.on("end", () => {
    const out = answer(path, url.searchParams, mode, body);
    if (!out) return json(res, 404, { error: { code: "not_found", message: `no such path: ${url.pathname}`, hint: "see /api/v1/openapi.json" } });
    if (out.error) return json(res, 400, out);
    if (path === "sql" && req.headers.accept === "text/csv") {
      res.writeHead(200, { "content-type": "text/csv", "weir-completeness": JSON.stringify(out.completeness) });
      return res.end([out.schema.map((c) => c.name), ...out.rows].map((r) => r.join(",")).join("\r\n"));
    }
    setTimeout(() => json(res, 200, out), 40);
  });
}).listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/  mode ${mode}`));
