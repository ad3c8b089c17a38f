/** The page: what is on the screen and what a person does with it. The network and the pixels are in worker.js. */

const SAMPLE_URL = "sample.jpg";
// Px of the longer side that the network sees of a frame: as many as the device manages.
const CAMERA_SIZES = [256, 320, 384, 512];
const TOO_SLOW = 4; // frames a second
const FAST_ENOUGH = 8; // to try the next size, which costs at most 1.8 times as much
const MOST_PIXELS = 4096 * 4096; // what a canvas holds on every phone
const SMALLEST_SQUARE = 64; // px of the photograph
const BACKGROUND = 0;
// Class names as data sets abbreviate them, in plain words; others are shown as they are. Left is the person's own.
const PLAIN_NAMES = {
  eye_g: "glasses",
  l_eye: "left eye",
  r_eye: "right eye",
  l_brow: "left brow",
  r_brow: "right brow",
  l_ear: "left ear",
  r_ear: "right ear",
  u_lip: "upper lip",
  l_lip: "lower lip",
  i_mouth: "inner mouth",
  ear_r: "earring",
  neck_l: "necklace",
  cloth: "clothes",
};
// The smallest module that uses a SIMD instruction: a browser without SIMD calls it invalid.
const SIMD_MODULE = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const saveButtons = document.querySelectorAll("[data-save]");

let names = []; // of the classes, by id
let shown = new Set(); // ids
let tints = {}; // {id: [red, green, blue]}
let photo = null; // {name, width, height}
let square = null; // {x, y, width, height} in px of the photograph
let labels = null; // {ids, width, height} of the layers on the screen
let camera = null; // the MediaStream while it runs
let engine = ""; // a sentence

// ---- talking to the worker

let worker;
const waiting = new Map();

function startWorker() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.received) {
      say(`Loading the network and its runtime: ${Math.round(data.received / 1e6)} MB …`);
      return;
    }
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) reject(new Error(data.error));
    else resolve(data.answer);
  };
  worker.onerror = () => complain("The part of the page that runs the network did not start. Reload the page.");
}

let lastId = 0;

/** Put a question to the worker; see `answers` there. */
function ask(question, message = {}, transfer = []) {
  const id = ++lastId;
  worker.postMessage({ id, question, ...message }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

/** Make a function that runs one call at a time; of the calls that come meanwhile only the last is run. */
function latestOnly(run) {
  let busy = false;
  let again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    while (again) {
      again = false;
      await run().catch(fail);
    }
    busy = false;
  };
}

// ---- what is said

function say(text) {
  if (page.status.textContent !== text) page.status.textContent = text; // a screen reader reads each change aloud
}

function complain(text) {
  page.problem.textContent = text;
  page.problem.hidden = !text;
}

function fail(error) {
  complain(`Something went wrong: ${error.message ?? error}`);
  say("");
}

const plainName = (id) => PLAIN_NAMES[names[id]] ?? names[id].replaceAll("_", " ");

// ---- what is shown

function draw(canvas, bitmap) {
  if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
  if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
}

function clearColours() {
  labels = null;
  page.colours.getContext("bitmaprenderer").transferFromImageBitmap(null);
  page.part.hidden = true;
}

function drawResult({ picture, colours, labels: ids, counts, width, height }) {
  page.stage.style.setProperty("--ratio", width / height);
  draw(page.photo, picture);
  draw(page.colours, colours);
  labels = { ids, width, height };
  [...page.classes.children].forEach((row, id) => {
    const share = (100 * counts[id]) / ids.length;
    row.classList.toggle("absent", counts[id] === 0);
    row.querySelector("small").textContent =
      counts[id] === 0 ? "–" : `${share.toFixed(share < 0.1 ? 2 : share < 10 ? 1 : 0)} %`;
  });
}

/** Give back the memory of pictures that are not shown. */
function discard({ picture, colours }) {
  picture.close();
  colours?.close();
}

const settings = () => ({ shown, tints });

const parse = latestOnly(async () => {
  if (camera || !square) return; // the head of a new photograph is looked for first
  const of = photo;
  const result = await ask("parse", { square, ...settings() });
  if (of !== photo) return discard(result); // another photograph came meanwhile
  drawResult(result);
  page.downloads.disabled = false;
  page.stage.dataset.parsed = Number(page.stage.dataset.parsed ?? 0) + 1;
  say(`Parsed in ${(result.milliseconds / 1000).toFixed(2)} s · ${engine}`);
});

const repaint = latestOnly(async () => {
  if (camera) return;
  if (!labels) return parse(); // with these settings, where a first result is still to come
  const of = photo;
  const result = await ask("show", settings());
  if (of !== photo) return discard(result);
  drawResult(result);
});

// ---- photographs

let lastChoice = 0; // number of the file, or the use of the camera, chosen last

async function openFile(file) {
  if (!file) return;
  const choice = ++lastChoice;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    const sentence = `${file.name} is not a picture that this browser can read. Choose a JPEG, PNG or WebP file.`;
    if (choice === lastChoice) complain(sentence);
    return;
  }
  const pixels = bitmap.width * bitmap.height;
  let remark = "";
  if (pixels > MOST_PIXELS) {
    const large = bitmap;
    const scale = Math.sqrt(MOST_PIXELS / pixels);
    const [resizeWidth, resizeHeight] = [large.width, large.height].map((side) => Math.floor(side * scale));
    bitmap = await createImageBitmap(large, { resizeWidth, resizeHeight, resizeQuality: "high" });
    large.close();
    remark = `${file.name} has ${Math.round(pixels / 1e6)} million pixels; it was reduced to 16 million.`;
  }
  if (choice !== lastChoice) return bitmap.close(); // something else was chosen while this was decoded
  stopCamera();
  await openPhoto(bitmap, file.name, remark);
}

