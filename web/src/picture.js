// Pictures between files, cameras, canvases and tensors.

/** The middle square of an image or video as float32 (c, h, w) in [0, 1]. */
export function toTensor(source, [c, h, w]) {
  const width = source.videoWidth || source.naturalWidth || source.width;
  const height = source.videoHeight || source.naturalHeight || source.height;
  const scale = Math.min(width / w, height / h), cut = [w * scale, h * scale];
  const canvas = document.createElement("canvas");
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = width !== w || height !== h;
  context.drawImage(source, (width - cut[0]) / 2, (height - cut[1]) / 2, cut[0], cut[1], 0, 0, w, h);
  const pixels = context.getImageData(0, 0, w, h).data, values = new Float32Array(c * h * w);
  for (let i = 0; i < h * w; i += 1) {
    const [r, g, b] = pixels.subarray(4 * i, 4 * i + 3);
    if (c === 1) values[i] = (r === g && g === b ? r : 0.299 * r + 0.587 * g + 0.114 * b) / 255;
    else for (let k = 0; k < c; k += 1) values[k * h * w + i] = pixels[4 * i + Math.min(k, 2)] / 255;
  }
  return values;
}

/** Draw float32 (c, h, w) on a canvas, pixel by pixel. */
export function paint(canvas, values, [c, h, w]) {
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d"), image = context.createImageData(w, h);
  for (let i = 0; i < h * w; i += 1) {
    for (let k = 0; k < 3; k += 1) image.data[4 * i + k] = 255 * Math.min(Math.max(values[Math.min(k, c - 1) * h * w + i], 0), 1) + 0.5;
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** PSNR of two pictures in [0, 1], dB, at most 100. */
export function psnr(a, b) {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length;
  return -10 * Math.log10(Math.max(error, 1e-10));
}
