// What the views ask of a source, by position, layer and head.
import { say } from "./strings.js";
import { plain } from "./text.js";

/** @typedef {import("./source.js").Numbers} Numbers */
/** @typedef {import("./source.js").Source} Source */
/** @typedef {{ids: ArrayLike<number>, logits: ArrayLike<number>, tail: ArrayLike<number>, logSum: number, mean: number, deviation: number, entropy: number}} Prediction */

export const TARGETS = 4;
export const GUESSES = 3;
export const THUMB = 24;
export const NEURONS = 4;
const BINS = 64;
const STATS = 5; // log-sum-exp, mean, deviation, entropy, the logit of what follows
const FIRST = ["pieces", "piece-ids", "stats", "targets", "ranks", "cand-starts", "cand-ids", "cand-logits", "tail", "dry-breaks"];
const THEN = ["lens-ids", "lens-p", "lengths", "base-push", "att-push", "mlp-push", "edit-push", "head-push", "thumbs"];
export const HAND = ["hand-q", "hand-scores", "hand-sums", "hand-found", "hand-keys", "hand-promoted", "hand-mixed"];
const FOUND = 4;
const PROMOTED = 3;
export const NEURON = ["neurons", "neuron-acts", "neuron-push"];
const LAST = ["near-row", "near-ids", "near-cosines", "head-scores", "att-rest", ...NEURON];

export class Data extends EventTarget {
  /** @param {Source} source */
  constructor(source) {
    super();
    this.source = source;
    this.meta = source.meta;
    this.n = source.meta.n;
    this.layers = source.meta.layers;
    this.heads = Number(source.meta.model.heads);
    /** @type {Map<string, Numbers | null>} null: on its way */
    this.kept = new Map();
    /** Blocks that did not come, and why. @type {Map<string, string>} */
    this.lost = new Map();
    /** @type {Record<string, string | [string, string]>} */
    this.pieces = {};
  }

  /** Reads what the first views need. */
  async start() {
    await Promise.all(FIRST.map((name) => this.read(name)));
    const pieces = /** @type {Uint8Array} */ (this.need("pieces"));
    const ids = this.need("piece-ids");
    JSON.parse(new TextDecoder().decode(pieces)).forEach((/** @type {string | [string, string]} */ piece, /** @type {number} */ i) => {
      this.pieces[ids[i]] = piece;
    });
    void this.rest();
  }

  async rest() {
    for (const name of [...THEN, ...LAST, ...HAND]) {
      if (this.source.has(name)) await this.ask(name);
      if (this.lost.size) return; // what is left comes when it is needed
    }
  }

  /** Reads a block, or says why it did not come. @param {string} name */
  async ask(name) {
    try {
      await this.read(name);
    } catch (error) {
      this.lost.set(name, error instanceof Error ? error.message : String(error));
      this.dispatchEvent(new CustomEvent("block", { detail: name }));
    }
  }

  /** Asks once more for what did not come. */
  again() {
    for (const name of this.lost.keys()) if (this.kept.get(name) !== null) void this.ask(name);
  }

  /** @param {string} name */
  async read(name) {
    if (!this.kept.has(name)) this.kept.set(name, null);
    if (this.kept.get(name) === null) {
      try {
        this.kept.set(name, await this.source.block(name));
        this.lost.delete(name);
      } catch (error) {
        this.kept.delete(name);
        throw error;
      }
      this.dispatchEvent(new CustomEvent("block", { detail: name }));
    }
  }

  /** A block; undefined while it is read, which "block" tells the end of. @param {string} name @returns {Numbers | undefined} */
  use(name) {
    const found = this.kept.get(name);
    if (found === undefined && this.source.has(name) && !this.lost.has(name)) void this.ask(name);
    return found ?? undefined;
  }

  /** @param {string} name @returns {Numbers} */
  need(name) {
    const found = this.use(name);
    if (found === undefined) throw new Error(say("blockUnread", { name }));
    return found;
  }

  // ---- tokens

  /** @param {number} id @returns {string} */
  piece(id) {
    const found = this.pieces[id];
    if (found === undefined) return `[${id}]`;
    return typeof found === "string" ? found || `[${id}]` : found[0];
  }

