// The page: a picture in, a release out, and what all sides see of it.
import { paint, psnr, toTensor } from "./picture.js";
import { openBundle } from "./split.js";
import { infer } from "./wire.js";

const $ = (id) => document.getElementById(id);
const state = { split: null, x: null, mean: null, count: 0, requests: 0, busy: Promise.resolve() };
const said = (value, digits = 1) => value.toFixed(digits).replace("-", "−");
const scale = () => ($("scale").disabled ? 1 : 2 ** Number($("scale").value));

function fail(error) {
  $("status").className = "error";
  $("status").textContent = error.message ?? String(error);
}

/** One thing after the other, so that releases and their mean belong together. */
function enqueue(work) {
  state.busy = state.busy.then(work).catch(fail);
  return state.busy;
}

function certificate() {
  const nats = state.split.nats(scale(), Math.max(state.count, 1));
  $("scale-out").textContent = `${Number(scale().toPrecision(3))}×`;
  $("nats").textContent = nats === null ? "–" : said(nats, nats < 10 ? 2 : 0);
  const many = state.count > 1 ? `${state.count} releases` : "what was sent";
  $("nats-small").textContent = `nats, certified: the most that anyone can learn of the picture from ${many}`;
}

function showBytes(bytes, sent) {
  const rows = [];
  for (let at = 0; at < Math.min(bytes.length, 128); at += 16) {
    rows.push([...bytes.subarray(at, at + 16)].map((byte) => byte.toString(16).padStart(2, "0")).join(" "));
  }
  $("sent").textContent = rows.join("\n") + (bytes.length > 128 ? `\n… ${bytes.length - 128} more` : "");
  $("sent-size").textContent = `${bytes.length} bytes of features, ${sent} with the header`;
}

function showAnswer(values) {
  const names = state.split.passport.class_names, largest = Math.max(...values);
  const shares = [...values].map((value) => Math.exp(value - largest)), total = shares.reduce((a, b) => a + b, 0);
  const order = shares.map((share, place) => [share / total, names[place] ?? String(place)]).sort((a, b) => b[0] - a[0]);
  $("label").textContent = order[0][1];
  $("share").textContent = `${said(100 * order[0][0])} %`;
  $("answer").replaceChildren(...order.slice(0, 5).map(([share, name]) => {
    const row = document.createElement("li"), bar = document.createElement("meter");
    bar.min = 0;
    bar.max = 1;
    bar.value = share;
    bar.setAttribute("aria-label", `${name}, ${said(100 * share)} %`);
    row.append(name, bar);
    return row;
  }));
}

function log(target, sent, received) {
  state.requests += 1;
  const row = document.createElement("tr");
  [state.requests, target, sent, received].forEach((text) => { row.insertCell().textContent = text; });
  $("log").prepend(row);
  while ($("log").rows.length > 200) $("log").lastElementChild.remove();
}

async function send() {
  const { split, x } = state, began = performance.now();
  const bytes = split.wire.encode(await split.release(x, split.noises(scale())));
  const answer = await infer(split.passport.name, split.digest, split.wire, bytes);
  const r = split.wire.decode(bytes); // what the cloud holds, and so what an attacker holds
  state.count += 1;
  state.mean = state.mean ? state.mean.map((value, place) => value + (r[place] - value) / state.count) : r.slice();
  log("the cloud: one release", answer.sent, answer.received);
  return { bytes, answer, r, took: performance.now() - began };
}

async function show({ bytes, answer, r, took }) {
  const { split, x } = state;
  showBytes(bytes, answer.sent);
  showAnswer(answer.values);
  $("took").textContent = `${said(took, 0)} ms from picture to answer, head and network together`;
  for (const [id, values] of [["defended", await split.attack(r)], ["averaged", await split.attackMean(state.mean, state.count)]]) {
    paint($(id), values, split.shape);
    $(`${id}-db`).textContent = `${said(psnr(x, values))} dB`;
  }
  $("count").textContent = state.count;
  certificate();
}