async function openPhoto(bitmap, name, remark = "") {
  const opened = { name: name.replace(/\.[^.]*$/, ""), width: bitmap.width, height: bitmap.height, remark };
  photo = opened;
  square = labels = null;
  page.square.hidden = true;
  page.downloads.disabled = true;
  page.find.disabled = false;
  const { picture } = await ask("open", { bitmap }, [bitmap]);
  if (opened !== photo) return discard({ picture });
  clearColours();
  page.stage.style.setProperty("--ratio", picture.width / picture.height);
  draw(page.photo, picture);
  await findHead();
}

async function findHead() {
  const of = photo;
  say("Looking for the head …");
  const { square: found } = await ask("findHead");
  if (of !== photo) return;
  complain([photo.remark, found ? "" : "No face was found. Drag the square over the head."].filter(Boolean).join(" "));
  const side = Math.min(photo.width, photo.height);
  moveSquare(found ?? { x: (photo.width - side) / 2, y: (photo.height - side) / 2, width: side });
  await parse();
}

// ---- the square over the head

/** Put the square where it is wanted, as far as the photograph allows. */
function moveSquare({ x, y, width }) {
  const side = Math.round(Math.min(photo.width, photo.height, Math.max(SMALLEST_SQUARE, width)));
  const inside = (start, length) => Math.round(Math.min(length - side, Math.max(0, start)));
  square = { x: inside(x, photo.width), y: inside(y, photo.height), width: side, height: side };
  page.square.style.left = `${(100 * square.x) / photo.width}%`;
  page.square.style.top = `${(100 * square.y) / photo.height}%`;
  page.square.style.width = `${(100 * side) / photo.width}%`;
  page.square.style.height = `${(100 * side) / photo.height}%`;
  page.square.ariaLabel =
    `Square over the head, ${side} pixels wide, ${square.x} from the left and ${square.y} from the top. ` +
    "Arrow keys move it, plus and minus resize it.";
  page.square.hidden = false;
}

function resizeAroundCentre(change) {
  const width = Math.min(photo.width, photo.height, Math.max(SMALLEST_SQUARE, square.width + change));
  const shift = (square.width - width) / 2;
  moveSquare({ x: square.x + shift, y: square.y + shift, width });
}

