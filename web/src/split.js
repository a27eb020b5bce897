// The device's half of a bundle: checked against its passport, run by ONNX Runtime on WebAssembly.
import * as ort from "onnxruntime-web/wasm";
import runtime from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import { draw } from "./noise.js";
import { wireCodec } from "./wire.js";

ort.env.wasm.wasmPaths = { wasm: new URL(runtime, import.meta.url).href };
ort.env.wasm.numThreads = 1; // a head is small: threads would cost more than they give

async function fetched(name) {
  const answer = await fetch(`bundle/${name}`);
  if (!answer.ok) throw new Error(`expected bundle/${name}, got status ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function session(name, seal) {
  const bytes = await fetched(name);
  if (await digest(bytes) !== seal.sha256) throw new Error(`${name} is not what its seal says: it was changed or swapped`);
  return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
}

async function run(graph, feeds, output) {
  const tensors = Object.fromEntries(Object.entries(feeds).map(([name, [values, shape]]) => [name, new ort.Tensor("float32", values, [1, ...shape])]));
  return (await graph.run(tensors))[output].data;
}

/** Load and check: passport, page, graphs, and that the server holds the other half of this very bundle. */
export async function openBundle() {
  const text = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
  const [body, pageBody] = await Promise.all([fetched("passport.json"), fetched("page.json")]);
  const passport = text(body), page = text(pageBody), own = await digest(body);
  const answer = await fetch(`../v2/models/${encodeURIComponent(passport.name)}`), model = await answer.json();
  if (!answer.ok || model.passport?.sha256 !== own || page.passport !== own) throw new Error("the server answers for another bundle than this page: load it again");
  const edge = await session("edge.onnx", passport.files["edge.onnx"]);
  return new Split(passport, page, own, edge);
}

class Split {
  constructor(passport, page, digest, edge) {
    Object.assign(this, { passport, page, digest, edge, wire: wireCodec(passport) });
    this.shape = passport.input_shape;
    this.graphs = {};
  }

  graph(name) {
    this.graphs[name] ??= session(name, this.page.files[name]);
    return this.graphs[name];
  }

  /** Fresh noise for one release; `scale` multiplies normal noise, which is scaled by the graph alone. */
  noises(scale = 1) {
    return this.passport.noise.map((law) => {
      const values = draw(law);
      return law.law === "standard_normal" ? values.map((value) => value * scale) : values;
    });
  }

  /** The release of a picture under given noises, float32; the only thing that may leave. */
  async release(x, noises) {
    const feeds = { x: [x, this.shape] };
    this.passport.noise.forEach((law, place) => { feeds[law.name] = [noises[place], law.shape]; });
    return run(this.edge, feeds, "r");
  }

  /** What the attacker draws from a release. */
  async attack(r) {
    return run(await this.graph(this.page.defended.attacker), { r: [r, this.passport.release.shape] }, "x");
  }

  /** What the attacker of the undefended model draws from its release of the same picture. */
  async undefended(x) {
    const plain = this.page.undefended, feeds = { x: [x, this.shape] };
    plain.noise.forEach((law) => { feeds[law.name] = [draw(law), law.shape]; });
    const r = await run(await this.graph(plain.edge), feeds, "r");
    return run(await this.graph(plain.attacker), { r: [r, plain.release] }, "x");
  }

  /** Nats that `count` releases can tell at most at this scale of the noise; null where nothing is certified. */
  nats(scale, count = 1) {
    const told = this.page.certificate;
    if (!told) return null;
    const at = scale / Math.sqrt(count), { scales, nats } = told; // their mean has so much less noise
    if (at < scales[0]) return null;
    let place = 0; // the next finer one: more nats, never fewer
    while (place + 1 < scales.length && scales[place + 1] <= at * (1 + 1e-9)) place += 1;
    return nats[place];
  }
}