  /** A token's bytes, in hexadecimal. @param {number} id @returns {string[]} */
  bytes(id) {
    const found = this.pieces[id];
    if (Array.isArray(found)) return found[1].match(/../g) ?? [];
    return Array.from(new TextEncoder().encode(found ?? ""), (one) => one.toString(16).padStart(2, "0"));
  }

  /** A token as it is shown: its bytes where they are not whole characters. @param {number} id */
  shown(id) {
    return Array.isArray(this.pieces[id]) ? `\u27e8${this.bytes(id).join("\u00a0")}\u27e9` : plain(this.piece(id));
  }

  /** @param {number} at */
  token(at) {
    return this.shown(this.meta.ids[at]);
  }

  // ---- predictions

  /** @param {number} at @param {number} which */
  stat(at, which) {
    return this.need("stats")[at * STATS + which];
  }

  /** Bits of the token at a position, given those before it; NaN of the first one. @param {number} at */
  surprise(at) {
    return at > 0 ? Math.max((this.stat(at - 1, 0) - this.stat(at - 1, 4)) / Math.LN2, 0) : NaN;
  }

  /** Bits. @param {number} at */
  entropy(at) {
    return Math.max(this.stat(at, 3) / Math.LN2, 0);
  }

  /** @param {number} at @returns {Prediction} */
  prediction(at) {
    const starts = this.need("cand-starts");
    return {
      ids: this.need("cand-ids").subarray(starts[at], starts[at + 1]),
      logits: this.need("cand-logits").subarray(starts[at], starts[at + 1]),
      tail: this.need("tail").subarray(at * BINS, (at + 1) * BINS),
      logSum: this.stat(at, 0),
      mean: this.stat(at, 1),
      deviation: this.stat(at, 2),
      entropy: this.stat(at, 3),
    };
  }

  /** The tokens that pushes at a position are about. @param {number} at */
  targets(at) {
    return Array.from(this.need("targets").subarray(at * TARGETS, (at + 1) * TARGETS));
  }

  /** @param {number} at @param {number} id */
  logit(at, id) {
    const p = this.prediction(at);
    const i = Array.from(p.ids).indexOf(id);
    return i >= 0 ? p.logits[i] : id === this.targets(at)[0] ? this.stat(at, 4) : NaN;
  }

  // ---- layers

  /** @param {string} name att-push, mlp-push or edit-push @param {number} at @param {number} target its number @param {number} layer */
  push(name, at, target, layer) {
    return this.use(name)?.[(at * TARGETS + target) * this.layers + layer] ?? NaN;
  }

  /** @param {number} at @param {number} target @param {number} layer @param {number} head */
  headPush(at, target, layer, head) {
    const { pushed = TARGETS } = this.meta.kept;
    if (target >= pushed) return NaN;
    return this.use("head-push")?.[((at * pushed + target) * this.layers + layer) * this.heads + head] ?? NaN;
  }

  /** @param {number} at @param {number} target @returns {[number, number]} of the embedding, of biases */
  basePush(at, target) {
    const found = this.use("base-push");
    const i = (at * TARGETS + target) * 2;
    return found === undefined ? [NaN, NaN] : [found[i], found[i + 1]];
  }

  /** @param {number} after 0: the embedding @param {number} at @returns {{id: number, p: number}[]} */
  lens(after, at) {
    const ids = this.use("lens-ids");
    const p = this.use("lens-p");
    if (ids === undefined || p === undefined) return [];
    const start = (after * this.n + at) * GUESSES;
    return Array.from({ length: GUESSES }, (_, i) => ({ id: ids[start + i], p: p[start + i] / 255 }));
  }

  /** @param {number} which 0: the stream, 1: attention's part, 2: the feed-forward's @param {number} after @param {number} at */
  length(which, after, at) {
    return this.use("lengths")?.[(which * (this.layers + 1) + after) * this.n + at] ?? NaN;
  }

