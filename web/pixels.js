/**
 * Work on pixels. A picture is an ImageData. A look is what the network says of a region of a photograph: {canvas: the
 * photograph, region: {x, y, width, height} in its px, margin: share of the sides over which it fades, rows, columns,
 * values: a plane of logits of rows x columns for each class, labels: their argmax}. Maps are made of a list of looks,
 * from that at the whole photograph to that at the head.
 */

const MIN_OPAQUE = 0.2; // probability below which a cut-out is transparent; what is as far from 1 is opaque
const ALIKE = 1 / 255; // difference of two probabilities that no picture shows

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

/** What the network takes of a region: float32 RGB in [0, 1], planes of height x width; outside, borders repeated. */
export function toPlanes(canvas, region, width, height) {
  const { data } = imageData(resize(canvas, region, width, height));
  const columns = nearestInside(region.x, region.width, canvas.width, width);
  const rows = nearestInside(region.y, region.height, canvas.height, height);
  const values = new Float32Array(3 * width * height);
  for (let channel = 0, to = 0; channel < 3; channel++) {
    for (const y of rows) {
      for (const x of columns) values[to++] = data[4 * (y * width + x) + channel] / 255;
    }
  }
  return values;
}

/** For each of `px` pixels along a region's side: the nearest that shows nothing beyond the photograph, resized too. */
function nearestInside(start, side, photoSide, px) {
  const first = start < 0 ? Math.ceil((-start * px) / side) + 1 : 0;
  const last = start + side > photoSide ? Math.floor(((photoSide - start) * px) / side) - 2 : px - 1;
  return Array.from({ length: px }, (_, at) => Math.min(last, Math.max(first, at)));
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

/** For each of `count` pixels along a picture: the cell of a look before it, its way to the next, and its weight. */
function placeAlong(start, side, cells, margin, pxPerPixel, count) {
  const [cell, way, weight] = [new Int16Array(count), new Float32Array(count), new Float32Array(count)];
  for (let pixel = 0; pixel < count; pixel++) {
    const share = ((pixel + 0.5) * pxPerPixel - start) / side;
    const at = Math.min(cells - 1, Math.max(0, share * cells - 0.5)); // 0 is the middle of the first cell
    cell[pixel] = Math.min(cells - 2, at);
    way[pixel] = at - cell[pixel];
    weight[pixel] = Math.min(1, Math.max(0, Math.min(share, 1 - share) / margin));
  }
  return { cell, way, weight };
}

/**
 * Fill a map, a value for each pixel of a picture of the whole photograph: what `decide` makes of the weighted mean of
 * the looks' values, as `combined` in faceparse/faces/looks.py. Where all labels around a pixel are the same, within
 * `tolerance`, so is that of every mean, and only the other pixels are computed.
 */
function combine(looks, { width, height }, map, decide, tolerance = 0) {
  const layers = looks.toReversed().map(({ canvas, region, margin, rows, columns, ...look }) => ({
    ...look, columns,
    across: placeAlong(region.x, region.width, columns, margin, canvas.width / width, width),
    down: placeAlong(region.y, region.height, rows, margin, canvas.height / height, height),
  }));
  const mean = new Float32Array(looks[0].values.length / looks[0].labels.length);
  for (let y = 0, pixel = 0; y < height; y++) {
    for (let x = 0; x < width; x++, pixel++) {
      let least = Infinity, most = -Infinity;
      for (const { columns, labels, across, down } of layers) {
        const weight = Math.min(across.weight[x], down.weight[y]);
        if (!weight) continue;
        const a = down.cell[y] * columns + across.cell[x];
        least = Math.min(least, labels[a], labels[a + 1], labels[a + columns], labels[a + columns + 1]);
        most = Math.max(most, labels[a], labels[a + 1], labels[a + columns], labels[a + columns + 1]);
        if (weight === 1) break; // it hides the coarser ones
      }
      map[pixel] = most - least <= tolerance ? least : decide(meanAt(layers, x, y, mean));
    }
  }
  return map;
}

/** Make `mean` the weighted mean of the values of layers, from fine to coarse, at a pixel. */
function meanAt(layers, x, y, mean) {
  mean.fill(0);
  let rest = 1; // of the weight
  for (const { columns, values, labels, across, down } of layers) {
    const weight = rest * Math.min(across.weight[x], down.weight[y]);
    if (!weight) continue;
    rest -= weight;
    const [right, low] = [across.way[x], down.way[y]];
    for (let id = 0, a = down.cell[y] * columns + across.cell[x]; id < mean.length; id++, a += labels.length) {
      const upper = (1 - right) * values[a] + right * values[a + 1];
      const lower = (1 - right) * values[a + columns] + right * values[a + columns + 1];
      mean[id] += weight * ((1 - low) * upper + low * lower);
    }
  }
  return mean;
}

/** The class ids of a picture. */
export function labelMap(looks, picture) {
  return combine(looks, picture, new Uint8Array(picture.width * picture.height), (mean) => argmax(mean, 1)[0]);
}

/**
 * The probability that each pixel of a picture belongs to one of some classes: soft edges, hair by hair. From means of
 * log-odds, which take one exponential for a pixel; as good as those of log-probabilities where two classes compete.
 */
function probability(looks, ids, picture) {
  const sigmoid = (value) => 1 / (1 + Math.exp(-value));
  const pairs = looks.map((look) => {
    const values = Float32Array.from(look.labels, (_, cell) => {
      const odds = [Number.MIN_VALUE, Number.MIN_VALUE]; // of all others, of the classes
      for (let at = cell, id = 0; at < look.values.length; at += look.labels.length, id++) {
        odds[Number(ids.has(id))] += Math.exp(look.values[at]);
      }
      return Math.log(odds[1] / odds[0]);
    });
    return { ...look, values, labels: values.map(sigmoid) };
  });
  return combine(pairs, picture, new Float32Array(picture.width * picture.height), ([odds]) => sigmoid(odds), ALIKE);
}

/**
 * Give parts of a picture new colours, {class id: [red, green, blue]}, in place, and keep its shading: a pixel as
 * bright as the part's mean gets the colour itself; a darker one is as much darker, a brighter one nearer to white.
 */
export function recolour(picture, looks, tints) {
  const { data } = picture;
  const brightness = (at) => 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2] + 8;
  for (const [id, colour] of Object.entries(tints)) {
    const shares = probability(looks, new Set([Number(id)]), picture);
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
export function cutOut(picture, looks, kept) {
  probability(looks, kept, picture).forEach((share, pixel) => {
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