/** The square after one of its corners was dragged; the opposite corner stays. */
function resizeFromCorner(start, corner, dx, dy) {
  const [west, north] = [corner.includes("w"), corner.includes("n")];
  const roomX = west ? start.x + start.width : photo.width - start.x;
  const roomY = north ? start.y + start.height : photo.height - start.y;
  const growth = Math.max(west ? -dx : dx, north ? -dy : dy);
  const width = Math.max(SMALLEST_SQUARE, Math.min(roomX, roomY, start.width + growth));
  moveSquare({
    x: west ? start.x + start.width - width : start.x,
    y: north ? start.y + start.height - width : start.y,
    width,
  });
}

function dragSquare(event) {
  if (event.button !== 0 || !event.isPrimary) return;
  const start = { ...square };
  const { corner } = event.target.dataset;
  const pxPerScreenPx = photo.width / page.stage.clientWidth;
  page.square.setPointerCapture(event.pointerId);
  page.square.onpointermove = (move) => {
    if (move.pointerId !== event.pointerId) return; // a second finger
    const dx = (move.clientX - event.clientX) * pxPerScreenPx;
    const dy = (move.clientY - event.clientY) * pxPerScreenPx;
    if (corner) resizeFromCorner(start, corner, dx, dy);
    else moveSquare({ x: start.x + dx, y: start.y + dy, width: start.width });
    parseMoved();
  };
  page.square.onlostpointercapture = (lost) => {
    if (lost.pointerId === event.pointerId) page.square.onpointermove = null;
  };
}

function moveSquareByKey(event) {
  const small = Math.ceil(Math.min(photo.width, photo.height) * 0.02);
  const step = event.shiftKey ? 5 * small : small;
  const moves = {
    ArrowLeft: () => moveSquare({ ...square, x: square.x - step }),
    ArrowRight: () => moveSquare({ ...square, x: square.x + step }),
    ArrowUp: () => moveSquare({ ...square, y: square.y - step }),
    ArrowDown: () => moveSquare({ ...square, y: square.y + step }),
    "+": () => resizeAroundCentre(2 * small),
    "=": () => resizeAroundCentre(2 * small),
    "-": () => resizeAroundCentre(-2 * small),
  };
  if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  moves[event.key]();
  parseMoved();
}

function parseMoved() {
  complain(photo.remark); // and no longer that no face was found
  parse();
}

// ---- the name under the pointer

function namePart(event) {
  const box = page.stage.getBoundingClientRect();
  let across = (event.clientX - box.left) / box.width;
  const down = (event.clientY - box.top) / box.height;
  const isOver = labels && across >= 0 && across < 1 && down >= 0 && down < 1;
  page.part.hidden = !isOver;
  if (!isOver) return;
  page.part.style.left = `${100 * across}%`;
  page.part.style.top = `${100 * down}%`;
  page.part.classList.toggle("left", across > 0.7);
  if (page.stage.classList.contains("mirrored")) across = 1 - across;
  const at = Math.floor(down * labels.height) * labels.width + Math.floor(across * labels.width);
  page.part.textContent = plainName(labels.ids[at]);
  [...page.classes.children].forEach((row, id) => row.classList.toggle("pointed", id === labels.ids[at]));
}

function nameNothing({ pointerType }) {
  if (pointerType === "touch") return; // the name stays where the finger was
  page.part.hidden = true;
  for (const row of page.classes.children) row.classList.remove("pointed");
}

// ---- the camera

const REFUSALS = {
  NotAllowedError: "The camera was refused. Allow it in the browser’s settings for this page, or choose a photograph.",
  NotFoundError: "This device has no camera. Choose a photograph instead.",
  NotReadableError: "The camera is in use by another program. Close that program and try again.",
};

async function startCamera() {
  if (!navigator.mediaDevices) {
    complain("Browsers give a camera only to pages from https or from this machine itself (127.0.0.1, localhost).");
    return;
  }
  page.camera.disabled = true; // until the first frame can be shown
  try {
    await openCamera();
  } catch (error) {
    if (!camera) return; // a photograph was opened meanwhile
    stopCamera();
    throw error;
  } finally {
    page.camera.disabled = false;
  }
  const stream = camera;
  if (!stream) return; // it was refused
  try {
    await parseFrames(stream);
  } catch (error) {
    if (camera !== stream) return;
    stopCamera();
    throw error;
  }
}

