/** The network: loading it, running it on a region of a photograph, and finding the head with it. */

import { argmax, toPlanes } from "./pixels.js";

const MAX_THREADS = 4;
const FACE = /skin|face|glass|eye_g/; // classes that hold the parts of a face together
const MIN_SQUARE = 64; // px of the photograph
const MIN_CELLS = 20; // of the coarse grid that hold the parts of a face
const MIN_PART_CELLS = 4;
const MIN_PARTS = 2;
const SURE_PARTS = 5;
const SETTLED = 0.1; // change of the square's side, as a share

let ort, session; // of ONNX Runtime
let model; // what face_parser.json says of the network

/** Load the network: {model, engine: what runs it, in words}. */
export async function load() {
  const [description, network] = await Promise.all([download("face_parser.json"), download("face_parser.onnx")]);
  model = JSON.parse(new TextDecoder().decode(description));
  let why = "this browser offers no WebGPU";
  if (await navigator.gpu?.requestAdapter().catch(() => null)) {
    try {
      await startSession("webgpu", network);
      return { model, engine: "WebGPU" };
    } catch (error) {
      console.warn(error);
      why = "WebGPU failed to start";
    }
  }
  await startSession("wasm", network);
  const { numThreads } = ort.env.wasm;
  return { model, engine: `WebAssembly, ${numThreads === 1 ? "one thread" : `${numThreads} threads`} (${why})` };
}

async function download(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} is missing on the server (${response.status}); run make web`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Start ONNX Runtime with one of its engines and run the network once, so that an engine that fails fails here. */
async function startSession(engine, network) {
  // Of the two builds with WebGPU the one for browsers that can suspend WebAssembly is much smaller.
  const gpuBuild = "Suspending" in WebAssembly ? ["jspi", ".jspi"] : ["webgpu", ".asyncify"];
  const [build, binary] = engine === "webgpu" ? gpuBuild : ["wasm", ""];
  ort = await import(`./vendor/ort.${build}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;
  ort.env.wasm.wasmBinary = await download(`vendor/ort-wasm-simd-threaded${binary}.wasm`);
  // Threads need shared memory, which only a host that sends the two isolation headers gives.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.proxy = engine === "wasm"; // in a worker, so that the page does not freeze
  const onlyErrors = 3; // the runtime writes its warnings as errors of the console
  session = await ort.InferenceSession.create(network, { executionProviders: [engine], logSeverityLevel: onlyErrors });
  await session.run({ photos: new ort.Tensor("float32", new Float32Array(3 * 64 * 64), [1, 3, 64, 64]) });
}

/** Other sides would shift the labels; as round_to_stride in faceparse/inference/image_size.py. */
const roundToStride = (side) => Math.max(32, 16 * Math.round(side / 16));

let lastRun = Promise.resolve();

export const whole = ({ width, height }) => ({ x: 0, y: 0, width, height });

const isWhole = (canvas, region) => region.width === canvas.width && region.height === canvas.height;

/** The longer side at the network, px, of a region that is looked at as FaceParser does. */
const lookSize = (canvas, region) =>
  isWhole(canvas, region) ? model.image_size : Math.min(model.image_size, model.max_enlargement * region.width);

/** Look at a region of a canvas, whose longer side becomes about `size` px. Returns a look, see pixels.js. */
export async function look(canvas, region, size = lookSize(canvas, region)) {
  const scale = size / Math.max(region.width, region.height);
  const [width, height] = [region.width, region.height].map((side) => roundToStride(side * scale));
  const photos = new ort.Tensor("float32", toPlanes(canvas, region, width, height), [1, 3, height, width]);
  const run = lastRun.then(() => session.run({ photos })); // one at a time
  lastRun = run.catch(() => {});
  const { logits } = await run;
  const [, , rows, columns] = logits.dims;
  const margin = isWhole(canvas, region) ? 0 : model.margin;
  return { canvas, region, margin, rows, columns, values: logits.data, labels: argmax(logits.data, rows * columns) };
}

/** The connected cells of `open` from a start, which are closed in it. */
function takePiece(open, start, columns) {
  const piece = [start];
  open[start] = false;
  for (const at of piece) { // which grows
    const x = at % columns;
    for (const next of [x > 0 ? at - 1 : -1, x < columns - 1 ? at + 1 : -1, at - columns, at + columns]) {
      if (!open[next]) continue;
      open[next] = false;
      piece.push(next);
    }
  }
  return piece;
}

/**
 * A look at a whole photograph without small pieces of people but for that of the face in a square; as
 * without_islands in faceparse/faces/looks.py.
 */
export function withoutIslands(coarsest, { x, y, width }) {
  const { canvas, rows, columns } = coarsest;
  const [labels, values] = [coarsest.labels.slice(), coarsest.values.slice()];
  const cellAt = (row, column) => Math.floor(row) * columns + Math.floor(column);
  const face = cellAt(((y + width / 2) / canvas.height) * rows, ((x + width / 2) / canvas.width) * columns);
  const open = Array.from(labels, (id) => id > 0);
  const pieces = [];
  for (let start = open.indexOf(true); start >= 0; start = open.indexOf(true, start)) {
    pieces.push(takePiece(open, start, columns));
  }
  const least = model.island * Math.max(...pieces.map((piece) => piece.length));
  const islands = pieces.filter((piece) => piece.length < least && !piece.includes(face));
  for (const at of islands.flat()) labels[at] = 0;
  const reach = Array.from({ length: 2 * model.island_edge + 1 }, (_, at) => at - model.island_edge);
  const around = reach.flatMap((down) => reach.map((across) => [down, across]));
  for (const at of islands.flat()) {
    for (const [down, across] of around) {
      const [row, column] = [Math.floor(at / columns) + down, (at % columns) + across];
      const cell = cellAt(row, column);
      if (row < 0 || row >= rows || column < 0 || column >= columns || labels[cell]) continue; // beyond it, or of people
      for (let id = 0; id < model.names.length; id++) values[id * labels.length + cell] = id ? Math.log(1e-3) : 0;
    }
  }
  return { ...coarsest, labels, values };
}

