/** The page: what is on the screen and what a person does with it. */

import { findHead, load, look, lookCloser, squareAround, squareAt, whole, withoutIslands } from "./network.js";
import { colourLayer, cutOut, imageData, labelMap, recolour, resize, toLabelPng, toPng } from "./pixels.js";

const SAMPLE = "sample.jpg";
const MAX_PIXELS = 4096 * 4096; // what a canvas holds on every phone
const MAX_VIEW = 1280; // px of what is shown; downloads have the photograph's own size
const CAMERA_SIZES = [256, 320, 384, 512]; // px that the network sees of a frame: as many as the device manages
const TOO_SLOW = 4; // frames a second
const FAST_ENOUGH = 8; // to try the next size, which costs at most 1.8 times as much
const BACKGROUND = 0; // class id
// Class names as data sets abbreviate them, in plain words; others are shown as they are. Left is the person's own.
const PLAIN_NAMES = {
  eye_g: "glasses", ear_r: "earring", neck_l: "necklace", cloth: "clothes",
  l_eye: "left eye", r_eye: "right eye", l_brow: "left brow", r_brow: "right brow", l_ear: "left ear",
  r_ear: "right ear", u_lip: "upper lip", l_lip: "lower lip", i_mouth: "inner mouth",
};

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const settings = { shown: new Set(), tints: {} }; // class ids; {class id: [red, green, blue]}

let model; // face_parser.json
let engine; // what runs the network, in words
let photo = null; // {name, canvas, view: a smaller canvas, coarsest: a look, square, looks, parsed: their square}
let camera = null; // the MediaStream while it runs
let choices = 0; // of a file or of the camera, counted so that the last one counts

function say(text) {
  page.status.textContent = text;
}

function complain(text) {
  page.problem.textContent = text;
  page.problem.hidden = !text;
}

// ---- what is shown

