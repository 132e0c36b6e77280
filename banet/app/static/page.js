// The page: asks the server for answers and shows them. Everything but the segmentation itself happens here.

import { Answer } from "./answer.js";
import { makeFile } from "./files.js";
import { Painting } from "./painting.js";

const ALONE = "the image alone";
const CHANGES = 3; // regions in which two results differ that are shown enlarged
const LEAST = 0.0002; // of the image: smaller regions are counted, not shown

const $ = (id) => document.getElementById(id);
const main = document.querySelector("main");
const figures = [...document.querySelectorAll("#pair figure")];
const count = (number) => number.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const facts = await (await fetch("/api/page")).json();
const categories = new Map(facts.classes.map((category) => [category.id, category]));
const state = { answer: null, hidden: new Set(), selected: null, hovered: null, paintings: [null, null] };

const isShown = (object) =>
  !state.hidden.has(object.category_id) && (object.score === null || 100 * object.score >= $("score").valueAsNumber);
const opacity = () => $("opacity").valueAsNumber / 100;
const chosen = () => [$("rule").value, $("other").value].map((rule) => state.answer.results.get(rule) ?? null);

// --------------------------------------------------------------------------------------------------------- asking

let asked = 0; // requests so far: only the answer to the last one is shown
let running = null;

/** Shows what the server answers to a request; `name` is what to call the file, `read` returns what shows the answer. */
async function ask(name, path, options = {}, read = readImage) {
  const number = ++asked;
  running?.abort();
  running = new AbortController();
  tellFault("");
  document.body.classList.add("busy");
  $("status").textContent = read === readClip ? `Tracking ${name}, frame by frame …` : `Segmenting ${name} …`;
  try {
    const response = await fetch(path, { ...options, signal: running.signal });
    const content = await response.json();
    if (!response.ok) throw new Error(content.detail);
    const showIt = await read(content, name);
    if (number === asked) showIt();
  } catch (error) {
    if (number !== asked) return;
    $("status").textContent = "";
    tellFault(error instanceof TypeError ? "The server does not answer; is it still running?" : error.message);
  } finally {
    if (number === asked) document.body.classList.remove("busy");
  }
}

function tellFault(text) {
  $("fault").textContent = text;
}

const isVideo = ({ type, name }) => type.startsWith("video/") || /\.(avi|m4v|mkv|mov|mp4|mpe?g|ogv|webm|wmv)$/i.test(name);

function send(file) {
  if (!file) return;
  const limit = facts.limits.file_bytes;
  if (file.size > limit) {
    tellFault(`${file.name}: has ${(file.size / 2 ** 20).toFixed(1)} MB; the limit is ${limit / 2 ** 20} MB.`);
    return;
  }
  for (const button of $("samples").children) button.setAttribute("aria-pressed", false);
  const headers = { "Content-Type": "application/octet-stream" };
  const [path, read] = isVideo(file) ? ["track", readClip] : ["segment", readImage];
  const name = encodeURIComponent(file.name.toWellFormed());
  ask(file.name, `/api/${path}?name=${name}`, { method: "POST", headers, body: file }, read);
}

function openSample(number) {
  [...$("samples").children].forEach((button, k) => button.setAttribute("aria-pressed", k === number));
  ask(`${facts.samples.kind} ${number + 1}`, `/api/samples/${number}`);
}

// -------------------------------------------------------------------------------------------------------- showing

async function readImage(content, name) {
  const answer = await Answer.read(content, name, categories);
  return () => show(answer);
}

function readClip({ video, frames, things, notes }, name) {
  const bytes = Uint8Array.from(atob(video), (character) => character.charCodeAt(0));
  return () => {
    const clip = $("clip");
    const player = clip.querySelector("video");
    URL.revokeObjectURL(player.src);
    player.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    const told = `${name}: ${plural(frames, "frame")}, ${plural(things, "object")}`;
    clip.querySelector("h2").textContent = told;
    const link = make("a", { href: player.src, download: `${name.replace(/\.[^.]*$/, "")}_tracked.mp4` }, "Save the video");
    clip.querySelector("p").replaceChildren(link, ...notes.map((note) => ` · ${note}`));
    $("status").textContent = told;
    $("bar").inert = main.hidden = $("welcome").hidden = true;
    clip.hidden = false;
  };
}

