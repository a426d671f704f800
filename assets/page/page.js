"use strict";
// Samples from a generator in the browser: model.json says what the .onnx files beside it are, onnxruntime-web runs
// them. Latents are normal draws of this page's own, a function of the seed alone: the same on every machine, since they
// take only additions, products, quotients and roots, which IEEE 754 defines to the last bit. They are not torch's.

const N = 16, POINTS = 1000, EXTENT = 1.1, CYCLE_MS = 4000;
const $ = (id) => document.getElementById(id);
let about, labels;
const sessions = {};

// -- draws ------------------------------------------------------------------------------------------------------------

/** 32 random bits a call: sfc32 (C. Doty-Humphrey's Small Fast Counting generator), its state from seed and stream. */
function bits(seed, stream = 0) {
  let a = seed >>> 0, b = stream >>> 0, c = 0x9e3779b9, count = 1;
  const next = () => {
    const sum = (a + b + count) >>> 0;
    count = (count + 1) >>> 0;
    a = (b ^ (b >>> 9)) >>> 0;
    b = (c + (c << 3)) >>> 0;
    c = (((c << 21) | (c >>> 11)) + sum) >>> 0;
    return sum;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

/** Natural logarithm for 0 < x <= 1, by the series of artanh: Math.log differs between browsers in its last bit. */
function ln(x) {
  let halvings = 0;
  for (; x < 0.75; halvings++) x *= 2;
  const t = (x - 1) / (x + 1);
  let sum = 0;
  for (let k = 25; k > 0; k -= 2) sum = sum * t * t + 1 / k;
  return 2 * t * sum - halvings * 0.6931471805599453;
}

/** n draws from N(0, 1) by Marsaglia's polar method; those beyond +-limit are drawn anew. */
function normals(seed, n, limit = Infinity, stream = 0) {
  const next = bits(seed, stream), found = new Float32Array(n);
  for (let i = 0; i < n; ) {
    const u = (next() + 0.5) / 2147483648 - 1, v = (next() + 0.5) / 2147483648 - 1, s = u * u + v * v;
    if (s >= 1) continue;
    const scale = Math.sqrt((-2 * ln(s)) / s);
    for (const x of [u * scale, v * scale]) if (i < n && Math.abs(x) <= limit) found[i++] = x;
  }
  return found;
}

/** The latent of a seed; of models without styles cut off where their batch norm was measured so. */
const latent = (seed) => normals(seed, about.z_dim, limit());
const limit = () => (about.inputs.truncation ? Infinity : (about.truncation ?? Infinity));

/** A share t of the way from one latent to another, as long as independent draws are on average at every t. */
function between(from, to, t) {
  const length = Math.sqrt((1 - t) * (1 - t) + t * t);
  return from.map((x, i) => ((1 - t) * x + t * to[i]) / length);
}

// -- running ----------------------------------------------------------------------------------------------------------

/** Calls wait for the one before, and only the newest of those that wait is run: a slider never lags behind. */
function latest(work) {
  let running = null, waiting = null;
  const start = (args) => {
    running = Promise.resolve(work(...args)).catch(fail).finally(() => {
      running = null;
      const args = waiting;
      waiting = null;
      if (args) start(args);
    });
    return running;
  };
  return (...args) => (running ? ((waiting = args), running) : start(args));
}

function fail(error) {
  $("status").className = "failed";
  $("status").textContent = error.message || String(error);
}

/** Run a model's file: {name: [values, shape]} -> {data, dims} of its image. One run at a time. */
let last = Promise.resolve();
function run(file, given) {
  const found = last.then(async () => {
    const feeds = {};
    for (const [name, [values, shape]] of Object.entries(given)) feeds[name] = new ort.Tensor("float32", values, shape);
    return (await sessions[file].run(feeds)).image;
  });
  last = found.catch(() => {});
  return found;
}

/** Images of latents with rows of labels: [(C, H, W) values, dims] each. */
async function images(latents, rows) {
  const [height, width] = about.size, inputs = about.inputs, found = [];
  const together = about.kind === "points" ? latents.length : Math.max(1, Math.min(N, Math.floor(65536 / (height * width))));
  for (let i = 0; i < latents.length; i += together) {
    const part = latents.slice(i, i + together), given = { z: [joined(part), [part.length, about.z_dim]] };
    if (inputs.y) given.y = [joined(rows.slice(i, i + together)), [part.length, about.n_labels]];
    if (inputs.truncation) given.truncation = [Float32Array.of(Number($("truncation").value)), [1]];
    const { data, dims } = await run(about.models[0].file, given), size = data.length / part.length;
    for (let k = 0; k < part.length; k++) found.push({ data: data.subarray(k * size, (k + 1) * size), dims: dims.slice(1) });
  }
  return found;
}

function joined(arrays) {
  const whole = new Float32Array(arrays.length * arrays[0].length);
  arrays.forEach((values, i) => whole.set(values, i * values.length));
  return whole;
}

// -- labels -----------------------------------------------------------------------------------------------------------

/** What a seed's image shows: a row of 0 and 1, of the class chosen or the classes in turn, or of attributes. */
function labelRow(seed) {
  if (!about.n_labels) return null;
  const row = new Float32Array(about.n_labels);
  if (!about.multi_hot) {
    const chosen = $("class").value;
    row[chosen === "" ? seed % about.n_labels : Number(chosen)] = 1;
    return row;
  }
  const example = about.label_examples[bits(seed, 1)() % about.label_examples.length];
  for (let i = 0; i < row.length; i++) row[i] = labels[i] ?? Number(example[i]);
  return row;
}

function setUpLabels(redraw) {
  if (!about.n_labels) return;
  const names = about.label_names.length ? about.label_names : [...Array(about.n_labels).keys()].map(String);
  if (!about.multi_hot) {
    $("class-field").hidden = false;
    $("class").append(new Option("all in turn", ""), ...names.map((name, i) => new Option(name, i)));
    $("class").onchange = redraw;
    return;
  }
  labels = Array(about.n_labels).fill(null);
  $("attributes-field").hidden = false;
  names.forEach((name, i) => {
    const chip = document.createElement("button");
    chip.textContent = name.replaceAll("_", " ");
    chip.onclick = () => {
      labels[i] = labels[i] === null ? 1 : labels[i] === 1 ? 0 : null;
      chip.className = labels[i] === null ? "" : labels[i] ? "with" : "without";
      const told = names.flatMap((n, k) => (labels[k] === null ? [] : [(labels[k] ? "" : "no ") + n.replaceAll("_", " ")]));
      $("attributes-told").textContent = told.join(", ") || "as in the data";
      redraw();
    };
    $("attributes").append(chip);
  });
}

// -- pictures ---------------------------------------------------------------------------------------------------------

/** An image (C, H, W) in [-1, 1] on a canvas: grey, in colour, with transparency; of 2 and of 5 and more channels the
 * first as red, green and blue. */
function paint(canvas, { data, dims }) {
  const [channels, height, width] = dims, n = height * width;
  const pixels = new ImageData(width, height);
  const byte = (channel, i) => data[channel * n + i] * 127.5 + 127.5; // rounded and clamped as it is stored
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = channels === 1 ? byte(0, i) : c < channels ? byte(c, i) : 0;
    pixels.data[4 * i + 3] = channels === 4 ? byte(3, i) : 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.className = height >= 48 ? "fine" : "";
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

/** "16 images in 84 ms: 5.2 ms an image". */
function tell(n, start) {
  const took = performance.now() - start, each = took / n;
  $("status").className = "";
  $("status").textContent =
    `${n.toLocaleString("en")} ${about.kind === "points" ? "points" : n > 1 ? "images" : "image"} in ${took.toFixed(0)} ms` +
    (n > 1 && about.kind !== "points" ? `: ${each.toFixed(each < 10 ? 1 : 0)} ms an image` : "");
  document.body.dataset.ms = took;
}

// -- sampling ---------------------------------------------------------------------------------------------------------

const seedOf = (id) => Math.min(4294967295, Math.max(0, Math.floor(Number($(id).value)) || 0));
const seeds = () => [...Array(N).keys()].map((i) => (seedOf("seed") + i) % 4294967296);

const drawGrid = latest(async () => {
  const start = performance.now(), shown = seeds();
  const found = await images(shown.map(latent), shown.map(labelRow));
  tell(N, start);
  const tiles = $("grid").children;
  found.forEach((image, i) => {
    paint(tiles[i].firstChild, image);
    tiles[i].lastChild.textContent = tiles[i].dataset.seed = shown[i];
    tiles[i].setAttribute("aria-label", `image of seed ${shown[i]}`);
  });
  markChosen();
});

const drawBetween = latest(async (t, isFrame) => {
  const start = performance.now(), [a, b] = [seedOf("from"), seedOf("to")];
  const row = labelRow(a), towards = labelRow(b);
  const [image] = await images([between(latent(a), latent(b), t)], [row && row.map((x, i) => (1 - t) * x + t * towards[i])]);
  paint($("between"), image);
  if (!isFrame) markChosen();
  else tell(1, start);
});

const drawPoints = latest(async () => {
  const start = performance.now(), z = normals(seedOf("seed"), POINTS * about.z_dim, limit());
  const latents = [...Array(POINTS).keys()].map((i) => z.slice(i * about.z_dim, (i + 1) * about.z_dim));
  const found = await images(latents, latents.map((_, i) => labelRow(i)));
  tell(POINTS, start);
  const pen = $("scatter").getContext("2d"), side = $("scatter").width, scale = side / (2 * EXTENT);
  pen.clearRect(0, 0, side, side);
  pen.fillStyle = "rgb(217 83 25 / 60%)";
  for (const { data } of found) {
    pen.beginPath();
    pen.arc((data[0] + EXTENT) * scale, (EXTENT - data[1]) * scale, 3, 0, 7);
    pen.fill();
  }
});

function markChosen() {
  for (const tile of $("grid").children) {
    tile.classList.toggle("a", Number(tile.dataset.seed) === seedOf("from"));
    tile.classList.toggle("b", Number(tile.dataset.seed) === seedOf("to"));
  }
}

/** All tiles of the grid on one canvas, 2 px of black around each. */
function sheet() {
  const [height, width] = about.size, whole = document.createElement("canvas");
  whole.width = 2 + 4 * (width + 2);
  whole.height = 2 + 4 * (height + 2);
  const pen = whole.getContext("2d");
  pen.fillRect(0, 0, whole.width, whole.height);
  [...$("grid").children].forEach((tile, i) =>
    pen.drawImage(tile.firstChild, 2 + (i % 4) * (width + 2), 2 + Math.floor(i / 4) * (height + 2)));
  return whole;
}

async function animate() {
  const on = $("animate").getAttribute("aria-pressed") !== "true";
  $("animate").setAttribute("aria-pressed", on);
  const start = performance.now() - (Number($("share").value) * CYCLE_MS) / 2;
  while (on && $("animate").getAttribute("aria-pressed") === "true") {
    const phase = ((performance.now() - start) / CYCLE_MS) % 1;
    const t = phase < 0.5 ? 2 * phase : 2 - 2 * phase;
    $("share").value = t;
    await drawBetween(t, true);
    await new Promise(requestAnimationFrame);
  }
}

function setUpSampling() {
  const points = about.kind === "points";
  const walk = () => drawBetween(Number($("share").value));
  const redraw = () => (points ? drawPoints() : Promise.all([drawGrid(), walk()]));
  $("sampling").hidden = false;
  setUpLabels(redraw);
  if (about.inputs.truncation) {
    $("truncation-field").hidden = false;
    $("truncation").value = about.truncation ?? 1;
    const told = () => ($("truncation-value").textContent = Number($("truncation").value).toFixed(2));
    $("truncation").oninput = () => (told(), redraw());
    told();
  }
  $("seed").onchange = redraw;
  const step = (by) => () => (($("seed").value = Math.max(0, seedOf("seed") + by)), redraw());
  $("previous").onclick = step(-N);
  $("next").onclick = step(N);
  $("shuffle").onclick = () => (($("seed").value = Math.floor(Math.random() * 1e9)), redraw());
  if (points) {
    for (const id of ["walk", "grid", "grid-hint"]) $(id).hidden = true;
    $("sampling").classList.add("alone");
    $("scatter").hidden = false;
    $("save-grid").onclick = () => save($("scatter"), `points-${seedOf("seed")}.png`);
    return redraw();
  }
  let turn = "from";
  for (let i = 0; i < N; i++) {
    const tile = document.createElement("button"), canvas = document.createElement("canvas");
    [canvas.height, canvas.width] = about.size;
    tile.append(canvas, document.createElement("span"));
    tile.onclick = () => {
      $(turn).value = tile.dataset.seed;
      turn = turn === "from" ? "to" : "from";
      walk();
    };
    $("grid").append(tile);
  }
  [$("between").height, $("between").width] = about.size;
  $("share").oninput = $("from").onchange = $("to").onchange = walk;
  $("animate").onclick = animate;
  $("save-grid").onclick = () => save(sheet(), `samples-${seedOf("seed")}.png`);
  $("save-between").onclick = () => save($("between"), `between-${seedOf("from")}-${seedOf("to")}.png`);
  return redraw();
}

// -- translating ------------------------------------------------------------------------------------------------------

/** Where `length` px and more stand when an axis goes on by reflection, its last px once. */
function mirrored(at, length) {
  const period = Math.max(1, 2 * (length - 1)), i = at % period;
  return Math.min(i, period - i);
}

/** A picture as a network takes it: pixels (h, w) of a canvas, (1, C, H, W) in [-1, 1], continued by reflection. */
function asInput(canvas, channels, height, width) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const values = new Float32Array(channels * height * width);
  const grey = (at) => (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2]) / 65536; // Rec. 601
  for (let i = 0; i < height; i++)
    for (let j = 0; j < width; j++) {
      const at = 4 * (mirrored(i, canvas.height) * canvas.width + mirrored(j, canvas.width));
      for (let c = 0; c < channels; c++)
        values[(c * height + i) * width + j] = (channels === 1 ? grey(at) : c < 4 ? data[at + c] : 0) / 127.5 - 1;
    }
  return [values, [1, channels, height, width]];
}

/** Draw a picture on #source, its shorter side as chosen; of a fixed size its middle. */
function place(picture, model) {
  const [fixedHeight, fixedWidth] = model.size, canvas = $("source"), pen = canvas.getContext("2d");
  const side = Number($("side").value), scale = side / Math.min(picture.width, picture.height);
  const most = Math.max(side, 2048); // px of the longer side
  canvas.width = model.dynamic ? Math.min(most, Math.max(1, Math.round(picture.width * scale))) : fixedWidth;
  canvas.height = model.dynamic ? Math.min(most, Math.max(1, Math.round(picture.height * scale))) : fixedHeight;
  const cover = Math.max(canvas.width / picture.width, canvas.height / picture.height);
  const [width, height] = [picture.width * cover, picture.height * cover];
  if (model.source_channels !== 4) {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  canvas.className = $("translated").className = "fine";
}

function setUpTranslating() {
  let picture = null;
  const model = () => about.models[Number($("direction").value)];
  const translate = latest(async () => {
    if (!picture) return;
    const { file, factor, sides, source_channels: channels, dynamic, size } = model();
    place(picture, model());
    const source = $("source"), up = (n) => Math.max(Math.ceil(n / sides.multiple), Math.ceil(sides.least / sides.multiple)) * sides.multiple;
    const [height, width] = dynamic ? [up(source.height), up(source.width)] : size;
    $("status").textContent = `translating ${source.height} x ${source.width} px …`;
    const start = performance.now(), whole = await run(file, { x: asInput(source, channels, height, width) });
    tell(1, start);
    const large = document.createElement("canvas"), canvas = $("translated");
    paint(large, { data: whole.data, dims: whole.dims.slice(1) });
    [canvas.width, canvas.height] = [source.width * factor, source.height * factor];
    canvas.getContext("2d").drawImage(large, 0, 0);
    $("save-translated").disabled = false;
  });
  const take = async (file) => {
    if (!file) return;
    try {
      picture = await createImageBitmap(file);
    } catch {
      return fail(new Error(`${file.name} is no picture that this browser can read`));
    }
    translate();
  };
  $("translating").hidden = false;
  about.models.forEach((one, i) => $("direction").append(new Option(one.direction, i)));
  $("direction-field").hidden = about.models.length === 1;
  const { size, dynamic } = model(), side = Math.min(...size);
  for (const times of [1, 2, 4, 8]) if (times === 1 || (dynamic && times * side <= 1024)) $("side").append(new Option(`${times * side} px`, times * side));
  $("side-field").hidden = !dynamic;
  $("direction").onchange = $("side").onchange = translate;
  $("picture").onchange = () => take($("picture").files[0]);
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => (event.preventDefault(), take(event.dataTransfer.files[0])));
  $("save-translated").onclick = () => save($("translated"), "translated.png");
  $("status").textContent = "ready: choose a picture";
}

// -- start ------------------------------------------------------------------------------------------------------------

async function start() {
  if (location.protocol === "file:")
    throw new Error("Browsers run no model from a file: python -m http.server in this folder, then http://localhost:8000");
  const got = await fetch("model.json");
  if (!got.ok) throw new Error(`model.json is not there (${got.status})`);
  about = await got.json();
  $("title").textContent = document.title = about.title;
  $("about").textContent = about.text;
  $("footer").textContent = about.footer;
  const mb = about.models.reduce((sum, model) => sum + model.bytes, 0) / 1e6;
  $("status").textContent = `loading ${mb.toFixed(1)} MB of weights and the runtime …`;
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.proxy = true; // in a worker: the page stays alive while it computes
  for (const { file } of about.models) sessions[file] = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  await (about.kind === "pictures" ? setUpTranslating() : setUpSampling());
  document.body.dataset.ready = "yes";
}

addEventListener("DOMContentLoaded", () => start().catch(fail));
