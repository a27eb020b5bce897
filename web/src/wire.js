// The wire: codecs of a passport, and requests of the Open Inference Protocol in their binary form.

/** A release as bytes, and back: {datatype, shape, encode(r), decode(bytes)}. */
export function wireCodec({ codec, release }) {
  const count = release.shape.reduce((product, size) => product * size, 1);
  if (codec.name === "float32") {
    return {
      datatype: "FP32", shape: release.shape,
      encode: (r) => new Uint8Array(r.buffer, r.byteOffset, r.byteLength).slice(),
      decode: (bytes) => new Float32Array(bytes.slice().buffer),
    };
  }
  if (codec.name !== "quantise") throw new Error(`expected the codec float32 or quantise, got ${codec.name}`);
  return quantised(count, codec);
}

function quantised(count, { bits, low, high }) {
  const { fround } = Math, lo = fround(low), hi = fround(high), span = fround(high - low), levels = 2 ** bits - 1;
  const size = Math.ceil(bits * count / 8);
  const even = (value) => { // halves go to the even neighbour, as in numpy
    const whole = Math.floor(value), part = value - whole;
    return part > 0.5 || (part === 0.5 && whole % 2) ? whole + 1 : whole;
  };
  return {
    datatype: "UINT8", shape: [size],
    encode(r) {
      const bytes = new Uint8Array(size);
      r.forEach((value, place) => {
        const share = fround(fround(Math.min(Math.max(value, lo), hi) - lo) / span), level = even(fround(share * levels));
        for (let bit = 0; bit < bits; bit += 1) {
          const at = place * bits + bit;
          if ((level >> (bits - 1 - bit)) & 1) bytes[at >> 3] |= 128 >> (at & 7);
        }
      });
      return bytes;
    },
    decode(bytes) {
      return Float32Array.from({ length: count }, (_, place) => {
        let level = 0;
        for (let bit = 0; bit < bits; bit += 1) {
          const at = place * bits + bit;
          level = level * 2 + ((bytes[at >> 3] >> (7 - (at & 7))) & 1);
        }
        return fround(lo + fround(fround(level / levels) * span));
      });
    },
  };
}

const LENGTH = "Inference-Header-Content-Length";

/** Send one release; returns {values, shape, sent, received}, sent and received in bytes of the body. */
export async function infer(model, passport, wire, bytes) {
  const head = new TextEncoder().encode(JSON.stringify({
    parameters: { binary_data_output: true, passport },
    inputs: [{ name: "r", shape: [1, ...wire.shape], datatype: wire.datatype, parameters: { binary_data_size: bytes.length } }],
  }));
  const body = new Uint8Array(head.length + bytes.length);
  body.set(head);
  body.set(bytes, head.length);
  const answer = await fetch(`../v2/models/${encodeURIComponent(model)}/infer`, {
    method: "POST", body, headers: { "Content-Type": "application/octet-stream", [LENGTH]: String(head.length) },
  });
  const received = new Uint8Array(await answer.arrayBuffer()), text = (part) => new TextDecoder().decode(part);
  if (!answer.ok) throw new Error(`the cloud refused: ${JSON.parse(text(received)).error}`);
  const cut = Number(answer.headers.get(LENGTH) ?? received.length), output = JSON.parse(text(received.subarray(0, cut))).outputs[0];
  const values = output.data ? Float32Array.from(output.data.flat(Infinity)) : new Float32Array(received.slice(cut).buffer);
  return { values, shape: output.shape, sent: body.length, received: received.length };
}