async function openCamera() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
    });
  } catch (error) {
    complain(REFUSALS[error.name] ?? `The camera did not start (${error.message}). Choose a photograph instead.`);
    return;
  }
  complain("");
  lastChoice += 1;
  camera = stream;
  photo = square = labels = null;
  page.square.hidden = true;
  page.downloads.disabled = true;
  page.find.disabled = true;
  page.camera.textContent = "Take the picture";
  page.status.ariaLive = "off"; // it tells the speed once a second
  page.video.srcObject = stream;
  await page.video.play();
  if (camera !== stream) return;
  const [track] = stream.getVideoTracks();
  track.onended = () => {
    if (camera !== stream) return;
    stopCamera();
    complain("The camera has stopped. Start it again, or choose a photograph.");
  };
  const isSelfie = track.getSettings().facingMode !== "environment";
  page.stage.classList.toggle("mirrored", isSelfie); // as in a mirror; left and right stay the person's own
}

async function parseFrames(stream) {
  let step = 1;
  let times = [];
  let saidAt = -Infinity;
  while (camera === stream) {
    const before = performance.now();
    await new Promise(requestAnimationFrame); // which rests while the page is hidden
    if (performance.now() - before > 1000) times = []; // a rest is no slowness
    if (camera !== stream) return;
    const bitmap = await createImageBitmap(page.video);
    if (camera !== stream) return bitmap.close(); // the worker would take it for the photograph that was opened
    const size = CAMERA_SIZES[step];
    const result = await ask("frame", { bitmap, size, ...settings() }, [bitmap]);
    if (camera !== stream) return discard(result);
    drawResult(result);
    times.push(performance.now());
    if (times.length < 3) continue;
    const perSecond = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    if (performance.now() - saidAt > 1000) {
      saidAt = performance.now();
      say(`${perSecond.toFixed(1)} frames a second at ${size} px · ${engine}`);
    }
    if (times.length < 20) continue;
    times.shift();
    const change = perSecond < TOO_SLOW ? -1 : perSecond > FAST_ENOUGH ? 1 : 0;
    if (change && CAMERA_SIZES[step + change]) {
      step += change;
      times = [];
    }
  }
}

function stopCamera() {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  page.video.srcObject = null;
  page.camera.textContent = "Use the camera";
  page.status.ariaLive = null;
  page.stage.classList.remove("mirrored");
}

async function takePicture() {
  page.camera.disabled = true; // a second press would start it again
  try {
    const choice = ++lastChoice;
    const bitmap = await createImageBitmap(page.video);
    if (choice !== lastChoice) return bitmap.close();
    stopCamera();
    await openPhoto(bitmap, "camera");
  } finally {
    page.camera.disabled = false;
  }
}

// ---- downloads

async function save(what) {
  const { name, width, height } = photo; // another may be open when the file is there
  say("Writing the file …");
  const question = { what, ...settings(), opacity: page.opacity.value / 100 };
  const { blob } = await ask("save", question);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name}_${what}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${link.download}: ${width} × ${height} px, ${(blob.size / 1e6).toFixed(2)} MB`);
}

// ---- the panel

function listClasses(classes) {
  names = classes.names;
  shown = new Set(names.keys());
  shown.delete(BACKGROUND);
  page.classes.replaceChildren(
    ...classes.colours.map(([red, green, blue], id) => {
      const row = document.createElement("li");
      row.innerHTML = "<label><input type='checkbox'><span></span><small></small></label>";
      const [box, name] = row.firstChild.children;
      box.checked = shown.has(id);
      box.dataset.id = id;
      box.style.setProperty("--colour", `rgb(${red} ${green} ${blue})`);
      box.style.setProperty("--tick", 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "black" : "white");
      name.textContent = plainName(id);
      name.title = names[id];
      return row;
    }),
  );
  page.tint_part.replaceChildren(...names.map((name, id) => new Option(plainName(id), id)));
  page.tint_part.value = Math.max(0, names.indexOf("hair"));
}

function showClasses(change) {
  for (const box of page.classes.querySelectorAll("input")) {
    change?.(box);
    if (box.checked) shown.add(Number(box.dataset.id));
    else shown.delete(Number(box.dataset.id));
  }
  repaint();
}

function showOpacity() {
  page.opacity_value.textContent = `${page.opacity.value} %`;
  page.colours.style.opacity = page.opacity.value / 100;
}

function tint(colour) {
  const id = page.tint_part.value;
  if (colour) tints[id] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  else delete tints[id];
  showTint();
  repaint();
}

function showTint() {
  const colour = tints[page.tint_part.value];
  page.tint_undo.disabled = !colour;
  if (colour) page.tint_colour.value = `#${colour.map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
}

