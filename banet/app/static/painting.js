// Painting of a result over its image, enlarged where that is small, and one object lit while the rest is dimmed.

import { contours, paintMap, plainStyle, reachOf, rgba, voidStyle } from "/static/segments.js";

const VEIL = rgba([0, 0, 0], 0.62); // dark: a light one would bleach dark images
const WHITE = rgba([255, 255, 255], 1);
const SMALL = 900; // pixels of the longer side below which an image is painted enlarged, for crisp contours

/** Each pixel of a map as a square of `factor` pixels a side. */
function enlarge(map, width, height, factor) {
  if (factor === 1) return map;
  const wide = width * factor;
  const large = new Uint32Array(wide * height * factor);
  for (let y = 0; y < height; y++) {
    const start = y * factor * wide;
    for (let x = 0; x < width; x++) large.fill(map[y * width + x], start + x * factor, start + (x + 1) * factor);
    for (let k = 1; k < factor; k++) large.copyWithin(start + k * wide, start, start + wide);
  }
  return large;
}

/** A canvas on which an image is painted with the owners of its pixels, in any style, quickly. */
export class Painting {
  /** `owner` is a map of positions in the answer's objects, or nothing for the image alone; `factor` enlarges. */
  constructor(answer, owner, factor = Math.max(1, Math.round(SMALL / Math.max(answer.width, answer.height)))) {
    this.answer = answer;
    this.canvas = document.createElement("canvas");
    const width = (this.canvas.width = answer.width * factor);
    const height = (this.canvas.height = answer.height * factor);
    this.layer = new OffscreenCanvas(width, height);
    if (!owner) return;
    this.owner = enlarge(owner, answer.width, answer.height, factor);
    const isthing = answer.objects.map(({ category }) => category.isthing);
    this.edge = contours(this.owner, width, height, isthing, reachOf(width, height));
  }

  /** Paints the objects that `isShown` accepts: `selected`, if any, alone in the light, `hovered` with a white contour. */
  paint({ opacity, isShown, selected = null, hovered = null }) {
    const { answer, canvas, layer, owner, edge } = this;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(answer.image, 0, 0, canvas.width, canvas.height);
    if (!owner) return;
    const styles = answer.objects.map((object, k) => {
      if (selected !== null) return k === selected ? [0, WHITE] : [VEIL, VEIL];
      if (!isShown(object)) return [0, 0];
      const { color, category } = object;
      return k === hovered ? [rgba(color, opacity / 2), WHITE] : plainStyle(color, category.isthing, opacity);
    });
    styles.push(selected === null ? voidStyle(opacity) : [VEIL, VEIL, VEIL]);
    layer.getContext("2d").putImageData(paintMap(owner, edge, canvas.width, canvas.height, styles), 0, 0);
    context.drawImage(layer, 0, 0);
  }
}