function draw(canvas, picture) {
  page.stage.style.setProperty("--ratio", picture.width / picture.height);
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function paint({ view, looks }) {
  const picture = recolour(imageData(view), looks, settings.tints);
  const labels = labelMap(looks, picture);
  draw(page.photo, picture);
  draw(page.colours, colourLayer(labels, picture, model.colours, settings));
  const present = new Set(labels);
  [...page.classes.children].forEach((row, id) => row.classList.toggle("absent", !present.has(id)));
}

function repaint() {
  if (photo?.looks) paint(photo);
}

let isParsing = false;

/** Parse the photograph, and again as long as the square was moved meanwhile. */
async function parseSquare() {
  if (isParsing) return;
  isParsing = true;
  try {
    while (photo?.square && photo.parsed !== photo.square) {
      const asked = photo;
      const { square } = asked;
      const start = performance.now();
      const looks = await lookCloser(asked.coarsest, square);
      if (asked !== photo) continue; // another one was opened meanwhile
      Object.assign(asked, { looks, parsed: square });
      paint(asked);
      page.downloads.disabled = false;
      page.stage.dataset.parsed = Number(page.stage.dataset.parsed ?? 0) + 1;
      const seconds = (performance.now() - start) / 1000;
      say(`${asked.canvas.width} × ${asked.canvas.height} px, parsed in ${seconds.toFixed(2)} s · ${engine}`);
    }
  } finally {
    isParsing = false;
  }
}

// ---- photographs

/** A photograph of a bitmap or of the video's frame. */
function takePhoto(source, name) {
  const size = { width: source.videoWidth ?? source.width, height: source.videoHeight ?? source.height };
  const resized = (scale) => {
    const [width, height] = [size.width, size.height].map((side) => Math.max(1, Math.floor(side * scale)));
    return resize(source, whole(size), width, height);
  };
  const canvas = resized(Math.min(1, Math.sqrt(MAX_PIXELS / (size.width * size.height))));
  return { name, canvas, view: resized(Math.min(1, MAX_VIEW / Math.max(size.width, size.height))) };
}

async function openFile(file) {
  if (!file) return;
  const choice = ++choices;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (choice !== choices) return; // something else was chosen while this was decoded
  if (bitmap) return openPhoto(bitmap, file.name);
  complain(`${file.name} is not a picture that this browser can read. Choose a JPEG, PNG or WebP file.`);
}

async function openPhoto(source, name) {
  choices += 1;
  photo = takePhoto(source, name.replace(/\.[^.]*$/, ""));
  stopCamera();
  page.square.hidden = page.downloads.disabled = true;
  page.find.disabled = page.size.disabled = false;
  draw(page.photo, imageData(photo.view));
  draw(page.colours, new ImageData(photo.view.width, photo.view.height)); // transparent
  await placeHead();
}

async function placeHead() {
  const asked = photo;
  say("Looking for the head …");
  asked.coarsest ??= await look(asked.canvas, whole(asked.canvas));
  const square = await findHead(asked.coarsest);
  if (asked !== photo) return;
  complain(square ? "" : "No face was found. Press on the head in the picture, and set the size of the square.");
  const { canvas } = photo;
  await place(square ?? squareAt(canvas, canvas.width / 2, canvas.height / 2, Infinity));
}

// ---- the square over the head

/** Put the square over a part of the photograph, and parse. */
function place(square) {
  const { width, height } = photo.canvas;
  photo.square = square;
  page.square.style.left = `${(100 * square.x) / width}%`;
  page.square.style.top = `${(100 * square.y) / height}%`;
  page.square.style.width = `${(100 * square.width) / width}%`;
  page.square.style.height = `${(100 * square.height) / height}%`;
  page.square.ariaLabel =
    `Square over the head, ${square.width} pixels wide, ${square.x} from the left and ${square.y} from the top. ` +
    "Arrow keys move it.";
  page.square.hidden = false;
  page.size.max = Math.min(width, height);
  page.size.value = square.width;
  return parseSquare();
}

function placeAt(x, y, size) {
  complain("");
  return place(squareAt(photo.canvas, x, y, size));
}

const centre = ({ x, y, width }) => [x + width / 2, y + width / 2];

/** Bring the square to the pointer while it is pressed. */
function moveByPointer(event) {
  if (!photo?.square || !event.isPrimary || event.buttons !== 1) return;
  if (event.type === "pointerdown") page.stage.setPointerCapture(event.pointerId);
  const box = page.stage.getBoundingClientRect();
  const scale = photo.canvas.width / box.width;
  return placeAt((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, photo.square.width);
}

function moveByKey(event) {
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!directions[event.key]) return;
  event.preventDefault();
  const step = Math.ceil(0.02 * photo.canvas.width);
  const [x, y] = centre(photo.square).map((at, axis) => at + step * directions[event.key][axis]);
  return placeAt(x, y, photo.square.width);
}

// ---- the camera

async function startCamera() {
  complain("");
  const choice = ++choices;
  const wanted = { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" } };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(wanted);
    if (choice !== choices) throw new Error("a photograph was opened");
    page.video.srcObject = stream;
    await page.video.play();
  } catch (error) {
    for (const track of stream?.getTracks() ?? []) track.stop();
    page.video.srcObject = null;
    if (choice !== choices) return;
    const hint = navigator.mediaDevices
      ? "Allow it in the browser’s settings for this page, or choose a photograph."
      : "Browsers give a camera only to pages from https or from this machine itself (127.0.0.1, localhost).";
    return complain(`The camera did not start (${error.message}). ${hint}`);
  }
  camera = stream;
  photo = null;
  page.square.hidden = page.downloads.disabled = page.find.disabled = page.size.disabled = true;
  page.camera.textContent = "Take the picture";
  page.status.ariaLive = "off"; // it tells the speed every two seconds
  const [track] = stream.getVideoTracks();
  track.onended = () => {
    stopCamera();
    complain("The camera has stopped. Start it again, or choose a photograph.");
  };
  const isSelfie = track.getSettings().facingMode !== "environment";
  page.stage.classList.toggle("mirrored", isSelfie); // as in a mirror; left and right stay the person's own
  parseFrames(stream);
}

async function parseFrames(stream) {
  let step = 1;
  let frames = 0;
  let start = performance.now();
  let looks = null; // at the frame before, whose face tells the square
  while (true) {
    await new Promise(requestAnimationFrame); // which rests while the page is hidden
    if (camera !== stream) return;
    const frame = takePhoto(page.video, "camera");
    const square = looks && squareAround(looks.at(-1))?.square;
    const size = square ? CAMERA_SIZES[step] : model.image_size;
    const isDue = !square || frames % model.whole_every === 0; // the face is looked at in each
    const coarse = square ? model.whole_share * size : size; // which is of the face's
    const seen = isDue ? await look(frame.canvas, whole(frame.canvas), coarse) : looks[0];
    looks = square ? [isDue ? withoutIslands(seen, square) : seen, await look(frame.canvas, square, size)] : [seen];
    if (camera !== stream) return;
    paint({ ...frame, looks });
    frames += 1;
    const seconds = (performance.now() - start) / 1000;
    if (seconds < 2) continue;
    const speed = frames / seconds;
    say(`${speed.toFixed(1)} frames a second at ${size} px · ${engine}`);
    if (speed < TOO_SLOW && step > 0) step -= 1;
    if (speed > FAST_ENOUGH && step < CAMERA_SIZES.length - 1) step += 1;
    [frames, start] = [0, performance.now()];
  }
}

function stopCamera() {
  for (const track of camera?.getTracks() ?? []) track.stop();
  camera = page.video.srcObject = null;
  page.camera.textContent = "Use the camera";
  page.status.ariaLive = null;
  page.stage.classList.remove("mirrored");
}

// ---- the panel

function listClasses() {
  const names = model.names.map((name) => PLAIN_NAMES[name] ?? name.replaceAll("_", " "));
  const rows = model.colours.map(([red, green, blue], id) => {
    const row = document.createElement("li");
    row.innerHTML = "<label><input type='checkbox'><span></span></label>";
    const [box, name] = row.firstChild.children;
    box.style.setProperty("--colour", `rgb(${red} ${green} ${blue})`);
    box.style.setProperty("--tick", 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "black" : "white");
    name.textContent = names[id];
    return row;
  });
  page.classes.replaceChildren(...rows);
  page.tint_part.replaceChildren(...names.map((name, id) => new Option(name, id)));
  page.tint_part.value = Math.max(0, model.names.indexOf("hair"));
  tickClasses((id) => id !== BACKGROUND);
}

function tickClasses(isTicked) {
  page.classes.querySelectorAll("input").forEach((box, id) => (box.checked = isTicked(id)));
  showClasses();
}

function showClasses() {
  const boxes = [...page.classes.querySelectorAll("input")];
  settings.shown = new Set(boxes.flatMap((box, id) => (box.checked ? [id] : [])));
  repaint();
}

function showOpacity() {
  page.colours.style.opacity = page.opacity.value / 100;
}

function tint() {
  const colour = page.tint_colour.value; // #rrggbb
  settings.tints[page.tint_part.value] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  repaint();
}

async function save(what) {
  const { name, canvas, looks } = photo;
  const picture = recolour(imageData(canvas), looks, settings.tints);
  const labels = labelMap(looks, picture);
  const files = {
    labels: () => toLabelPng(labels, picture, model.colours),
    overlay: () => toPng(picture, colourLayer(labels, picture, model.colours, settings), page.opacity.value / 100),
    cutout: () => toPng(cutOut(picture, looks, settings.shown)),
  };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await files[what]());
  link.download = `${name}_${what}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function listen() {
  page.file.onchange = () => openFile(page.file.files[0]).finally(() => (page.file.value = ""));
  page.camera.onclick = async () => {
    page.camera.disabled = true; // a second press would start what the first ends
    try {
      await (camera ? openPhoto(page.video, "camera") : startCamera());
    } finally {
      page.camera.disabled = false;
    }
  };
  page.find.onclick = placeHead;
  page.size.oninput = () => placeAt(...centre(photo.square), Number(page.size.value));
  page.stage.onpointerdown = page.stage.onpointermove = moveByPointer;
  page.square.onkeydown = moveByKey;
  page.classes.onchange = showClasses;
  page.all.onclick = () => tickClasses((id) => id !== BACKGROUND);
  page.none.onclick = () => tickClasses(() => false);
  page.opacity.oninput = showOpacity;
  // A click too: the input event tells only changes, and the colour on display may be the one that is wanted.
  page.tint_colour.onclick = page.tint_colour.oninput = tint;
  page.tint_undo.onclick = () => {
    settings.tints = {};
    repaint();
  };
  for (const button of document.querySelectorAll("[data-save]")) button.onclick = () => save(button.dataset.save);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    if (!page.file.disabled) openFile(event.dataTransfer.files[0]);
  };
  window.onunhandledrejection = ({ reason }) => complain(`Something went wrong: ${reason.message ?? reason}`);
}

async function main() {
  listen();
  showOpacity();
  const sample = fetch(SAMPLE)
    .then((response) => response.blob())
    .then((blob) => createImageBitmap(blob))
    .catch(() => null);
  try {
    ({ model, engine } = await load());
  } catch (error) {
    complain(`The network could not be loaded: ${error.message ?? error}`);
    return say("A current Firefox, Chrome, Edge or Safari runs it.");
  }
  listClasses();
  page.file.disabled = page.camera.disabled = false;
  const bitmap = await sample;
  if (!bitmap) say(`Ready · ${engine}`); // a host may leave the sample out
  else if (!choices) await openPhoto(bitmap, SAMPLE);
}

main();
