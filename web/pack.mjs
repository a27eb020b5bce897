// Compress what was built: the runtime is 14 MB of WebAssembly, and a wheel, a repository and a wire want 4 MB.
import { readdirSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const folder = new URL("../src/splitveil/cloud/ui/assets/", import.meta.url);
for (const name of readdirSync(folder)) {
  if (!/\.(wasm|js|css)$/.test(name)) continue;
  const file = new URL(name, folder);
  writeFileSync(new URL(`${name}.gz`, folder), gzipSync(readFileSync(file), { level: 9 }));
  unlinkSync(file);
}
