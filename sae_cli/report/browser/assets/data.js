// Files beside this page, loaded as classic scripts: a page from disk may fetch nothing else.
const waiting = new Map(), cache = new Map();
const KEPT = 160; // files held in memory, unpacked
const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, i2: Int16Array, f4: Float32Array };

window.saectl = (name, packed) => {
  const one = waiting.get(name);
  if (one) one.resolve(packed);
};

async function unpack(packed) {
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(packed)
    : Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = await new Response(stream).arrayBuffer();
  const length = new DataView(whole).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 4, length)));
  const arrays = {};
  for (const [name, kind, shape, offset] of head.arrays) {
    const size = shape.reduce((a, b) => a * b, 1);
    arrays[name] = new KINDS[kind](whole, 4 + length + offset, size);
    arrays[name].shape = shape;
  }
  return { meta: head.meta, ...arrays };
}

function fetchScript(name) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    waiting.set(name, { resolve, reject });
    element.src = name.split("/").map(encodeURIComponent).join("/") + ".js";
    element.onload = () => { element.remove(); if (waiting.delete(name)) reject(new Error(`${name}.js is damaged`)); };
    element.onerror = () => { element.remove(); waiting.delete(name); reject(new Error(`${name}.js is missing`)); };
    document.head.append(element);
  }).finally(() => waiting.delete(name));
}

// The content of a file, by its name without `.js`; the last ones asked for are kept.
function load(name) {
  let found = cache.get(name);
  if (found) cache.delete(name);
  else {
    found = fetchScript(name).then(unpack);
    found.catch(() => cache.delete(name));
  }
  cache.set(name, found);
  for (const old of cache.keys()) {
    if (cache.size <= KEPT) break;
    if (old.includes("/feat-") || old.includes("/corpus-")) cache.delete(old);
    else { const kept = cache.get(old); cache.delete(old); cache.set(old, kept); break; }
  }
  return found;
}

// What the site holds of an SAE.
class Sae {
  constructor(entry, index, words) {
    Object.assign(this, { entry, index, words, meta: index.meta, n: index.meta.features });
    this.said = new Map(index.meta.said.map(([f, text, label, steered]) => [f, { text, label, steered }]));
  }

  static async open(entry) {
    const index = await load(`${entry.folder}/index.bin`);
    const words = await load(`${index.meta.text}/words`);
    const bare = words.meta.filter((w) => /^[\p{L}\p{N}]/u.test(w)).length;
    spaced = bare < 0.02 * words.meta.length;
    return new Sae(entry, index, words.meta);
  }

  peaks(feature) {
    if (!this.index.fired[feature]) return [];
    const width = this.index.peaks.shape[1];
    const ids = this.index.peaks.subarray(feature * width, (feature + 1) * width);
    return [...new Set(ids)].map((i) => this.words[i]);
  }

  // Everything on a feature's page.
  async page(feature) {
    const at = Math.floor(feature / 256);
    const shard = await load(`${this.entry.folder}/feat-${String(at).padStart(3, "0")}`);
    const row = feature - shard.meta.first;
    return {
      notes: shard.meta.notes[feature] || {},
      histogram: this.histogram(shard, row),
      top: await this.examples(shard, "top", row),
      sample: await this.examples(shard, "sample", row),
      idle: await this.idle(shard, row),
      up: this.ranked(shard, "up", row), down: this.ranked(shard, "down", row),
      near: this.ranked(shard, "near", row),
    };
  }

  histogram(shard, row) {
    const low = shard.hist_low[row], size = shard.hist_size[row];
    const from = sum(shard.hist_size, row);
    return { low, counts: [...shard.hist.subarray(from, from + size)] };
  }

  async examples(shard, kind, row) {
    const count = shard[`${kind}_count`], active = shard[`${kind}_active`];
    const first = sum(count, row), found = [];
    let at = sum(active, first);
    for (let i = first; i < first + count[row]; i++) {
      const peak = shard[`${kind}_peak`][i], values = new Map();
      for (let end = at + active[i]; at < end; at++) {
        values.set(shard[`${kind}_place`][at], peak * shard[`${kind}_share`][at] / 255);
      }
      const group = kind === "sample" ? shard.sample_group[i] : null;
      found.push(this.window(shard[`${kind}_window`][i]).then((words) => ({ words, values, peak, group })));
    }
    return Promise.all(found);
  }

  async idle(shard, row) {
    const width = shard.idle.shape[1];
    const numbers = [...shard.idle.subarray(row * width, (row + 1) * width)].filter((n) => n !== 0xffffffff);
    return Promise.all(numbers.map((n) => this.window(n).then((words) => ({ words, values: new Map(), peak: 0 }))));
  }

  async window(number) {
    const at = Math.floor(number / 4096), row = number % 4096;
    const corpus = await load(`${this.meta.text}/corpus-${String(at).padStart(3, "0")}`);
    const width = corpus.tokens.shape[1];
    const ids = corpus.tokens.subarray(row * width, row * width + corpus.length[row]);
    return Array.from(ids, (i) => this.words[i]);
  }

  ranked(shard, kind, row) {
    const ids = shard[`${kind}_id`];
    if (!ids) return null;
    const width = ids.shape[1], scale = shard[`${kind}_scale`][row];
    return Array.from({ length: width }, (_, i) => {
      const id = ids[row * width + i];
      return { id, word: kind === "near" ? null : this.words[id], value: scale * shard[`${kind}_value`][row * width + i] / 32767 };
    });
  }
}

const sum = (array, end) => { let total = 0; for (let i = 0; i < end; i++) total += array[i]; return total; };
