/** The network: loading it, running it on a region of a photograph, and finding the head with it. */

import { argmax, imageData, resize, toPlanes } from "./pixels.js";

const MAX_THREADS = 4;
const FACE = /skin|face|glass|eye_g/; // classes that hold the parts of a face together
// The square is wider than the crops of the training, to hold the hair; less so if the network sees few px of it.
const MAX_ROOM = 1.5;
const CROP_PX = 290;
const MIN_SQUARE = 64; // px of the photograph
const MIN_CELLS = 20; // of the coarse grid that hold the parts of a face
const MIN_PART_CELLS = 4;
const MIN_PARTS = 2;
const SURE_PARTS = 5;
const SETTLED = 0.1; // change of the square's side, as a share

let ort, session; // of ONNX Runtime

/** Load the network: {model: what face_parser.json says of it, engine: what runs it, in words}. */
export async function load() {
  const [description, network] = await Promise.all([download("face_parser.json"), download("face_parser.onnx")]);
  const model = JSON.parse(new TextDecoder().decode(description));
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

/** Run the network on a region of a canvas whose longer side becomes about `size` px. Returns a grid, see pixels.js. */
export async function parse(canvas, region, size) {
  const scale = size / Math.max(region.width, region.height);
  const [width, height] = [region.width, region.height].map((side) => roundToStride(side * scale));
  const input = toPlanes(imageData(resize(canvas, region, width, height)));
  const photos = new ort.Tensor("float32", input, [1, 3, height, width]);
  const run = lastRun.then(() => session.run({ photos })); // one at a time
  lastRun = run.catch(() => {});
  const { logits } = await run;
  const [, , rows, columns] = logits.dims;
  return { canvas, region, rows, columns, logits: logits.data, labels: argmax(logits.data, rows * columns) };
}

export const whole = ({ width, height }) => ({ x: 0, y: 0, width, height });

/** Look at a whole photograph, and up to twice closer at what is found: the square around the surest face, or null. */
export async function findHead(canvas, model) {
  let best = null;
  const look = async (region, size) => {
    const guess = squareAround(await parse(canvas, region, size), model, model.image_size);
    if (guess && guess.parts >= Math.min(best?.parts ?? 0, SURE_PARTS)) best = guess;
  };
  let side = Math.max(canvas.width, canvas.height); // of what was looked at
  await look(whole(canvas), model.image_size);
  if (side > model.image_size && !(best?.parts >= SURE_PARTS)) await look(whole(canvas), 2 * model.image_size);
  // Of a head that is small in the picture the first square is rough.
  for (let looks = 0; best && looks < 2 && Math.abs(best.square.width / side - 1) > SETTLED; looks++) {
    side = best.square.width;
    await look(best.square, model.image_size);
  }
  return best?.square ?? null;
}

/**
 * {square, parts}: a square inside the photograph around the surest face of a grid, as large as suits a network that
 * sees it at `size` px, and the number of parts seen; null without a face. The least-squares fit of crop_of_parts in
 * faceparse/faces/crops.py, without its turn.
 */
export function squareAround(grid, model, size) {
  const { region, rows, columns } = grid;
  const points = surestFace(grid, model).map(({ x, y, expected }) => [
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
  const side = (Math.hypot(along, across) / norm) * Math.min(MAX_ROOM, size / CROP_PX);
  const [x, y] = [0, 1].map((axis) => means[axis] + (0.5 - means[axis + 2]) * side);
  return { square: squareAt(grid.canvas, x, y, side), parts: points.length };
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
function surestFace({ labels, columns }, { names, parts }) {
  const partOf = names.map((_, id) => parts.findIndex(({ ids }) => ids.includes(id)));
  const open = Array.from(labels, (id) => partOf[id] >= 0 || FACE.test(names[id]));
  let surest = { parts: [], cells: 0 };
  for (let start = open.indexOf(true); start >= 0; start = open.indexOf(true, start)) {
    const patch = parts.map(({ centre }) => ({ x: 0, y: 0, cells: 0, expected: centre }));
    const stack = [start];
    open[start] = false;
    while (stack.length) {
      const at = stack.pop();
      const x = at % columns;
      const part = patch[partOf[labels[at]]];
      if (part) {
        part.cells += 1;
        part.x += (x + 0.5 - part.x) / part.cells;
        part.y += (Math.floor(at / columns) + 0.5 - part.y) / part.cells;
      }
      for (const next of [x > 0 ? at - 1 : -1, x < columns - 1 ? at + 1 : -1, at - columns, at + columns]) {
        if (!open[next]) continue;
        open[next] = false;
        stack.push(next);
      }
    }
    const seen = patch.filter((part) => part.cells >= MIN_PART_CELLS);
    const cells = seen.reduce((sum, part) => sum + part.cells, 0);
    const lead = seen.length - surest.parts.length || cells - surest.cells;
    if (cells >= MIN_CELLS && lead > 0) surest = { parts: seen, cells };
  }
  return surest.parts;
}