  /** @param {number} at @param {number} layer @returns {{neuron: number, act: number, push: number}[]} */
  neurons(at, layer) {
    const [which, acts, pushes] = NEURON.map((name) => this.use(name));
    if (!which || !acts || !pushes) return [];
    const count = this.meta.kept.neurons ?? NEURONS;
    const start = (at * this.layers + layer) * count;
    return Array.from({ length: count }, (_, i) => ({
      neuron: which[start + i],
      act: acts[start + i],
      push: pushes[start + i],
    })).filter((one) => one.act !== 0);
  }

  // ---- heads

  /** Whether the page has a layer's weights. @param {number} layer */
  hasMap(layer) {
    return this.source.has(`att-${layer}`);
  }

  /** The block with a head's weights: its layer's, or its own where the source has these. @param {number} layer @param {number} head */
  map(layer, head) {
    return this.source.byHead ? `att-${layer}-${head}` : `att-${layer}`;
  }

  /** The codes (n (n + 1) / 2, by column) of a head's weights. @param {number} layer @param {number} head */
  codes(layer, head) {
    const size = (this.n * (this.n + 1)) / 2;
    const first = this.source.byHead ? 0 : head * size;
    return /** @type {Uint8Array | undefined} */ (this.use(this.map(layer, head))?.subarray(first, first + size));
  }

  /** Weights that a head gives from a row: (row + 1), as far as they were kept. @param {number} layer @param {number} head @param {number} row */
  row(layer, head, row) {
    const codes = this.codes(layer, head);
    return codes && Float32Array.from({ length: row + 1 }, (_, column) => weight(codes[place(this.n, row, column)]));
  }

  /** Weights that a token gets from those after it, itself included: (n - column). @param {number} layer @param {number} head @param {number} column */
  column(layer, head, column) {
    const start = place(this.n, column, column);
    const codes = this.codes(layer, head)?.subarray(start, start + this.n - column);
    return codes && Float32Array.from(codes, weight);
  }

  /** The share of a row that the page left out. @param {number} layer @param {number} head @param {number} row */
  left(layer, head, row) {
    return (this.use("att-rest")?.[(layer * this.heads + head) * this.n + row] ?? 0) / 255;
  }

  /** @param {number} layer @param {number} head */
  thumb(layer, head) {
    const start = (layer * this.heads + head) * THUMB * THUMB;
    return this.use("thumbs")?.subarray(start, start + THUMB * THUMB);
  }

  /** Attention by hand, at meta.hand: the query, the best scores with their keys, the output and what it promotes.
   * @param {number} layer @param {number} head */
  hand(layer, head) {
    const [q, scores, sums, found, keys, promoted, mixed] = HAND.map((name) => this.use(name));
    if (!q || !scores || !sums || !found || !keys || !promoted || !mixed) return undefined;
    const i = layer * this.heads + head;
    const wide = q.length / (this.layers * this.heads);
    const dim = this.meta.head_dims[layer];
    const length = this.meta.hand + 1;
    const row = scores.subarray(i * length, (i + 1) * length);
    const best = Array.from(found.subarray(i * FOUND, (i + 1) * FOUND)).slice(0, length).map((at, j) => {
      const start = (i * FOUND + j) * wide;
      return { at, score: row[at], weight: Math.exp(row[at] - sums[i]), key: Array.from(keys.subarray(start, start + dim)) };
    });
    const [value, values] = [this.meta.value_dims[layer], mixed.length / (this.layers * this.heads)];
    return { query: Array.from(q.subarray(i * wide, i * wide + dim)), best, mixed: Array.from(mixed.subarray(i * values, i * values + value)), sum: sums[i], promoted: Array.from(promoted.subarray(i * PROMOTED, (i + 1) * PROMOTED)) };
  }

  /** @param {string} name one of meta.scores @param {number} layer @param {number} head */
  score(name, layer, head) {
    const which = this.meta.scores.indexOf(name);
    return this.use("head-scores")?.[(layer * this.heads + head) * this.meta.scores.length + which] ?? NaN;
  }
}

/** @param {number} code */
export function weight(code) {
  return (code / 255) ** 2;
}

/** Where a head's codes have a row's column. @param {number} n @param {number} row @param {number} column */
export function place(n, row, column) {
  return column * n - (column * (column - 1)) / 2 + row - column;
}
