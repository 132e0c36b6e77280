// Painting of owners over an image: fillings and outlines, and one object lit while the rest is dimmed.

const rgba = ([r, g, b], alpha) => ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0; // little-endian
const VEIL = rgba([0, 0, 0], 0.62); // dark: a light one would bleach dark images
const WHITE = rgba([255, 255, 255], 1);
const STUFF = 0.4; // of the opacity of things
const SMALL = 900; // pixels of the longer side below which a picture is painted enlarged, for crisp outlines

/** Each pixel of a map as a square of `factor` pixels a side. */
function enlarge(map, width, height, factor) {
  if (factor === 1) return map;
  const wide = width * factor;
  const large = new Int32Array(wide * height * factor);
  for (let y = 0; y < height; y++) {
    const start = y * factor * wide;
    for (let x = 0; x < width; x++) large.fill(map[y * width + x], start + x * factor, start + (x + 1) * factor);
    for (let k = 1; k < factor; k++) large.copyWithin(start + k * wide, start, start + wide);
  }
  return large;
}

/** 1 where another owner is `reach` pixels away, 0 elsewhere. */
function outlines(map, width, height, reach) {
  const edge = new Uint8Array(map.length);
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      const own = map[k];
      if (
        (x >= reach && map[k - reach] !== own) ||
        (x + reach < width && map[k + reach] !== own) ||
        (y >= reach && map[k - reach * width] !== own) ||
        (y + reach < height && map[k + reach * width] !== own)
      ) edge[k] = 1;
    }
  }
  return edge;
}

/** A canvas on which an image is painted with the owners of its pixels, in any style, quickly. */
export class Painting {
  /** `owner` has one object per pixel, -1 for none; `factor` enlarges. */
  constructor(answer, owner, factor = Math.max(1, Math.round(SMALL / Math.max(answer.width, answer.height)))) {
    this.answer = answer;
    this.canvas = document.createElement("canvas");
    const width = (this.canvas.width = answer.width * factor);
    const height = (this.canvas.height = answer.height * factor);
    this.layer = new OffscreenCanvas(width, height);
    this.owner = owner && enlarge(owner, answer.width, answer.height, factor);
    const reach = Math.max(1, Math.round(Math.min(width, height) / 400));
    this.edge = owner && outlines(this.owner, width, height, reach);
  }

  /** Paints the objects that `isShown` accepts: `selected`, if any, alone in the light, `hovered` with a white outline. */
  paint({ opacity, isShown, selected = null, hovered = null }) {
    const { answer, canvas, layer, owner, edge } = this;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(answer.image, 0, 0, canvas.width, canvas.height);
    if (!owner) return;
    const stuff = new Set(answer.objects.filter(({ category }) => !category.isthing).map((object) => object.category_id));
    const thin = stuff.size > 1 ? STUFF * opacity : 0; // one alone is what is left of the image
    const styles = answer.objects.map((object, k) => {
      if (selected !== null) return k === selected ? [0, WHITE] : [VEIL, VEIL];
      if (!isShown(object)) return [0, 0];
      const { color, category } = object;
      if (k === hovered) return [rgba(color, opacity / 2), WHITE];
      if (!category.isthing) return [rgba(color, thin), rgba(color.map((v) => v >> 1), 2 * thin)];
      const light = color.map((v) => Math.round(v + 0.35 * (255 - v)));
      return [rgba(color, opacity), rgba(light, Math.min(1, 2 * opacity))];
    });
    styles.push(selected === null ? [0, 0] : [VEIL, VEIL]); // void's
    const fill = Uint32Array.from(styles, ([inside]) => inside);
    const rim = Uint32Array.from(styles, ([, outline]) => outline);
    const pixels = new ImageData(canvas.width, canvas.height);
    const out = new Uint32Array(pixels.data.buffer);
    const last = fill.length - 1;
    for (let k = 0; k < out.length; k++) {
      const own = owner[k] < 0 ? last : owner[k];
      out[k] = edge[k] ? rim[own] : fill[own];
    }
    layer.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(layer, 0, 0);
  }
}