async function again(times) {
  let last;
  for (let number = 0; number < times; number += 1) {
    last = await send();
    if (number % 10 === 9) $("averaging").textContent = `${number + 1} of ${times}`;
  }
  await show(last);
  $("averaging").textContent = state.count > 1 ? `${state.count} releases of this picture have been sent` : "1 release of this picture has been sent";
  $("status").textContent = "The picture is still here; what left stands below.";
}

function restart() {
  state.mean = null;
  state.count = 0;
  $("averaging").textContent = "";
}

async function take(x) {
  const { split } = state;
  state.x = x;
  restart();
  paint($("original"), x, split.shape);
  if (split.page.undefended) {
    const values = await split.undefended(x);
    paint($("undefended"), values, split.shape);
    $("undefended-db").textContent = `${said(psnr(x, values))} dB`;
  }
  await again(1);
}

async function open(source) {
  const image = await createImageBitmap(source);
  await take(toTensor(image, state.split.shape));
  image.close();
}

function samples() {
  $("samples").append(...state.split.page.samples.map(({ label, png }, place) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    image.src = `data:image/png;base64,${png}`;
    image.alt = `Sample of class ${label}`;
    button.append(image);
    button.dataset.sample = place;
    button.addEventListener("click", () => enqueue(async () => { await image.decode(); await take(toTensor(image, state.split.shape)); }));
    return button;
  }));
}

async function camera() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  $("video").srcObject = stream;
  await $("video").play();
  $("video").hidden = $("shoot").hidden = false;
  $("shoot").onclick = () => enqueue(async () => {
    const x = toTensor($("video"), state.split.shape);
    stream.getTracks().forEach((track) => track.stop());
    $("video").hidden = $("shoot").hidden = true;
    await take(x);
  });
}

function listen() {
  $("file").addEventListener("change", () => { if ($("file").files[0]) enqueue(() => open($("file").files[0])); });
  $("drop").addEventListener("dragover", (event) => event.preventDefault());
  $("drop").addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) enqueue(() => open(file));
  });
  $("camera").addEventListener("click", () => enqueue(camera));
  [["again", 1], ["again10", 10], ["again100", 100]].forEach(([id, times]) => $(id).addEventListener("click", () => enqueue(() => again(times))));
  $("scale").addEventListener("input", certificate);
  $("scale").addEventListener("change", () => enqueue(async () => { restart(); if (state.x) await again(1); }));
}

function describe() {
  const { passport, page } = state.split;
  if (!page.certificate) {
    $("scale").disabled = true;
    $("nats-note").textContent = "No capacity is certified for this bundle, so its noise cannot be changed here.";
  } else {
    const largest = page.largest_scale ?? 4, step = Number($("scale").step);
    $("scale").max = Math.min(Number($("scale").max), Math.floor(Math.log2(largest) / step + 1e-6) * step);
    $("nats-note").textContent = "By the capacity of the channel: clipped features under Gaussian noise. One nat is 1.44 bits."
      + (largest < 4 ? " The slider ends where the server would take releases for another bundle’s." : "");
  }
  if (!page.undefended) $("undefended-figure").hidden = true;
  if (page.combine !== "mean") $("attack-note").textContent = "For this defense the mean is not what several releases amount to; the last picture shows it all the same.";
  else $("attack-note").textContent = `The attacker is the decoder '${page.defended.attack}', ${said(page.defended.psnr_db)} dB on ${page.defended.pictures} test pictures.`
    + (page.averaging ? ` From ${page.averaging.observations} releases on, the mean meets one that learned from as many, ${said(page.averaging.psnr_db)} dB.` : " It learned from single releases and gains little from their mean; an audit with --observations 16 leaves one that learned from many.");
  $("about").textContent = `Bundle ${passport.name}, defense ${passport.defense.name}, passport ${state.split.digest.slice(0, 16)}…`;
}

async function start() {
  state.split = await openBundle();
  window.splitveil = state.split; // for whoever wants to look closer, and for the tests
  samples();
  describe();
  certificate();
  listen();
  $("main").hidden = false;
  $("status").textContent = "Ready. Nothing has been sent yet.";
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start().catch(fail);