function show(answer) {
  $("clip").hidden = true;
  $("clip").querySelector("video").pause();
  Object.assign(state, { answer, selected: null, hovered: null, paintings: [null, null] });
  state.hidden.clear();
  main.hidden = false;
  $("bar").inert = false;
  $("welcome").hidden = true;
  main.style.setProperty("--shape", answer.width / answer.height);
  listClasses();
  showRules();
  announce();
  if (matchMedia("(max-width: 800px)").matches) figures[0].scrollIntoView({ behavior: "smooth" });
}

function announce() {
  const { name, notes, original, width, height } = state.answer;
  const [one, two] = chosen();
  const parts = [`${name}: ${plural(one.segments.length, "segment")}`];
  if (two && two !== one) parts.push(`${count(state.changes.pixels)} pixels differ between ${one.rule} and ${two.rule}`);
  if (original[0] !== width) parts.push(`reduced from ${original.join(" × ")} to ${width} × ${height}`);
  $("status").textContent = [...parts, ...notes].join("; ");
}

/** Paints the two results anew, for other rules, an other score or other classes. */
function showRules() {
  const { answer } = state;
  if (!answer) return;
  chosen().forEach((result, k) => {
    const key = result?.rule ?? ALONE;
    if (state.paintings[k]?.key !== key) {
      state.paintings[k] = Object.assign(new Painting(answer, result?.owner), { key });
      const { canvas } = state.paintings[k];
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `${answer.name} by ${key}; arrow keys go through the objects`);
      figures[k].querySelector(".stage").replaceChildren(canvas);
      watch(canvas, k);
    }
    caption(k, result);
  });
  showChanges();
  listObjects();
  paint();
}

function caption(k, result) {
  const [title, told, note] = figures[k].querySelectorAll("figcaption > *");
  title.textContent = result?.rule ?? ALONE;
  note.textContent = facts.rules.find(({ name }) => name === result?.rule)?.note ?? "";
  told.replaceChildren();
  told.title = "";
  if (!result) return;
  const objects = result.segments.map((segment) => state.answer.objects[segment.object]).filter(isShown);
  told.append(plural(objects.filter(({ category }) => category.isthing).length, "object"));
  if (result.pq === undefined) return;
  const [one, two] = chosen();
  told.append(` · PQ ${(100 * result.pq).toFixed(1)}`);
  told.title = "panoptic quality of this image against its ground truth";
  const gain = k === 0 && two ? 100 * (one.pq - two.pq) : 0;
  if (Math.abs(gain) >= 0.05) told.append(make("em", { className: gain > 0 ? "gain" : "" }, `${gain > 0 ? "+" : "−"}${Math.abs(gain).toFixed(1)}`));
}

/** Paints both images and what is cut out of them. */
function paint() {
  const { selected, hovered } = state;
  for (const painting of state.paintings) painting.paint({ opacity: opacity(), isShown, selected, hovered });
  for (const region of main.querySelectorAll(".change")) region.paint();
  for (const button of $("objects").children) button.setAttribute("aria-pressed", Number(button.dataset.object) === state.selected);
}

function select(object) {
  state.selected = object === state.selected || object === state.answer.objects.length ? null : object;
  state.hovered = null;
  describeSelected();
  paint();
}

function describeSelected() {
  const { answer, selected } = state;
  const box = $("selected");
  box.replaceChildren();
  if (selected === null) return;
  const rows = chosen().filter((result, k, both) => result && both.indexOf(result) === k).map(({ rule, areas, sure }) => {
    const area = areas.get(selected);
    const decided = sure.has(selected) ? `, order ${percent(sure.get(selected))} sure` : "";
    const told = area ? `${count(area)} px, ${percent(area / (answer.width * answer.height))}${decided}` : "left out";
    return make("div", {}, make("dt", {}, rule), make("dd", {}, told));
  });
  const close = make("button", { type: "button", className: "link", textContent: "✕", onclick: () => select(selected) });
  close.setAttribute("aria-label", "select nothing");
  box.append(make("h2", {}, swatch([answer.objects[selected].color]), answer.label(selected), close), make("dl", {}, ...rows));
}