/** The looks from that at a whole photograph to that at a square of it, as FaceParser's in faceparse/faces. */
export async function lookCloser(coarsest, square) {
  const { canvas } = coarsest;
  if (square.width ** 2 / (canvas.width * canvas.height) >= model.portrait_overlap) return [coarsest]; // a portrait
  const looks = [withoutIslands(coarsest, square)];
  const steps = Math.log(Math.max(canvas.width, canvas.height) / square.width) / Math.log(model.step);
  for (let power = Math.ceil(steps) - 1; power >= 0; power--) {
    const side = square.width * model.step ** power;
    const beyond = (side - square.width) / 2;
    looks.push(await look(canvas, { x: square.x - beyond, y: square.y - beyond, width: side, height: side }));
  }
  return looks;
}

/** Look up to twice closer at what the look at a whole photograph shows: the square around the surest face, or null. */
export async function findHead(coarsest) {
  const { canvas } = coarsest;
  let best = squareAround(coarsest);
  const lookAgain = async (region, size) => {
    const guess = squareAround(await look(canvas, region, size));
    if (guess && guess.parts >= Math.min(best?.parts ?? 0, SURE_PARTS)) best = guess;
  };
  let side = Math.max(canvas.width, canvas.height); // of what was looked at
  if (side > model.image_size && !(best?.parts >= SURE_PARTS)) await lookAgain(whole(canvas), 2 * model.image_size);
  // Of a head that is small in the picture the first square is rough.
  for (let looks = 0; best && looks < 2 && Math.abs(best.square.width / side - 1) > SETTLED; looks++) {
    side = best.square.width;
    await lookAgain(best.square);
  }
  return best?.square ?? null;
}

/**
 * {square, parts}: a square inside the photograph around the surest face of a look, and the number of parts seen; null
 * without a face. The least-squares fit of crop_of_parts in faceparse/faces/crops.py, without its turn.
 */
export function squareAround({ canvas, region, rows, columns, labels }) {
  const points = surestFace(labels, columns).map(({ x, y, expected }) => [
    region.x + (x * region.width) / columns,
    region.y + (y * region.height) / rows,
    ...expected,
  ]);
  if (points.length < MIN_PARTS) return null;
  const means = [0, 1, 2, 3].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  let along = 0, across = 0, norm = 0;
  for (const point of points) {
    const [x, y, expectedX, expectedY] = point.map((value, axis) => value - means[axis]);
    along += x * expectedX + y * expectedY;
    across += y * expectedX - x * expectedY;
    norm += expectedX ** 2 + expectedY ** 2;
  }
  const side = Math.hypot(along, across) / norm;
  const [x, y] = [0, 1].map((axis) => means[axis] + (0.5 - means[axis + 2]) * side);
  return { square: squareAt(canvas, x, y, side), parts: points.length };
}

/** A square around a point, as far as the photograph allows. */
export function squareAt(photo, centreX, centreY, size) {
  const side = Math.round(Math.min(photo.width, photo.height, Math.max(MIN_SQUARE, size)));
  const start = (centre, length) => Math.round(Math.min(length - side, Math.max(0, centre - side / 2)));
  return { x: start(centreX, photo.width), y: start(centreY, photo.height), width: side, height: side };
}

/**
 * The parts of the surest face: of the connected patches of face classes that with the most parts, the larger of
 * equals. A list of {x, y: centre in cells, cells, expected: centre in the training crops as shares of the side}.
 */
function surestFace(labels, columns) {
  const { names, parts } = model;
  const partOf = names.map((_, id) => parts.findIndex(({ ids }) => ids.includes(id)));
  const open = Array.from(labels, (id) => partOf[id] >= 0 || FACE.test(names[id]));
  let surest = { parts: [], cells: 0 };
  for (let start = open.indexOf(true); start >= 0; start = open.indexOf(true, start)) {
    const patch = parts.map(({ centre }) => ({ x: 0, y: 0, cells: 0, expected: centre }));
    for (const at of takePiece(open, start, columns)) {
      const part = patch[partOf[labels[at]]];
      if (!part) continue;
      part.cells += 1;
      part.x += ((at % columns) + 0.5 - part.x) / part.cells;
      part.y += (Math.floor(at / columns) + 0.5 - part.y) / part.cells;
    }
    const seen = patch.filter((part) => part.cells >= MIN_PART_CELLS);
    const cells = seen.reduce((sum, part) => sum + part.cells, 0);
    const lead = seen.length - surest.parts.length || cells - surest.cells;
    if (cells >= MIN_CELLS && lead > 0) surest = { parts: seen, cells };
  }
  return surest.parts;
}
