// Noise from the browser's cryptographic source, in the laws that a passport knows.

const SMALLEST = 2 ** -54, CHUNK = 65536 / 8; // getRandomValues gives at most 65,536 bytes a call

/** Uniform numbers in the open interval (0, 1), 53 bits each. */
export function uniform(count) {
  const values = new Float64Array(count), words = new Uint32Array(2 * Math.min(count, CHUNK));
  for (let start = 0; start < count; start += CHUNK) {
    const part = Math.min(CHUNK, count - start), drawn = words.subarray(0, 2 * part);
    crypto.getRandomValues(drawn);
    for (let i = 0; i < part; i += 1) {
      values[start + i] = (drawn[2 * i] * 2 ** 21 + (drawn[2 * i + 1] >>> 11)) * 2 ** -53 + SMALLEST;
    }
  }
  return values;
}

/** Standard normal numbers: Box and Muller, two from each pair of uniforms. */
export function normal(count) {
  const values = new Float32Array(count), u = uniform(count + (count % 2));
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(u[i])), angle = 2 * Math.PI * u[i + 1];
    values[i] = radius * Math.cos(angle);
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

const open = (value) => Math.min(Math.max(value, 2 ** -25), 1 - 2 ** -24); // an inverse CDF must stay finite in float32

/** One draw of a law {name, shape, law}, as float32. */
export function draw({ shape, law }) {
  const count = shape.reduce((product, size) => product * size, 1);
  if (law === "standard_normal") return normal(count);
  if (law === "uniform") return Float32Array.from(uniform(count), open);
  throw new Error(`expected the law standard_normal or uniform, got ${law}`);
}
