import { defineConfig } from "vitest/config";
import solid from "vite-plugin-solid";

const api = process.env.WEIR_API ?? "http://127.0.0.1:4280";

// Relative base: the page works at / and behind any path prefix.
// Nothing is inlined as data:, so that a strict content security policy holds.
export default defineConfig({
  base: "./",
  plugins: [solid()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: { proxy: { "/api": api } },
  test: { environment: "node", include: ["src/**/*.test.ts"] },
});
