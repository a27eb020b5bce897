import { defineConfig } from "vite";

// relative addresses, so that the page may lie at any path; no maps and no inlined data, so that the policy stays strict
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/splitveil/cloud/ui",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    chunkSizeWarningLimit: 1000,
  },
});
