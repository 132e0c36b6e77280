// An answer of the server: what was found in one image, by every rule.

/** A map is its runs in reading order, values before lengths, 32 bits each, deflated, in base 64 (`encode_map`). */
async function decodeMap(text, size) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const both = new Uint32Array(await new Response(stream).arrayBuffer());
  const runs = both.length / 2;
  const map = new Int32Array(size);
  for (let k = 0, at = 0; k < runs; k++) map.fill(both[k], at, (at += both[runs + k]));
  return map;
}

/** One rule's result. `map` has a position in `segments` per pixel, `owner` one in the answer's objects; -1 is void. */
class Result {
  constructor({ segments, pq }, rule, map) {
    Object.assign(this, { rule, segments, pq, map });
    const objects = Int32Array.from([...segments.map((segment) => segment.object), -1]);
    this.owner = map.map((position) => objects[position]);
    this.areas = new Map();
    for (const { object, area } of segments) this.areas.set(object, area + (this.areas.get(object) ?? 0));
  }
}

export class Answer {
  /** Decodes what the server sent; `name` is the image's, `categories` the classes by id. */
  static async read(content, name, categories) {
    const answer = new Answer();
    const image = new Image();
    image.src = `data:image/jpeg;base64,${content.image}`;
    await image.decode();
    const [width, height] = content.size;
    const objects = content.objects.map((object, number) => ({
      ...object,
      number,
      category: categories.get(object.category_id),
    }));
    Object.assign(answer, { name, image, width, height, objects, notes: content.notes, original: content.original });
    answer.results = new Map();
    for (const [rule, result] of Object.entries(content.results)) {
      answer.results.set(rule, new Result(result, rule, await decodeMap(result.map, width * height)));
    }
    return answer;
  }

  /** Regions that two results give to different objects, by pair of owners, the largest first. */
  changes(one, two, isShown) {
    const count = this.objects.length + 1;
    const found = new Map();
    const shown = [...this.objects.map(isShown), false];
    const [a, b] = [one.owner, two.owner];
    let pixels = 0;
    for (let k = 0; k < a.length; k++) {
      if (a[k] === b[k]) continue;
      const before = shown.at(a[k]) ? a[k] : -1; // at(-1) is void's
      const after = shown.at(b[k]) ? b[k] : -1;
      if (before === after) continue;
      pixels++;
      const key = (before + 1) * count + after + 1;
      const x = k % this.width;
      const y = (k - x) / this.width;
      const region = found.get(key);
      if (!region) {
        found.set(key, { owners: [before, after], pixels: 1, box: [x, y, x + 1, y + 1] });
        continue;
      }
      region.pixels++;
      const { box } = region;
      if (x < box[0]) box[0] = x;
      if (x >= box[2]) box[2] = x + 1;
      box[3] = y + 1;
    }
    return { pixels, regions: [...found.values()].sort((p, q) => q.pixels - p.pixels) };
  }

  /** What an object is called. */
  label(number) {
    if (number < 0) return "void";
    const { category, score } = this.objects[number];
    return score === null ? category.name : `${category.name} ${Math.round(100 * score)} %`;
  }
}
