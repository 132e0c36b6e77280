// Maps of segments, decoded and painted: for the gallery, into which this text is copied, and the page of `banet app`.
// A map has the position of a segment in a list per pixel; void is behind the last one.

/** Decodes a map: its runs in reading order, values before lengths, 32 bits each, deflated, base 64 (`encode_map`). */
export async function decodeMap(text, size) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const both = new Uint32Array(await new Response(stream).arrayBuffer());
  const runs = both.length / 2;
  const map = new Uint32Array(size);
  for (let k = 0, at = 0; k < runs; k++) map.fill(both[k], at, (at += both[runs + k]));
  return map;
}

/** A colour as ImageData has it, read as a little-endian number; alpha is 0..1. */
export const rgba = ([r, g, b], alpha) => ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** 1 where a segment ends, 0 elsewhere: things all round, stuff towards other stuff. `isthing` goes by position. */
export function contours(map, width, height, isthing, reach) {
  const kind = Uint8Array.from([...isthing.map((thing) => (thing ? 2 : 1)), 0]); // void has none
  const edge = new Uint8Array(map.length);
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      const own = map[k];
      const ends = (other) => map[other] !== own && (kind[own] === 2 || (kind[own] === 1 && kind[map[other]] === 1));
      edge[k] =
        (x >= reach && ends(k - reach)) ||
        (x + reach < width && ends(k + reach)) ||
        (y >= reach && ends(k - reach * width)) ||
        (y + reach < height && ends(k + reach * width));
    }
  }
  return edge;
}

/** How far contours reach into their segments in an image of this size. */
export const reachOf = (width, height) => Math.max(1, Math.round(Math.min(width, height) / 350));

/** Paints each pixel with `[filling, contour]` of its segment; void, last, has `[filling, light line, dark line]`. */
export function paintMap(map, edge, width, height, styles) {
  const fill = Uint32Array.from(styles, ([inside]) => inside);
  const rim = Uint32Array.from(styles, ([, contour]) => contour);
  const last = styles.length - 1;
  const [between, light, dark] = styles[last];
  const period = Math.min(60, Math.max(6, Math.floor(Math.min(width, height) / 40)));
  const line = Math.max(1, Math.floor(period / 12));
  const layer = new ImageData(width, height);
  const out = new Uint32Array(layer.data.buffer);
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      const own = map[k];
      if (own < last) out[k] = edge[k] ? rim[own] : fill[own];
      else {
        const phase = (x + y) % period;
        out[k] = phase < line ? light : phase < 2 * line ? dark : between;
      }
    }
  }
  return layer;
}

/** Styles of segments as the library draws them: things filled, stuff by its contour, void in stripes. */
export const plainStyle = (color, isthing, opacity) =>
  opacity === 0 ? [0, 0] : isthing ? [rgba(color, opacity), rgba(color, 0.95)] : [0, rgba(color, Math.max(opacity, 0.8))];
export const voidStyle = (opacity) => {
  const thin = Math.min(opacity, 0.4);
  return [0, rgba([255, 255, 255], thin), rgba([40, 40, 40], thin)];
};