// ---------------------------------------------------------------------------------------------------- the changes

function showChanges() {
  const [one, two] = chosen();
  const section = $("changes");
  for (const mark of main.querySelectorAll(".mark")) mark.remove();
  section.hidden = !two || one === two;
  state.changes = section.hidden ? { pixels: 0, regions: [] } : state.answer.changes(one, two, isShown);
  if (section.hidden) return;
  const { pixels, regions } = state.changes;
  const area = state.answer.width * state.answer.height;
  const places = gather(regions.filter((region) => region.pixels >= LEAST * area));
  const [heading, cards] = section.children;
  heading.textContent = pixels
    ? `Where they differ: ${plural(pixels, "pixel")}, ${percent(pixels / area)} of the image`
    : "Both rules give the same result here.";
  cards.replaceChildren(...places.slice(0, CHANGES).map(changeCard));
}

/** Joins regions that are seen in one window, such as what one object loses to several others. */
function gather(regions) {
  const places = [];
  for (const region of regions) {
    const window = surroundings(region.box, state.answer);
    const place = places.find((other) => shared(other.window, window) > 0.5);
    if (place) {
      place.pixels += region.pixels;
      place.regions.push(region);
    } else places.push({ window, pixels: region.pixels, regions: [region] });
  }
  return places.sort((one, two) => two.pixels - one.pixels);
}

/** How much of the smaller of two windows lies in the other. */
function shared([x, y, width, height], [x2, y2, width2, height2]) {
  const wide = Math.min(x + width, x2 + width2) - Math.max(x, x2);
  const high = Math.min(y + height, y2 + height2) - Math.max(y, y2);
  return wide > 0 && high > 0 ? (wide * high) / Math.min(width * height, width2 * height2) : 0;
}

/** A place where the results differ, in both, enlarged, and who gets its pixels. */
function changeCard({ window: [x, y, width, height], pixels, regions }, k) {
  const { answer } = state;
  const views = state.paintings.map(() => make("canvas", { width: 384, height: 288 }));
  const marks = figures.map((figure) => {
    const mark = make("span", { className: "mark", textContent: k + 1 });
    Object.assign(mark.style, {
      left: `${(100 * x) / answer.width}%`, top: `${(100 * y) / answer.height}%`,
      width: `${(100 * width) / answer.width}%`, height: `${(100 * height) / answer.height}%`,
    });
    figure.querySelector(".stage").append(mark);
    return mark;
  });
  const told = chosen().map(({ rule }, n) => {
    const names = [...new Set(regions.map(({ owners }) => answer.label(owners[n])))];
    return make("span", {}, `${rule}: `, make("b", {}, names.join(", ")));
  });
  const text = make("p", {}, make("i", {}, String(k + 1)), make("span", {}, `${plural(pixels, "pixel")} go to`), ...told);
  const card = make("button", { type: "button", className: "change" }, make("span", { className: "views" }, ...views), text);
  const [first, second] = regions[0].owners;
  card.onclick = () => select(first < answer.objects.length ? first : second);
  card.onpointerenter = card.onfocus = () => marks.forEach((mark) => mark.classList.add("lit"));
  card.onpointerleave = card.onblur = () => marks.forEach((mark) => mark.classList.remove("lit"));
  card.paint = () => views.forEach((view, n) => {
    const { canvas } = state.paintings[n];
    const scale = canvas.width / answer.width;
    const context = view.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, x * scale, y * scale, width * scale, height * scale, 0, 0, view.width, view.height);
  });
  return card;
}

