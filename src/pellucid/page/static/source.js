// Where the views' arrays come from: a page's own blocks, which page/blocks.py writes.
import { say } from "./strings.js";

/** @typedef {Uint8Array | Uint16Array | Uint32Array | Float32Array | Float64Array} Numbers */
/** What the server says of a position's sampler.
 * @typedef {{steps: {name: string, kept: number, ids: number[], probabilities: number[]}[], drawn: {id: number, piece: string, u: number | null} | null}} Exact */
/** @typedef {{meta: Meta, has: (name: string) => boolean, block: (name: string) => Promise<Numbers>, byHead?: boolean,
 *   steps?: (what: {position: number, options: object, seed: bigint}) => Promise<Exact>}} Source byHead: the weights of each head are a block; steps: of a live source */
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
 * @property {number[]} value_dims
 * @property {Record<string, any>} options
 * @property {string | null} seed
 * @property {number[]} suppressed tokens that the model's files forbid
 * @property {string[]} scores
 * @property {[number | null, string, string, [string, number, number][], number, string][]} plan
 * @property {{layers: number, window: number, bytes_per_token: number}[]} cache
 * @property {{prompt: number[], token: number[]} | null} timings
 * @property {{attention?: {share: number, most: number} | null, pushed?: number, neurons?: number, candidates?: number, layers?: number[], positions?: number[]}} kept
 * @property {Record<string, string>} blocks
 */

const VERSION = 2;

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

const SLICE = 8; // milliseconds of decoding between two pauses, in which the browser draws and answers
const MANY = 50_000; // numbers between two looks at the clock

class Slices {
  since = performance.now();

  /** Pauses, once enough time has passed. */
  async next() {
    if (performance.now() - this.since < SLICE) return;
    const { scheduler } = /** @type {any} */ (globalThis);
    await (scheduler?.yield ? scheduler.yield() : new Promise((done) => setTimeout(done)));
    this.since = performance.now();
  }

  /** Work on the numbers from 0 to n, some at a time. @param {number} n @param {(from: number, to: number) => void} work */
  async each(n, work) {
    for (let from = 0; from < n; from += MANY) {
      work(from, Math.min(from + MANY, n));
      await this.next();
    }
  }
}

/** Bytes of a number. @type {Record<string, number>} */
const SIZES = { u8: 1, u16: 2, u32: 4, f16: 2, f32: 4, f64: 8 };

const GROUPS = 8;

/** Code of a letter -> its digit. */
const DIGITS = new Uint8Array(128);
for (let code = 33, digit = 0; code < 127; code++) if (!"\"&'<=>\\`~".includes(String.fromCharCode(code))) DIGITS[code] = digit++;

/** Five letters are four bytes; the last n + 1 letters n bytes. @param {string} text @param {Slices} slices */
async function bytes(text, slices) {
  const rest = (5 - (text.length % 5)) % 5;
  const fives = (text.length + rest) / 5;
  const found = new Uint8Array(4 * fives);
  await slices.each(fives, (from, end) => {
    for (let five = from, to = 4 * from; five < end; five++) {
      let whole = 0;
      for (let j = 5 * five; j < 5 * five + 5; j++) whole = whole * 85 + (j < text.length ? DIGITS[text.charCodeAt(j)] : 84);
      found[to++] = whole >>> 24;
      found[to++] = whole >>> 16;
      found[to++] = whole >>> 8;
      found[to++] = whole;
    }
  });
  return found.subarray(0, found.length - rest);
}

/** Numbers of bytes that stood apart: first the first byte of each, then the second. @param {Uint8Array<ArrayBuffer>} planes @param {number} size @param {Slices} slices */
async function join(planes, size, slices) {
  if (size === 1) return planes.buffer;
  const count = planes.length / size;
  const found = new Uint8Array(planes.length);
  for (let k = 0; k < size; k++) {
    await slices.each(count, (from, end) => {
      for (let i = from; i < end; i++) found[i * size + k] = planes[k * count + i];
    });
  }
  return found.buffer;
}

/** Bytes in groups, by how large the byte before each was; the sizes of the groups come first. @param {Uint8Array<ArrayBuffer>} data @param {Slices} slices */
async function ungrouped(data, slices) {
  const at = new Uint32Array(data.buffer, 0, GROUPS).slice();
  let from = 4 * GROUPS;
  for (let i = 0; i < GROUPS; i++) [at[i], from] = [from, from + at[i]];
  const found = new Uint8Array(data.length - 4 * GROUPS);
  let byte = 0;
  await slices.each(found.length, (first, end) => {
    for (let i = first; i < end; i++) found[i] = byte = data[at[Math.min(32 - Math.clz32(byte), GROUPS - 1)]++];
  });
  return found;
}

/** Differences -> numbers, in place; a sum that is too large begins again at 0. @param {Uint16Array | Uint32Array} numbers @param {Slices} slices */
async function add(numbers, slices) {
  await slices.each(numbers.length, (from, end) => {
    for (let i = Math.max(from, 1); i < end; i++) numbers[i] += numbers[i - 1];
  });
}

/** @param {string} type @param {ArrayBuffer} buffer @param {Slices} slices @returns {Promise<Numbers>} */
export async function numbers(type, buffer, slices = new Slices()) {
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
      await slices.each(codes.length, (from, end) => {
        for (let i = from; i < end; i++) values[i] = table[codes[i]];
      });
      return values;
    }
    default:
      throw new Error(say("pageType", { type }));
  }
}

export class PageSource {
  /** @param {Document} page */
  constructor(page) {
    this.page = page;
    /** @type {Meta} */
    this.meta = JSON.parse(page.getElementById("meta")?.textContent ?? "{}");
    if (this.meta.pellucid_page !== VERSION) {
      throw new Error(say("pageVersion", { found: this.meta.pellucid_page, read: VERSION }));
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
    if (element === null) throw new Error(say("pageBlock", { name }));
    const slices = new Slices();
    const packed = await bytes(element.textContent ?? "", slices);
    element.remove(); // its text is not needed again
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const [type, how] = this.meta.blocks[name].split(" ");
    const data = new Uint8Array(await new Response(stream).arrayBuffer());
    if (how === "grouped") return ungrouped(data, slices);
    const joined = await join(data, SIZES[type], slices);
    if (how === "delta") await add(SIZES[type] === 2 ? new Uint16Array(joined) : new Uint32Array(joined), slices);
    return numbers(type, joined, slices);
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
