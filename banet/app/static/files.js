// Files of one result, made in the browser: they hold what is shown.

const CRCS = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(kind, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(data, 8);
  let crc = ~0;
  for (const byte of bytes.subarray(4, 8 + data.length)) crc = CRCS[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + data.length, ~crc >>> 0);
  return bytes;
}

/** An id map as a PNG with id = R + 256 G + 65536 B. Not by way of a canvas, since some browsers alter what is read. */
async function idMap(ids, width, height) {
  const rows = new Uint8Array(height * (1 + 3 * width)); // each begins with the number of its filter, 0
  for (let k = 0, at = 0; k < ids.length; k++) {
    if (k % width === 0) at++;
    rows[at++] = ids[k] & 255;
    rows[at++] = (ids[k] >> 8) & 255;
    rows[at++] = (ids[k] >> 16) & 255;
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0]);
  new DataView(head.buffer).setUint32(0, width);
  new DataView(head.buffer).setUint32(4, height);
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  const parts = [signature, chunk("IHDR", head), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Blob(parts, { type: "image/png" });
}

/** Segments with their classes, and the id of each pixel; what `isShown` rejects is left out and becomes void. */
function kept(answer, result, isShown) {
  const segments = result.segments
    .filter(({ object }) => isShown(answer.objects[object]))
    .map((segment) => ({ ...segment, ...answer.objects[segment.object] }));
  const ids = new Set(segments.map(({ id }) => id));
  const table = [...result.segments.map(({ id }) => (ids.has(id) ? id : 0)), 0];
  return { segments, ids: result.map.map((position) => table[position]) };
}

function coco(answer, segments, png, categories) {
  const image = { id: 1, file_name: answer.name, width: answer.width, height: answer.height };
  const segments_info = segments.map(({ id, category_id, score, area, bbox }) => ({
    id, category_id, iscrowd: 0, area, bbox, ...(score === null ? {} : { score }),
  }));
  const annotation = { image_id: 1, file_name: png, segments_info };
  return JSON.stringify({ images: [image], annotations: [annotation], categories });
}

function table(segments, ids, width) {
  const sums = new Map(segments.map(({ id }) => [id, [0, 0]]));
  ids.forEach((id, k) => {
    const sum = sums.get(id);
    if (!sum) return;
    sum[0] += (k % width) + 0.5;
    sum[1] += Math.floor(k / width) + 0.5;
  });
  const quote = (text) => `"${text.replaceAll('"', '""')}"`;
  const rows = segments.map(({ id, category, score, area, bbox }) =>
    [id, quote(category.name), category.isthing, score ?? "", area, ...bbox, ...sums.get(id).map((sum) => (sum / area).toFixed(2))],
  );
  const head = "id,label,isthing,score,area,x,y,width,height,centroid_x,centroid_y";
  return [head, ...rows.map((row) => row.join(","))].join("\r\n") + "\r\n";
}

/** Returns `[name, blob]` of a file of a result. `paint` gives a canvas of the image's size. */
export async function makeFile(kind, answer, result, { isShown, categories, paint }) {
  const stem = `${answer.name.replace(/\.[^.]*$/, "")}_${result.rule}`.replace(/[^\p{L}\p{N}.-]+/gu, "_");
  const png = `${stem}_ids.png`;
  const { segments, ids } = kept(answer, result, isShown);
  if (kind === "overlay") {
    return [`${stem}_overlay.png`, await new Promise((done) => paint().toBlob(done, "image/png"))];
  }
  if (kind === "ids") return [png, await idMap(ids, answer.width, answer.height)];
  if (kind === "json") {
    return [`${stem}_segments.json`, new Blob([coco(answer, segments, png, categories)], { type: "application/json" })];
  }
  return [`${stem}_table.csv`, new Blob([table(segments, ids, answer.width)], { type: "text/csv" })];
}