/** A window of shape 4 : 3 around a box, with what surrounds it; x, y, width, height. */
function surroundings([x1, y1, x2, y2], { width, height }) {
  const wide = Math.min(Math.max(1.5 * (x2 - x1), 2 * (y2 - y1), width / 6), width, (height * 4) / 3);
  const high = (wide * 3) / 4;
  const x = Math.min(Math.max((x1 + x2 - wide) / 2, 0), width - wide);
  const y = Math.min(Math.max((y1 + y2 - high) / 2, 0), height - high);
  return [x, y, wide, high];
}

// ---------------------------------------------------------------------------------------------- legend and objects

/** A small square in up to three colours, side by side. */
function swatch(colors) {
  const node = make("span", { className: "swatch" });
  const few = colors.slice(0, 3);
  const stops = few.map((color, k) => `rgb(${color}) ${(100 * k) / few.length}% ${(100 * (k + 1)) / few.length}%`);
  node.style.background = `linear-gradient(90deg, ${stops})`;
  return node;
}

function listClasses() {
  const { answer } = state;
  const present = new Map();
  for (const object of answer.objects) present.set(object.category_id, [...(present.get(object.category_id) ?? []), object]);
  $("classes").replaceChildren(
    ...[...present].map(([id, objects]) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.onchange = () => {
        if (box.checked) state.hidden.delete(id);
        else state.hidden.add(id);
        showRules();
      };
      const told = make("small");
      const row = make("label", {}, box, swatch(objects.map(({ color }) => color)), make("span", {}, categories.get(id).name), told);
      row.count = () => {
        const areas = chosen()[0].areas;
        const there = objects.filter((object) => areas.has(object.number) && (state.hidden.has(id) || isShown(object)));
        const area = there.reduce((sum, object) => sum + areas.get(object.number), 0);
        told.textContent = categories.get(id).isthing ? count(there.length) : percent(area / (answer.width * answer.height));
      };
      return row;
    }),
  );
}

$("every").onclick = () => {
  state.hidden.clear();
  for (const box of $("classes").querySelectorAll("input")) box.checked = true;
  showRules();
};

function listObjects() {
  const { answer } = state;
  for (const row of $("classes").children) row.count();
  $("every").hidden = state.hidden.size === 0;
  const { areas } = chosen()[0];
  const shown = answer.objects.filter((object) => areas.has(object.number) && isShown(object));
  $("objects").replaceChildren(
    ...shown.map(({ number, color, category, score }) => {
      const numbers = make("small", {}, score === null ? "" : percent(score));
      const button = make("button", { type: "button", onclick: () => select(number) }, swatch([color]), make("span", {}, category.name), numbers);
      button.dataset.object = number;
      return button;
    }),
  );
  if (state.selected !== null && !isShown(answer.objects[state.selected])) state.selected = null;
  describeSelected();
}

/** Selects the next object of the list, or the one before. */
function step(by) {
  const numbers = [...$("objects").children].map((button) => Number(button.dataset.object));
  if (!numbers.length) return;
  const at = numbers.indexOf(state.selected);
  const next = at < 0 ? (by > 0 ? 0 : numbers.length - 1) : (at + by + numbers.length) % numbers.length;
  if (numbers[next] !== state.selected) select(numbers[next]);
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

function onKey(event) {
  if (event.key === "Escape" && state.selected !== null) select(state.selected);
  else if (event.key in STEPS) step(STEPS[event.key]);
  else return;
  event.preventDefault();
}

$("objects").onkeydown = (event) => {
  onKey(event);
  $("objects").querySelector('[aria-pressed="true"]')?.focus();
};

// ------------------------------------------------------------------------------------------------------- pointing

/** Position of the pixel under the pointer, or null. */
function pixelAt(event, canvas) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * state.answer.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * state.answer.height);
  return x < 0 || y < 0 || x >= state.answer.width || y >= state.answer.height ? null : y * state.answer.width + x;
}

