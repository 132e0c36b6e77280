// An answer of the server: what was found in one image, by every rule.

import { decodeMap } from "/static/segments.js";

/** One rule's result. `map` has a position in `segments` per pixel, `owner` one in the answer's objects. */
class Result {
  constructor({ segments, pq }, rule, map, count) {
    Object.assign(this, { rule, segments, pq, map });
    const objects = [...segments.map((segment) => segment.object), count];
    this.owner = map.map((position) => objects[position]);
    this.areas = new Map();
    this.sure = new Map(segments.filter(({ sure }) => sure !== undefined).map(({ object, sure }) => [object, sure]));
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
      answer.results.set(rule, new Result(result, rule, await decodeMap(result.map, width * height), objects.length));
    }
    return answer;
  }

  /** Regions that two results give to different objects, by pair of owners, the largest first. */
  changes(one, two, isShown) {
    const none = this.objects.length;
    const seen = [...this.objects.map((object, k) => (isShown(object) ? k : none)), none];
    const found = new Map();
    let pixels = 0;
    for (let k = 0; k < one.owner.length; k++) {
      const [before, after] = [seen[one.owner[k]], seen[two.owner[k]]];
      if (before === after) continue;
      pixels++;
      const key = before * (none + 1) + after;
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

  /** What an object is called; behind the last one is void. */
  label(number) {
    if (number === this.objects.length) return "void";
    const { category, score } = this.objects[number];
    return score === null ? category.name : `${category.name} ${Math.round(100 * score)} %`;
  }
}
