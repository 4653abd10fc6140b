// What the sampler has left of a position: candidates with their logits, and what is known of the other tokens.
import { Rest } from "./rest.js";

/** @typedef {import("./data.js").Prediction} Prediction */
/** A step's tokens; `ahead`: how many of them are certainly the likeliest.
 * @typedef {{name: string, kept: number, ids: number[], p: number[], ahead: number, sure: boolean}} Step */
/** @typedef {{past: ArrayLike<number>, breaks: ArrayLike<number>, number: number, seed: bigint | null, vocab: number, forbidden?: number[]}} Where */

const CLOSE = 1e-9;

export class Left {
  /** @param {Prediction} p @param {Where} where */
  constructor(p, where) {
    this.vocab = where.vocab;
    this.ids = Array.from(p.ids);
    this.x = Array.from(p.logits);
    this.startCount = this.ids.length;
    this.scale = 1;
    this.byId = true;
    this.sure = true;
    /** @type {Rest | null} */
    this.rest = this.ids.length < where.vocab ? new Rest(p, where.vocab) : null;
    /** @type {Step[]} */
    this.steps = [];
    this.show("model");
  }

  get top() {
    return Math.max(this.x[0], this.rest && this.x[0] < this.rest.most ? this.rest.most : -Infinity);
  }

  /** @returns {[number, number]} */
  total() {
    const own = this.x.reduce((sum, x) => sum + Math.exp(x - this.top), 0);
    const [low, high] = this.rest?.weight(this.top) ?? [0, 0];
    return [own + low, own + high];
  }

  /** How many of the candidates are certainly likelier than all others. */
  get ahead() {
    if (this.rest === null) return this.x.length;
    const most = this.rest.most;
    const below = this.x.findIndex((x) => x < most);
    return below < 0 ? this.x.length : below;
  }

  /** Probabilities of the candidates. */
  shares() {
    const [low, high] = this.total();
    if (high - low > CLOSE * high) this.sure = false;
    return this.x.map((x) => Math.exp(x - this.top) / ((low + high) / 2));
  }

  /** @param {string} name */
  show(name) {
    const sure = this.sure;
    const p = this.shares();
    this.steps.push({ name, kept: this.ids.length + (this.rest?.count ?? 0), ids: [...this.ids], p, ahead: this.ahead, sure: this.sure });
    this.sure = sure; // later steps may drop what was not known
  }

  /** @param {(i: number) => boolean} wanted */
  keep(wanted) {
    const chosen = this.ids.map((_, i) => i).filter(wanted);
    this.ids = chosen.map((i) => this.ids[i]);
    this.x = chosen.map((i) => this.x[i]);
  }

  /** No token beyond the candidates is left. */
  drop() {
    this.rest = null;
  }

  /** All logits. @param {number} by */
  divide(by) {
    this.x = this.x.map((x) => x / by);
    if (this.rest !== null) this.rest.scale *= by;
  }

  /** The first n candidates, and none else. @param {number} n */
  first(n) {
    if (this.rest !== null && n > this.ahead) this.sure = false;
    this.rest = null;
    this.keep((i) => i < Math.max(n, 1));
  }

  sort() {
    const order = this.ids.map((_, i) => i).sort((a, b) => this.x[b] - this.x[a] || this.ids[a] - this.ids[b]);
    this.ids = order.map((i) => this.ids[i]);
    this.x = order.map((i) => this.x[i]);
  }

  /** @param {Map<number, (x: number) => number>} changed @param {boolean} lowers */
  change(changed, lowers) {
    let found = 0;
    this.x = this.x.map((x, i) => {
      const by = changed.get(this.ids[i]);
      if (by === undefined) return x;
      found++;
      return by(x);
    });
    if (this.rest !== null && found < changed.size) {
      this.rest.altered += changed.size - found;
      if (!lowers) this.sure = false;
    }
    this.sort();
  }

  /** Leaves out the tokens that the model's files forbid. @param {number[]} ids */
  forbid(ids) {
    if (ids.length === 0) return;
    const before = this.rest?.altered ?? 0;
    this.change(new Map(ids.map((id) => [id, () => -Infinity])), true);
    if (this.rest !== null) this.rest.gone += this.rest.altered - before;
    this.keep((i) => this.x[i] > -Infinity);
    this.show("bias");
  }

  /** How many of p, in order, sum to `least` or more. @param {number[]} p @param {number} least */
  static smallest(p, least) {
    let sum = 0;
    const at = p.findIndex((one) => (sum += one) >= least);
    return at < 0 ? p.length : at + 1;
  }

  /** Candidates whose x is at least `least`. @param {number} least */
  from(least) {
    if (this.rest !== null) {
      if (this.rest.most < least) this.rest = null;
      else if (!this.rest.keepFrom(least)) this.sure = false;
      if (this.rest?.count === 0) this.rest = null;
    }
    this.keep((i) => this.x[i] >= least);
  }
}
