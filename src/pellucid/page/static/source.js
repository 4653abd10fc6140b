// Where the views' arrays come from: a page's own blocks. A block is base64 of raw deflate of little-endian numbers.

/** @typedef {Uint8Array | Uint16Array | Uint32Array | Float32Array | Float64Array} Numbers */
/** What the server says of a position's sampler.
 * @typedef {{steps: {name: string, kept: number, ids: number[], probabilities: number[]}[], drawn: {id: number, piece: string, u: number | null} | null}} Exact */
/** @typedef {{meta: Meta, has: (name: string) => boolean, block: (name: string) => Promise<Numbers>,
 *   steps?: (what: {position: number, options: object, seed: bigint}) => Promise<Exact>}} Source steps: of a live source */
/**
 * @typedef {object} Meta
 * @property {number} pellucid_page
 * @property {string} title
 * @property {Record<string, string | number>} model
 * @property {number} n
 * @property {number} layers
 * @property {number[]} windows
 * @property {number[]} kv_heads
 * @property {number[]} ids
 * @property {{ids: number[], edited: boolean}} [against]
 * @property {number} prompt
 * @property {number} hand the position whose attention is shown by hand
 * @property {number[]} scales
 * @property {number[]} head_dims
 * @property {Record<string, any>} options
 * @property {string | null} seed
 * @property {number[]} suppressed tokens that the model's files forbid
 * @property {string[]} scores
 * @property {[number | null, string, string, [string, number, number][], number, string][]} plan
 * @property {{layers: number, window: number, bytes_per_token: number}[]} cache
 * @property {{prompt: number[], token: number[]} | null} timings
 * @property {{attention?: {share: number, most: number} | null, layers?: number[], positions?: number[]}} kept
 * @property {Record<string, string>} blocks
 */

const VERSION = 1;

/** Values of all float16, made when the first one is needed. @type {Float32Array | undefined} */
let halves;

/** @returns {Float32Array} */
function halfValues() {
  if (halves === undefined) {
    halves = new Float32Array(65536);
    for (let i = 0; i < 65536; i++) {
      const sign = i & 0x8000 ? -1 : 1;
      const exponent = (i >> 10) & 31;
      const fraction = i & 1023;
      halves[i] =
        exponent === 0
          ? (sign * fraction) / 2 ** 24
          : exponent === 31
            ? fraction
              ? NaN
              : sign * Infinity
            : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    }
  }
  return halves;
}

/** @param {string} type @param {ArrayBuffer} buffer @returns {Numbers} */
export function numbers(type, buffer) {
  switch (type) {
    case "u8":
      return new Uint8Array(buffer);
    case "u16":
      return new Uint16Array(buffer);
    case "u32":
      return new Uint32Array(buffer);
    case "f32":
      return new Float32Array(buffer);
    case "f64":
      return new Float64Array(buffer);
    case "f16": {
      const table = halfValues();
      const codes = new Uint16Array(buffer);
      const values = new Float32Array(codes.length);
      for (let i = 0; i < codes.length; i++) values[i] = table[codes[i]];
      return values;
    }
    default:
      throw new Error(`This page has a block of type ${type}, which it cannot read.`);
  }
}

export class PageSource {
  /** @param {Document} page */
  constructor(page) {
    this.page = page;
    /** @type {Meta} */
    this.meta = JSON.parse(page.getElementById("meta")?.textContent ?? "{}");
    if (this.meta.pellucid_page !== VERSION) {
      throw new Error(`This page's data is of version ${this.meta.pellucid_page}; its program reads ${VERSION}.`);
    }
    /** @type {Map<string, Promise<Numbers>>} */
    this.kept = new Map();
  }

  /** @param {string} name */
  has(name) {
    return name in this.meta.blocks;
  }

  /** @param {string} name @returns {Promise<Numbers>} */
  block(name) {
    let found = this.kept.get(name);
    if (found === undefined) {
      found = this.read(name);
      this.kept.set(name, found);
    }
    return found;
  }

  /** @param {string} name @returns {Promise<Numbers>} */
  async read(name) {
    const element = this.page.getElementById(`block-${name}`);
    if (element === null) throw new Error(`This page has no block ${name}.`);
    const letters = atob(element.textContent ?? "");
    const packed = new Uint8Array(letters.length);
    for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
    element.remove(); // its text is not needed again
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return numbers(this.meta.blocks[name], await new Response(stream).arrayBuffer());
  }
}

/** What a page is compared with: blocks under names of their own. */
export class OtherSource {
  /** @param {Source} source */
  constructor(source) {
    this.source = source;
    /** @type {Meta} */
    this.meta = { ...source.meta, ids: source.meta.against?.ids ?? [] };
  }

  /** @param {string} name */
  has(name) {
    return this.source.has(`b-${name}`);
  }

  /** @param {string} name */
  block(name) {
    return this.source.block(this.has(name) ? `b-${name}` : name);
  }
}