function listen() {
  page.file.onchange = () => openFile(page.file.files[0]).finally(() => (page.file.value = ""));
  page.camera.onclick = () => (camera ? takePicture() : startCamera());
  page.find.onclick = findHead;
  page.square.onpointerdown = dragSquare;
  page.square.onkeydown = moveSquareByKey;
  page.stage.onpointermove = page.stage.onpointerdown = namePart;
  page.stage.onpointerleave = nameNothing;
  page.classes.onchange = () => showClasses();
  page.all.onclick = () => showClasses((box) => (box.checked = Number(box.dataset.id) !== BACKGROUND));
  page.none.onclick = () => showClasses((box) => (box.checked = false));
  page.opacity.oninput = showOpacity;
  page.tint_part.onchange = showTint;
  // A click too: the input event tells only changes, and the colour on display may be the one that is wanted.
  page.tint_colour.onclick = page.tint_colour.oninput = () => tint(page.tint_colour.value);
  page.tint_undo.onclick = () => tint(null);
  page.panel.onsubmit = (event) => event.preventDefault();
  for (const button of saveButtons) button.onclick = () => save(button.dataset.save);
  document.ondragover = (event) => {
    event.preventDefault();
    page.drop.hidden = false;
  };
  document.ondragleave = (event) => {
    if (!event.relatedTarget) page.drop.hidden = true;
  };
  document.ondrop = (event) => {
    event.preventDefault();
    page.drop.hidden = true;
    if (!page.file.disabled) openFile(event.dataTransfer.files[0]);
  };
  window.onunhandledrejection = ({ reason }) => fail(reason);
}

/** What this browser lacks to run the page, as a sentence; an empty one where it lacks nothing. */
function whatIsMissing() {
  if (!globalThis.WebAssembly?.validate(SIMD_MODULE)) {
    return (
      "This browser’s WebAssembly has no SIMD instructions, which the network needs. " +
      "A current Firefox, Chrome, Edge or Safari has them."
    );
  }
  if (!globalThis.OffscreenCanvas || !globalThis.CompressionStream) {
    return "This browser is too old for the page. A current Firefox, Chrome, Edge or Safari will do.";
  }
  return "";
}

async function main() {
  const missing = whatIsMissing();
  if (missing) {
    complain(missing);
    say("The network cannot run here.");
    return;
  }
  listen();
  showOpacity();
  startWorker();
  const sample = fetch(SAMPLE_URL)
    .then((response) => response.blob())
    .then((blob) => createImageBitmap(blob))
    .catch(() => null);
  let loaded;
  try {
    loaded = await ask("load");
  } catch (error) {
    complain(`The network could not be loaded: ${error.message}`);
    say("The network cannot run here.");
    return;
  }
  const threads = loaded.threads === 1 ? "one thread" : `${loaded.threads} threads`;
  engine = loaded.engine === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} (${loaded.why})`;
  listClasses(loaded.classes);
  page.file.disabled = page.camera.disabled = false;
  const bitmap = await sample;
  if (!bitmap) say(`Ready · ${engine}`); // a host may leave the sample out
  else if (lastChoice) bitmap.close();
  else await openPhoto(bitmap, SAMPLE_URL);
}

main();
