/**
 * Everything that takes time, away from the page's thread: the network, and all work on pixels.
 *
 * The page sends {id, question, ...}; the function of that name in `answers` is called with the message, and what it
 * returns goes back as {id, answer}, or {id, error}. Three things are kept between questions: the network, the
 * photograph, and what was found in it.
 */

const MODEL_URL = new URL("face_parser.onnx", import.meta.url);
const VENDOR_URL = new URL("vendor/", import.meta.url);
const LONGEST_VIEW = 1280; // px of what is shown; downloads have the photograph's own size
const MOST_THREADS = 4;
// The square is laid around a face by its features, from the brows to the lower lip, whose height varies least.
const FEATURES = /nose|eye$|brow|lip|mouth/;
const FACE_PARTS = /skin|face|glass|eye_g/; // what holds features together
const STRAY = 0.05; // share of the features' cells that is left out at each side
const FEATURES_OF_FACE = 0.49; // height of the features, without the strays, as a share of the face's
const FEATURES_CENTRE = 0.6; // of the square's side, from its top
// A face of fewer px is parsed badly; a smaller share of the square's side has room for the hair.
const FACE_PX = 240;
const FACE_SHARES = [0.54, 0.9];
const SURE_FACE = 0.7; // share of the kinds of features that are seen together
const LEAST_FACE = 0.3;
const SMALLEST_FACE = 20; // cells of the coarse grid that hold features
const SETTLED = 0.1; // change of the square's side, as a share
const MOST_LOOKS = 2; // at a square, until it settles
const BACKGROUND = 0; // class id
const LEAST_OPAQUE = 0.2; // probability, below which a cut-out is transparent; what is as far from 1 is opaque
const FRAMES_BETWEEN_LOOKS = 10; // for a head in the camera's picture, while there is none

let network; // {session, ort, classes: {names, colours}, imageSize}
let photo; // {pixels: RGBA bytes, width, height}
let view; // the photograph, no larger than the screen needs
let found; // {region, logits, rows, columns, labels, isFrame}; region: {x, y, width, height} in px of the photograph
let framesWithoutFace = 0;

// ---- the network