/** The object that a stage shows at a pixel, or void; the image alone has those of the rule. */
function objectAt(k, pixel) {
  const object = (chosen()[k] ?? chosen()[0]).owner[pixel];
  const { objects } = state.answer;
  return object < objects.length && isShown(objects[object]) ? object : objects.length;
}

let frame = 0;

function hover(object) {
  if (state.hovered === object) return;
  state.hovered = object;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(paint);
}

function watch(canvas, k) {
  canvas.onpointermove = (event) => {
    const pixel = event.pointerType === "touch" ? null : pixelAt(event, canvas);
    if (pixel === null) return;
    const object = objectAt(k, pixel);
    hover(object < state.answer.objects.length ? object : null);
    tell(event, k, pixel);
  };
  canvas.onpointerleave = () => {
    hover(null);
    $("tip").hidden = true;
  };
  canvas.onclick = (event) => {
    const pixel = pixelAt(event, canvas);
    if (pixel !== null) select(objectAt(k, pixel));
  };
  canvas.onkeydown = onKey;
}

/** Names what is under the pointer, by both rules where they disagree. */
function tell(event, k, pixel) {
  const results = chosen();
  const here = objectAt(k, pixel);
  const lines = [make("b", {}, state.answer.label(here))];
  if (here < state.answer.objects.length) lines[0].append(`, ${count((results[k] ?? results[0]).areas.get(here) ?? 0)} px`);
  const there = results[1 - k] ? objectAt(1 - k, pixel) : here;
  if (results[k] && there !== here) lines.push(make("span", {}, `${results[1 - k].rule}: ${state.answer.label(there)}`));
  const tip = $("tip");
  tip.replaceChildren(...lines);
  tip.hidden = false;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

// ------------------------------------------------------------------------------------------------------ the controls

const options = (rules) => rules.map(({ name }) => new Option(name, name));
$("rule").append(...options(facts.rules));
$("other").append(...options([...facts.rules, { name: ALONE }]));
$("rule").value = facts.rule;
$("other").value = facts.other;
$("score").min = $("score").value = Math.floor(100 * facts.score);
for (const id of ["rule", "other"]) {
  $(id).onchange = () => {
    showRules();
    if (state.answer) announce();
  };
}

const numbers = () => ["score", "opacity"].forEach((id) => ($(`${id}-shown`).textContent = `${$(id).value} %`));
$("score").oninput = () => {
  numbers();
  showRules();
};
$("opacity").oninput = () => {
  numbers();
  if (state.answer) paint();
};
numbers();
$("bar").onsubmit = (event) => event.preventDefault();

$("downloads").onclick = async (event) => {
  const kind = event.target.closest("[data-file]")?.dataset.file;
  if (!kind || !state.answer) return;
  $("downloads").open = false;
  const { answer } = state;
  const [result] = chosen();
  const paintAlone = () => {
    const painting = new Painting(answer, result.owner, 1);
    painting.paint({ opacity: opacity(), isShown });
    return painting.canvas;
  };
  const [name, blob] = await makeFile(kind, answer, result, { isShown, categories: facts.classes, paint: paintAlone });
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
document.addEventListener("click", (event) => {
  if (!$("downloads").contains(event.target)) $("downloads").open = false;
});

const input = $("open").querySelector("input");
input.onchange = () => {
  send(input.files[0]);
  input.value = ""; // so that the same file can be chosen again
};
document.addEventListener("paste", (event) => send(event.clipboardData.files[0]));
// Anywhere on the page: otherwise the browser leaves it and opens the file.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  send(event.dataTransfer.files[0]);
});

const { kind, count: samples } = facts.samples;
for (let k = 0; k < samples; k++) {
  const image = make("img", { src: `/api/samples/${k}.jpg`, alt: `${kind} ${k + 1}` });
  $("samples").append(make("button", { type: "button", title: `${kind} ${k + 1}`, onclick: () => openSample(k) }, image));
}
$("weights").replaceChildren(
  make("b", {}, facts.weights),
  ...[facts.domain, facts.figures]
    .filter(Boolean)
    .map((text) => make("span", {}, text)),
);
if (samples) openSample(0);
