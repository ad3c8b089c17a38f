/**
 * Work on pixels. A picture is an ImageData. A grid is what the network found in a region of a photograph: {canvas: the
 * photograph, region: {x, y, width, height} in its px, rows, columns, logits: a plane of rows x columns for each class,
 * labels: their argmax}.
 */

const BACKGROUND = 0; // class id
const MIN_OPAQUE = 0.2; // probability below which a cut-out is transparent; what is as far from 1 is opaque

/**
 * A canvas of width x height that shows a region of a canvas, bitmap or video. What is too large is halved first, since
 * browsers differ in how they average more than four pixels.
 */
export function resize(source, region, width, height) {
  const half = { x: 0, y: 0, width: Math.ceil(region.width / 2), height: Math.ceil(region.height / 2) };
  const isLarge = half.width >= width && half.height >= height;
  const size = isLarge ? half : { width, height };
  const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind what is transparent, as in Python
  context.fillRect(0, 0, size.width, size.height);
  context.drawImage(source, region.x, region.y, region.width, region.height, 0, 0, size.width, size.height);
  return isLarge ? resize(context.canvas, half, width, height) : context.canvas;
}

export const imageData = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);

/** What the network takes of a picture: float32 RGB in [0, 1], planes of height x width. */
export function toPlanes({ data }) {
  const values = new Float32Array((3 * data.length) / 4);
  for (let channel = 0, to = 0; channel < 3; channel++) {
    for (let at = channel; at < data.length; at += 4) values[to++] = data[at] / 255;
  }
  return values;
}

/** The class id with the largest logit, for each of `count` cells. */
export function argmax(logits, count) {
  const labels = new Uint8Array(count);
  for (let at = count; at < logits.length; at++) {
    const cell = at % count;
    if (logits[at] > logits[labels[cell] * count + cell]) labels[cell] = Math.floor(at / count);
  }
  return labels;
}

/** For each of `target` positions, between which of `size` samples it lies (pixel centres, align_corners false). */
function betweenSamples(size, target) {
  return Array.from({ length: target }, (_, position) => {
    const at = Math.min(size - 1, Math.max(0, ((position + 0.5) * size) / target - 0.5));
    const below = Math.floor(at);
    return { below, above: Math.min(size - 1, below + 1), share: at - below };
  });
}

/** Call visit(pixel, four cells around it, their weights) for each pixel of a picture within the grid's region. */
function forEachPixel({ canvas, region, rows, columns }, pictureWidth, visit) {
  const scaled = (px) => Math.round((px * pictureWidth) / canvas.width);
  const [left, top] = [scaled(region.x), scaled(region.y)];
  const across = betweenSamples(columns, scaled(region.x + region.width) - left);
  betweenSamples(rows, scaled(region.y + region.height) - top).forEach((vertical, y) => {
    const [upper, lower] = [vertical.below * columns, vertical.above * columns];
    for (let x = 0; x < across.length; x++) {
      const { below, above, share } = across[x];
      visit(
        (top + y) * pictureWidth + left + x,
        upper + below, upper + above, lower + below, lower + above,
        (1 - vertical.share) * (1 - share), (1 - vertical.share) * share,
        vertical.share * (1 - share), vertical.share * share,
      );
    }
  });
}

/**
 * Class ids of a picture of the whole photograph; background outside the region. The argmax of interpolated logits: if
 * the four cells around a pixel have one class, so has every mixture of them, and only the others are interpolated.
 */
export function labelMap(grid, { width, height }) {
  const map = new Uint8Array(width * height).fill(BACKGROUND);
  const { logits, labels } = grid;
  forEachPixel(grid, width, (pixel, a, b, c, d, wa, wb, wc, wd) => {
    let best = labels[a];
    if (labels[b] !== best || labels[c] !== best || labels[d] !== best) {
      let largest = -Infinity;
      for (let at = 0, id = 0; at < logits.length; at += labels.length, id++) {
        const value = wa * logits[at + a] + wb * logits[at + b] + wc * logits[at + c] + wd * logits[at + d];
        if (value > largest) [largest, best] = [value, id];
      }
    }
    map[pixel] = best;
  });
  return map;
}