/** Fetch a file whole, telling the page how many bytes have arrived. */
async function download(url, onBytes) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname} is missing on the server (${response.status}); run make web`);
  const reader = response.body.getReader();
  const chunks = [];
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    onBytes(part.value.length);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/**
 * Read the metadata_props of an ONNX file, {key: value}, which ONNX Runtime Web does not give.
 * The file is a protobuf message ModelProto, and metadata_props its field 14, of messages {1: key, 2: value}.
 */
function readMetadata(bytes) {
  const fields = function* (start, end) {
    let at = start;
    const varint = () => {
      let value = 0;
      for (let factor = 1; ; factor *= 128) {
        const byte = bytes[at++];
        value += (byte & 127) * factor;
        if (byte < 128) return value;
      }
    };
    while (at < end) {
      const tag = varint();
      const kind = tag & 7;
      const size = kind === 2 ? varint() : { 1: 8, 5: 4 }[kind];
      if (size === undefined) varint();
      else yield { number: tag >>> 3, start: at, end: (at += size) };
    }
  };
  const metadata = {};
  for (const field of fields(0, bytes.length)) {
    if (field.number !== 14) continue;
    const [key, value] = [...fields(field.start, field.end)].map((part) =>
      new TextDecoder().decode(bytes.subarray(part.start, part.end)),
    );
    metadata[key] = value;
  }
  return metadata;
}

/** Start ONNX Runtime with one of its engines and run the network once, so that an engine that fails fails here. */
async function startSession(engine, model, onBytes) {
  // Of the two builds with WebGPU the one for browsers that can suspend WebAssembly is much smaller.
  const gpuBuild = "Suspending" in WebAssembly ? "jspi" : "webgpu";
  const build = engine === "webgpu" ? gpuBuild : "wasm";
  const binary = { wasm: "", jspi: ".jspi", webgpu: ".asyncify" }[build];
  const ort = await import(new URL(`ort.${build}.min.mjs`, VENDOR_URL));
  ort.env.wasm.wasmPaths = VENDOR_URL.href;
  ort.env.wasm.wasmBinary = await download(new URL(`ort-wasm-simd-threaded${binary}.wasm`, VENDOR_URL), onBytes);
  // Threads need shared memory, which only a host that sends the two isolation headers gives.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  const onlyErrors = 3; // the runtime writes its warnings as errors of the console
  const options = { executionProviders: [engine], logSeverityLevel: onlyErrors };
  const session = await ort.InferenceSession.create(model, options);
  await session.run({ photos: new ort.Tensor("float32", new Float32Array(3 * 64 * 64), [1, 3, 64, 64]) });
  return { ort, session, engine, threads: ort.env.wasm.numThreads };
}

async function load() {
  let received = 0;
  const onBytes = (count) => postMessage({ received: (received += count) });
  const model = await download(MODEL_URL, onBytes);
  const metadata = readMetadata(model);
  let why = "this browser offers no WebGPU";
  if (await navigator.gpu?.requestAdapter().catch(() => null)) {
    try {
      network = await startSession("webgpu", model, onBytes);
    } catch (error) {
      console.warn(error);
      why = "WebGPU failed to start";
    }
  }
  network ??= await startSession("wasm", model, onBytes);
  network.classes = JSON.parse(metadata.classes);
  network.imageSize = Number(metadata.image_size);
  return { engine: network.engine, threads: network.threads, why, classes: network.classes };
}

/**
 * Cut a rectangle out of RGBA pixels and resize it: float32 RGB in [0, 1], planes of height x width.
 * Antialiased bilinear, rounded to bytes after each direction, as Pillow does it and so validate.py.
 */
function cutAndResize({ pixels, width: pixelsWidth }, region, width, height) {
  const across = filterTaps(region.width, width);
  const down = filterTaps(region.height, height);
  const narrow = new Uint8ClampedArray(3 * width * region.height);
  for (let y = 0; y < region.height; y++) {
    const row = (region.y + y) * pixelsWidth + region.x;
    for (let x = 0; x < width; x++) {
      const { first, weights } = across[x];
      let red = 0, green = 0, blue = 0;
      for (let tap = 0; tap < weights.length; tap++) {
        const at = 4 * (row + first + tap);
        red += weights[tap] * pixels[at];
        green += weights[tap] * pixels[at + 1];
        blue += weights[tap] * pixels[at + 2];
      }
      const to = 3 * (y * width + x);
      narrow[to] = red;
      narrow[to + 1] = green;
      narrow[to + 2] = blue;
    }
  }
  const planes = new Float32Array(3 * width * height);
  const rounded = new Uint8ClampedArray(1);
  for (let y = 0; y < height; y++) {
    const { first, weights } = down[y];
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += weights[tap] * narrow[3 * ((first + tap) * width + x) + channel];
        }
        rounded[0] = sum;
        planes[(channel * height + y) * width + x] = rounded[0] / 255;
      }
    }
  }
  return planes;
}

/** For each of `target` positions, which of `size` samples a triangle filter reads, and their weights. */
function filterTaps(size, target) {
  const scale = size / target;
  const support = Math.max(1, scale);
  return Array.from({ length: target }, (_, position) => {
    const centre = (position + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const end = Math.min(size, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let sample = first; sample < end; sample++) {
      weights.push(Math.max(0, 1 - Math.abs(sample + 0.5 - centre) / support));
    }
    const total = weights.reduce((sum, weight) => sum + weight);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** Run the network on a region of the photograph whose longer side becomes `size` px. */
async function runNetwork(region, size) {
  const scale = size / Math.max(region.width, region.height);
  const [width, height] = [region.width, region.height].map((side) => Math.max(32, Math.round(side * scale)));
  const input = new network.ort.Tensor("float32", cutAndResize(photo, region, width, height), [1, 3, height, width]);
  const { logits } = await network.session.run({ photos: input });
  const [, , rows, columns] = logits.dims;
  return { region, logits: logits.data, rows, columns, labels: coarseLabels(logits.data, rows * columns) };
}

function coarseLabels(logits, count) {
  const labels = new Uint8Array(count);
  const largest = logits.slice(0, count);
  for (let id = 1; id < network.classes.names.length; id++) {
    for (let at = 0; at < count; at++) {
      const value = logits[id * count + at];
      if (value > largest[at]) {
        largest[at] = value;
        labels[at] = id;
      }
    }
  }
  return labels;
}

// ---- from coarse logits to pixels

/** Where bilinear interpolation (pixel centres, align_corners false) reads along one side. */
function sourcePositions(size, target) {
  return Array.from({ length: target }, (_, position) => {
    const at = Math.min(size - 1, Math.max(0, ((position + 0.5) * size) / target - 0.5));
    const below = Math.floor(at);
    return { below, above: Math.min(size - 1, below + 1), weight: at - below };
  });
}

/** Call visit(pixel of a picture `width` px wide, four coarse positions, their weights) for all of the region. */
function forEachPixel(width, visit) {
  const { rows, columns } = found;
  const region = regionAt(width);
  const across = sourcePositions(columns, region.width);
  sourcePositions(rows, region.height).forEach(({ below: top, above: bottom, weight: down }, y) => {
    for (let x = 0; x < region.width; x++) {
      const { below: left, above: right, weight: along } = across[x];
      visit(
        (region.y + y) * width + region.x + x,
        top * columns + left, top * columns + right, bottom * columns + left, bottom * columns + right,
        (1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along,
      );
    }
  });
}

/** The region of what was found, in a picture of the photograph that is `width` px wide. */
function regionAt(width) {
  const scale = width / photo.width;
  const { region } = found;
  const [x, y] = [region.x, region.y].map((side) => Math.round(side * scale));
  return {
    x,
    y,
    width: Math.round((region.x + region.width) * scale) - x,
    height: Math.round((region.y + region.height) * scale) - y,
  };
}

/**
 * Class ids of a picture of width x height; background outside the region. The argmax of interpolated logits: where
 * the four around a pixel have one class so has every mixture of them, and only the other pixels are interpolated.
 */
function labelMap(width, height) {
  const map = new Uint8Array(width * height).fill(BACKGROUND);
  const { logits, labels, rows, columns } = found;
  const count = rows * columns;
  forEachPixel(width, (pixel, a, b, c, d, wa, wb, wc, wd) => {
    let best = labels[a];
    if (labels[b] !== best || labels[c] !== best || labels[d] !== best) {
      let largest = -Infinity;
      for (let offset = 0, id = 0; offset < logits.length; offset += count, id++) {
        const value =
          wa * logits[offset + a] + wb * logits[offset + b] + wc * logits[offset + c] + wd * logits[offset + d];
        if (value > largest) {
          largest = value;
          best = id;
        }
      }
    }
    map[pixel] = best;
  });
  return map;
}

/** The probability that a pixel belongs to one of some classes, float32 of width x height: soft edges, hair by hair. */
function probability(ids, width, height) {
  const { logits, rows, columns } = found;
  const count = rows * columns;
  const coarse = new Float32Array(count);
  for (let at = 0; at < count; at++) {
    let wanted = 0, all = 0;
    for (let id = 0; id < network.classes.names.length; id++) {
      const weight = Math.exp(logits[id * count + at] - logits[found.labels[at] * count + at]);
      all += weight;
      if (ids.has(id)) wanted += weight;
    }
    coarse[at] = wanted / all;
  }
  const fine = new Float32Array(width * height).fill(ids.has(BACKGROUND) ? 1 : 0); // outside the region
  forEachPixel(width, (pixel, a, b, c, d, wa, wb, wc, wd) => {
    fine[pixel] = wa * coarse[a] + wb * coarse[b] + wc * coarse[c] + wd * coarse[d];
  });
  return fine;
}

/**
 * Give parts of a picture new colours and keep its shading. `tints` is {class id: [red, green, blue]}.
 * A pixel as bright as the part's mean gets the colour itself; a darker one is as much darker, a brighter one nearer
 * to white.
 */
function recolour({ pixels, width, height }, tints) {
  const recoloured = new Uint8ClampedArray(pixels);
  const brightness = (at) => 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2] + 8;
  for (const [id, colour] of Object.entries(tints)) {
    const share = probability(new Set([Number(id)]), width, height);
    let sum = 0, weight = 0;
    for (let pixel = 0; pixel < share.length; pixel++) {
      if (share[pixel] > 0.5) {
        sum += brightness(4 * pixel);
        weight += 1;
      }
    }
    if (!weight) continue;
    const mean = sum / weight;
    for (let pixel = 0; pixel < share.length; pixel++) {
      if (share[pixel] < 0.01) continue;
      const ratio = brightness(4 * pixel) / mean;
      for (let channel = 0; channel < 3; channel++) {
        const at = 4 * pixel + channel;
        const shaded = ratio < 1 ? colour[channel] * ratio : 255 - (255 - colour[channel]) / ratio;
        recoloured[at] += share[pixel] * (shaded - recoloured[at]);
      }
    }
  }
  return { pixels: recoloured, width, height };
}

/** The colours of the classes that are shown, transparent elsewhere and where a part has a new colour of its own. */
function colourLayer(labels, width, height, { shown, tints }) {
  const colours = network.classes.colours.map(([red, green, blue], id) =>
    shown.has(id) && !tints[id] ? (255 << 24) | (blue << 16) | (green << 8) | red : 0,
  );
  const pixels = new Uint32Array(labels.length);
  for (let pixel = 0; pixel < pixels.length; pixel++) pixels[pixel] = colours[labels[pixel]];
  return { pixels: new Uint8ClampedArray(pixels.buffer), width, height };
}

// ---- finding the head

/**
 * The connected patch of face parts with the most kinds of features, which is the surest face; the larger of equals.
 * {columns, rows, kinds, share}: where the cells of its features are, and how many kinds of all; null without any.
 */
function surestFace() {
  const { labels, rows, columns } = found;
  const isFeature = network.classes.names.map((name) => FEATURES.test(name));
  const isFace = network.classes.names.map((name) => FEATURES.test(name) || FACE_PARTS.test(name));
  const open = Array.from(labels, (id) => isFace[id]);
  let surest = null;
  for (let start = 0; start < open.length; start++) {
    if (!open[start]) continue;
    const patch = { columns: [], rows: [], kinds: new Set() };
    const stack = [start];
    open[start] = false;
    while (stack.length) {
      const at = stack.pop();
      const x = at % columns;
      const y = (at - x) / columns;
      if (isFeature[labels[at]]) {
        patch.columns.push(x);
        patch.rows.push(y);
        patch.kinds.add(labels[at]);
      }
      for (const [next, isInside] of [
        [at - 1, x > 0],
        [at + 1, x < columns - 1],
        [at - columns, y > 0],
        [at + columns, y < rows - 1],
      ]) {
        if (isInside && open[next]) {
          open[next] = false;
          stack.push(next);
        }
      }
    }
    if (patch.rows.length < SMALLEST_FACE) continue;
    patch.share = patch.kinds.size / isFeature.filter(Boolean).length;
    const isLarger = patch.rows.length > surest?.rows.length;
    if (!surest || patch.share > surest.share || (patch.share === surest.share && isLarger)) surest = patch;
  }
  return surest;
}

/**
 * {square, share}: a square inside the photograph with the surest face in its middle, as large as suits a network
 * that sees it at `size` px; null without a face.
 */
function squareAroundFace(size) {
  const face = surestFace();
  if (!face || face.share < LEAST_FACE) return null;
  const pxPerCell = found.region.width / found.columns;
  const extent = (cells) => {
    cells.sort((one, other) => one - other);
    const stray = Math.floor(STRAY * cells.length);
    return [cells[stray] * pxPerCell, (cells.at(-1 - stray) + 1) * pxPerCell];
  };
  const [left, right] = extent(face.columns);
  const [top, bottom] = extent(face.rows);
  const faceShare = Math.min(FACE_SHARES[1], Math.max(FACE_SHARES[0], FACE_PX / size));
  const wanted = (bottom - top) / FEATURES_OF_FACE / faceShare;
  const side = Math.round(Math.min(photo.width, photo.height, Math.max(64, wanted)));
  const centreX = found.region.x + (left + right) / 2;
  const centreY = found.region.y + (top + bottom) / 2;
  const inside = (start, length) => Math.round(Math.min(length - side, Math.max(0, start)));
  const x = inside(centreX - side / 2, photo.width);
  const y = inside(centreY - side * FEATURES_CENTRE, photo.height);
  return { square: { x, y, width: side, height: side }, share: face.share };
}

/** Look at the whole photograph, and closer at what is found: the square around the surest face, or null. */
async function findHead() {
  let best = null;
  const look = async (region, size) => {
    found = await runNetwork(region, size);
    const guess = squareAroundFace(network.imageSize);
    if (guess && !(guess.share < best?.share)) best = guess;
  };
  await look(wholePhoto(), network.imageSize);
  const isLarge = Math.max(photo.width, photo.height) > network.imageSize;
  if (isLarge && !(best?.share > SURE_FACE)) await look(wholePhoto(), 2 * network.imageSize);
  // Of a head that is small in the picture the first square is rough.
  for (let change = 1, looks = 0; best && change > SETTLED && looks < MOST_LOOKS; looks++) {
    const { width } = best.square;
    await look(best.square, network.imageSize);
    change = Math.abs(best.square.width / width - 1);
  }
  return best?.square ?? null;
}

const wholePhoto = () => ({ x: 0, y: 0, width: photo.width, height: photo.height });

// ---- pictures

function takePhoto(bitmap) {
  const draw = (width, height) => {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white"; // behind what is transparent, as in Python
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    return { pixels: context.getImageData(0, 0, width, height).data, width, height };
  };
  const scale = Math.min(1, LONGEST_VIEW / Math.max(bitmap.width, bitmap.height));
  photo = draw(bitmap.width, bitmap.height);
  view = scale === 1 ? photo : draw(Math.round(scale * photo.width), Math.round(scale * photo.height));
  bitmap.close();
}

const toBitmap = ({ pixels, width, height }) => createImageBitmap(new ImageData(pixels, width, height));

/** Lay a colour layer over a picture, with an opacity from 0 to 1. */
function blend(picture, layer, opacity) {
  const pixels = new Uint8ClampedArray(picture.pixels);
  for (let at = 0; at < pixels.length; at++) {
    const alpha = (layer.pixels[at | 3] / 255) * opacity;
    if ((at & 3) !== 3) pixels[at] += alpha * (layer.pixels[at] - pixels[at]);
  }
  return { ...picture, pixels };
}

/** Keep some classes of a picture and make the rest transparent, with soft edges. */
function cutOut(picture, kept) {
  const pixels = new Uint8ClampedArray(picture.pixels);
  const share = probability(kept, picture.width, picture.height);
  for (let pixel = 0; pixel < share.length; pixel++) {
    pixels[4 * pixel + 3] = (255 * (share[pixel] - LEAST_OPAQUE)) / (1 - 2 * LEAST_OPAQUE);
  }
  return { ...picture, pixels };
}

async function toPng({ pixels, width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A PNG with a palette: the value of a pixel is its class id, as in a mask file, and viewers show the colours. */
async function toLabelPng(labels, width, height) {
  const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
    return byte;
  });
  const chunk = (name, data) => {
    const bytes = new Uint8Array(12 + data.length);
    const numbers = new DataView(bytes.buffer);
    numbers.setUint32(0, data.length);
    bytes.set(new TextEncoder().encode(name), 4);
    bytes.set(data, 8);
    let crc = -1;
    for (const byte of bytes.subarray(4, 8 + data.length)) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
    numbers.setUint32(8 + data.length, ~crc);
    return bytes;
  };
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, 3], 8); // bits a pixel; a palette
  const lines = new Uint8Array((width + 1) * height); // each line begins with the number of its filter, 0
  for (let y = 0; y < height; y++) lines.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Blob(
    [
      new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]),
      chunk("IHDR", header),
      chunk("PLTE", new Uint8Array(network.classes.colours.flat())),
      chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
      chunk("IEND", new Uint8Array()),
    ],
    { type: "image/png" },
  );
}

/** The two layers that the page shows, and what it needs to name the part under the pointer. */
async function show(settings) {
  const labels = labelMap(view.width, view.height);
  const counts = new Uint32Array(network.classes.names.length);
  for (const id of labels) counts[id] += 1;
  const [picture, colours] = await Promise.all([
    toBitmap(recolour(view, settings.tints)),
    toBitmap(colourLayer(labels, view.width, view.height, settings)),
  ]);
  return { picture, colours, labels, counts, width: view.width, height: view.height };
}

// ---- what the page may ask

const answers = {
  load,

  /** A new photograph: shown at once, before anything is found in it. */
  async open({ bitmap }) {
    takePhoto(bitmap);
    found = null;
    return { picture: await toBitmap(view) };
  },

  async findHead() {
    const shown = found; // which the page asks about until the new square is parsed
    try {
      return { square: await findHead() };
    } finally {
      found = shown;
    }
  },

  async parse({ square, ...settings }) {
    const start = performance.now();
    found = await runNetwork(square, network.imageSize);
    const milliseconds = performance.now() - start;
    return { milliseconds, ...(await show(settings)) };
  },

  show,

  /** A frame of the camera: parsed in the square around the face of the frame before it. */
  async frame({ bitmap, size, ...settings }) {
    takePhoto(bitmap);
    let square = found?.isFrame ? squareAroundFace(size)?.square : null;
    framesWithoutFace = square || !found?.isFrame ? 0 : framesWithoutFace + 1;
    if (!square && framesWithoutFace % FRAMES_BETWEEN_LOOKS === 0 && (await findHead())) {
      square = squareAroundFace(size)?.square;
    }
    found = { ...(await runNetwork(square ?? wholePhoto(), size)), isFrame: true };
    return show(settings);
  },

  async save({ what, opacity, ...settings }) {
    const { width, height } = photo;
    if (what === "labels") return { blob: await toLabelPng(labelMap(width, height), width, height) };
    const picture = recolour(photo, settings.tints);
    if (what === "cutout") return { blob: await toPng(cutOut(picture, settings.shown)) };
    const colours = colourLayer(labelMap(width, height), width, height, settings);
    return { blob: await toPng(blend(picture, colours, opacity)) };
  },
};

/** Questions are answered one after the other, since they share the photograph and what was found in it. */
let queue = Promise.resolve();
onmessage = ({ data: { id, question, ...message } }) => {
  queue = queue.then(async () => {
    try {
      const answer = await answers[question](message);
      postMessage({ id, answer }, Object.values(answer).filter((value) => value instanceof ImageBitmap));
    } catch (error) {
      postMessage({ id, error: error.message ?? String(error) });
    }
  });
};
