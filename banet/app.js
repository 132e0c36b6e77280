// Gradio runs this for each of the two parts of the page, with `element` (its root), `trigger`, `props` and `watch`.

/** Gradio's requests run side by side and may pass each other: let each wait until the one before is in the queue. */
function askInOrder() {
  const ask = window.fetch.bind(window);
  let before = Promise.resolve();
  window.fetch = (resource, options) => {
    if (!String(resource.url ?? resource).includes("/queue/join")) return ask(resource, options);
    const answer = before.then(() => ask(resource, options));
    before = answer.catch(() => {}); // which Gradio tells
    return answer;
  };
}

/** The drop zone: sends dropped, pasted and chosen pictures, and the numbers of examples. */
function takePictures(element, trigger) {
  const limit = Number(element.querySelector(".banet-drop").dataset.limit);
  const input = element.querySelector("input");
  const tell = (text) => (element.querySelector(".banet-fault").textContent = text);

  const send = (file) => {
    tell("");
    if (!file) return;
    if (file.size > limit) {
      tell(`${file.name}: has ${(file.size / 2 ** 20).toFixed(1)} MB; the limit is ${limit / 2 ** 20} MB.`);
      return;
    }
    const reader = new FileReader();
    reader.onload = () => trigger("picture", { name: file.name, content: reader.result.split(",")[1] ?? "" });
    reader.onerror = () => tell(`${file.name}: cannot be read; is it a folder?`);
    reader.readAsDataURL(file);
  };

  input.addEventListener("change", () => {
    send(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  for (const button of element.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => {
      tell("");
      trigger("example", { index: Number(button.dataset.example) });
    });
  }
  document.addEventListener("paste", (event) => send(event.clipboardData.files[0]));
  // Anywhere on the page, lest the browser leave it to open the file.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("banet-dragging");
  });
  for (const end of ["dragleave", "drop"]) {
    document.addEventListener(end, () => document.body.classList.remove("banet-dragging"));
  }
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    send(event.dataTransfer.files[0]);
  });
}

/** The results: four pictures of one size; what lies under the pointer is named and lit in all of them. */
function showResults(element, props, watch) {
  const root = element.querySelector(".banet-view");

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  /** Segment id of each pixel, from runs. */
  const spread = ({ lengths, ids }, count) => {
    const map = new Int32Array(count);
    let at = 0;
    lengths.forEach((length, run) => map.fill(ids[run], at, (at += length)));
    return map;
  };

  const show = (value) => {
    const [width, height] = value.size;
    const [result, other] = value.results;
    const maps = value.results.map((each) => spread(each, width * height));
    const tip = make("div", { className: "banet-tip", hidden: true });
    const lit = [0, 0];

    /** Veils all but the segment of each result that is given; none for 0. */
    const light = (segments) => {
      if (segments.every((segment, k) => segment === lit[k])) return;
      segments.forEach((segment, k) => (lit[k] = segment));
      for (const { canvas, k } of panels) {
        const context = canvas.getContext("2d");
        context.clearRect(0, 0, width, height);
        if (!segments[k]) continue;
        const veil = context.createImageData(width, height);
        const pixels = new Uint32Array(veil.data.buffer);
        maps[k].forEach((id, at) => id === segments[k] || (pixels[at] = 0xa0ffffff));
        context.putImageData(veil, 0, 0);
      }
    };

    const panel = (title, image, k, ...extras) => {
      const canvas = make("canvas", { width, height });
      const picture = make("img", { src: image, alt: title, draggable: false });
      const stage = make("div", { className: "banet-stage" }, picture, canvas);
      stage.addEventListener("pointermove", (event) => {
        const box = stage.getBoundingClientRect();
        const x = Math.floor(((event.clientX - box.left) / box.width) * width);
        const y = Math.floor(((event.clientY - box.top) / box.height) * height);
        if (x < 0 || y < 0 || x >= width || y >= height) return;
        const segments = maps.map((map) => map[y * width + x]);
        light(segments);
        const lines = k === undefined ? [0, 1] : [k];
        tip.replaceChildren(
          ...lines.map((each) =>
            make("div", {
              textContent:
                (lines.length > 1 ? `${value.results[each].title}: ` : "") + value.results[each].names[segments[each]],
            }),
          ),
        );
        tip.hidden = false;
        tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
        tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
      });
      stage.addEventListener("pointerleave", () => {
        tip.hidden = true;
        light([0, 0]);
      });
      const caption = make("figcaption", {}, make("b", { textContent: title }), ...extras);
      return { figure: make("figure", {}, caption, stage), canvas, k: k ?? 0 };
    };

    const files = (each) =>
      make(
        "span",
        {},
        ...["png", "json"].map((kind) =>
          make("a", { href: each[kind], download: `${each.stem}.${kind}`, textContent: kind.toUpperCase() }),
        ),
      );
    const share = ((100 * value.changes.pixels) / (width * height)).toFixed(1);
    const counted = make("span", { textContent: `${value.changes.pixels} pixels, ${share} %` });
    const sizes = value.original[0] === width ? "" : `, reduced from ${value.original.join(" × ")}`;
    const panels = [
      panel(value.name, value.picture, 0, make("span", { textContent: `${width} × ${height}${sizes}` })),
      panel(result.title, result.image, 0, files(result)),
      panel(other.title, other.image, 1, files(other)),
      panel("Pixels that change hands", value.changes.image, undefined, counted),
    ];
    root.replaceChildren(make("div", { className: "banet-grid" }, ...panels.map(({ figure }) => figure)), tip);
  };

  root.append(make("p", { className: "banet-hint", textContent: "Results appear here. Point at a segment to name it." }));
  watch("value", () => {
    const { fault } = props.value;
    if (fault === undefined) show(props.value);
    const gone = root.querySelector(".banet-grid") ? "This picture is no longer held; drop it again." : "";
    document.querySelector(".banet-fault").textContent = fault === undefined ? props.value.note : fault || gone;
  });
}