/** The probability that each pixel of a picture belongs to one of some classes: soft edges, hair by hair. */
function probability(grid, ids, { width, height }) {
  const { logits, labels } = grid;
  const coarse = Float32Array.from(labels, (label, cell) => {
    let wanted = 0, all = 0;
    for (let at = cell, id = 0; at < logits.length; at += labels.length, id++) {
      const weight = Math.exp(logits[at] - logits[label * labels.length + cell]);
      all += weight;
      if (ids.has(id)) wanted += weight;
    }
    return wanted / all;
  });
  const fine = new Float32Array(width * height).fill(ids.has(BACKGROUND) ? 1 : 0); // outside the region
  forEachPixel(grid, width, (pixel, a, b, c, d, wa, wb, wc, wd) => {
    fine[pixel] = wa * coarse[a] + wb * coarse[b] + wc * coarse[c] + wd * coarse[d];
  });
  return fine;
}

/**
 * Give parts of a picture new colours, {class id: [red, green, blue]}, in place, and keep its shading: a pixel as
 * bright as the part's mean gets the colour itself; a darker one is as much darker, a brighter one nearer to white.
 */
export function recolour(picture, grid, tints) {
  const { data } = picture;
  const brightness = (at) => 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2] + 8;
  for (const [id, colour] of Object.entries(tints)) {
    const shares = probability(grid, new Set([Number(id)]), picture);
    let sum = 0, count = 0;
    for (let pixel = 0; pixel < shares.length; pixel++) {
      if (shares[pixel] <= 0.5) continue;
      sum += brightness(4 * pixel);
      count += 1;
    }
    for (let pixel = 0; count && pixel < shares.length; pixel++) {
      if (shares[pixel] < 0.01) continue;
      const ratio = (brightness(4 * pixel) * count) / sum;
      for (let channel = 0; channel < 3; channel++) {
        const shaded = ratio < 1 ? colour[channel] * ratio : 255 - (255 - colour[channel]) / ratio;
        data[4 * pixel + channel] += shares[pixel] * (shaded - data[4 * pixel + channel]);
      }
    }
  }
  return picture;
}

/** The colours of the classes that are shown, transparent elsewhere and over parts with a new colour. */
export function colourLayer(labels, { width, height }, colours, { shown, tints }) {
  const bytes = colours.map((colour, id) => (shown.has(id) && !tints[id] ? [...colour, 255] : [0, 0, 0, 0]));
  const values = new Uint32Array(Uint8Array.from(bytes.flat()).buffer); // a pixel each
  const layer = Uint32Array.from(labels, (id) => values[id]);
  return new ImageData(new Uint8ClampedArray(layer.buffer), width, height);
}

/** Keep some classes of a picture and make the rest transparent, in place, with soft edges. */
export function cutOut(picture, grid, kept) {
  probability(grid, kept, picture).forEach((share, pixel) => {
    picture.data[4 * pixel + 3] = (255 * (share - MIN_OPAQUE)) / (1 - 2 * MIN_OPAQUE);
  });
  return picture;
}

/** A PNG of a picture, with a layer over it if there is one. */
export async function toPng(picture, layer = null, opacity = 1) {
  const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  context.putImageData(picture, 0, 0);
  context.globalAlpha = opacity;
  if (layer) context.drawImage(await createImageBitmap(layer), 0, 0);
  return context.canvas.convertToBlob({ type: "image/png" });
}

/** A PNG with a palette: a pixel's value is its class id, as in a mask file, and viewers show the colours. */
export async function toLabelPng(labels, { width, height }, colours) {
  const lines = new Uint8Array((width + 1) * height); // each begins with the number of its filter, 0
  for (let y = 0; y < height; y++) lines.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate")));
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0803); // 8 bits a pixel; a palette
  const parts = [
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    pngChunk("IHDR", new Uint8Array(header.buffer)),
    pngChunk("PLTE", Uint8Array.from(colours.flat())),
    pngChunk("IDAT", new Uint8Array(await packed.arrayBuffer())),
    pngChunk("IEND", new Uint8Array()),
  ];
  return new Blob(parts, { type: "image/png" });
}

function pngChunk(name, data) {
  const chunk = new Uint8Array(12 + data.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  chunk.set(new TextEncoder().encode(name), 4);
  chunk.set(data, 8);
  let crc = -1;
  for (const byte of chunk.subarray(4, 8 + data.length)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  view.setUint32(8 + data.length, ~crc);
  return chunk;
}
