// The sampler's steps as the library's `choice.steps` has them, on the likeliest tokens of a position ("candidates") and
// on what is known of the others: how many there are in each quarter nat, and their sums. Where that does not decide
// what the engine would do, the result says so (`sure` is false) and shows the nearest guess.
import { uniform } from "./random.js";

/** @typedef {import("./data.js").Prediction} Prediction */
/** A step's tokens; `ahead`: how many of them are certainly the likeliest.
 * @typedef {{name: string, kept: number, ids: number[], p: number[], ahead: number, sure: boolean}} Step */
/** @typedef {{id: number | null, u: number, ids: number[], p: number[]}} Drawn */
/** @typedef {{past: ArrayLike<number>, breaks: ArrayLike<number>, number: number, seed: bigint | null, vocab: number, forbidden?: number[]}} Where */

const SORTED = 1024; // lists up to this length are drawn from in the order of probability, others in that of ids
const PER_NAT = 4;
const LEAST = 1.1754943508222875e-38; // of a temperature
const CLOSE = 1e-9;

/** As Python's format "g". @param {number} value */
function short(value) {
  return String(Number(value.toPrecision(6)));
}

/** The tokens beyond the candidates. */
class Rest {
  /** @param {Prediction} p @param {number} vocab */
  constructor(p, vocab) {
    const ref = p.logits[0];
    const total = Math.exp(p.logSum - ref);
    this.floor = p.logits[p.logits.length - 1]; // none has a larger logit
    this.bins = Array.from(p.tail);
    this.scale = 1; // what logits have been divided by
    this.whole = true; // none was dropped
    this.altered = 0; // how many of them a penalty lowered
    this.gone = 0; // how many of them the model's files forbid
    this.ref = ref;
    this.mass = total;
    this.dot = total * (Math.log(total) - p.entropy);
    this.sum = vocab * p.mean;
    this.squares = vocab * (p.deviation ** 2 + p.mean ** 2);
    for (let i = 0; i < p.logits.length; i++) {
      const x = p.logits[i];
      const w = Math.exp(x - ref);
      this.mass -= w;
      this.dot -= w * (x - ref);
      this.sum -= x;
      this.squares -= x * x;
    }
    this.mass = Math.max(this.mass, 0);
  }

  get count() {
    return Math.max(this.bins.reduce((a, b) => a + b, 0) - this.gone, 0);
  }

  /** The largest that one of them may be, in the units of now. */
  get most() {
    return this.floor / this.scale;
  }

  get exact() {
    return this.whole && this.scale === 1 && this.altered === 0;
  }

  /** Bounds of their weight against exp(top). @param {number} top @returns {[number, number]} */
  weight(top) {
    if (this.whole && this.scale === 1) {
      const all = this.mass * Math.exp(this.ref - top);
      return [Math.max(all - this.altered * Math.exp(this.floor - top), 0), all];
    }
    let [low, high] = [0, 0];
    this.bins.forEach((count, i) => {
      if (count) {
        high += count * Math.exp((this.floor - i / PER_NAT) / this.scale - top);
        if (i + 1 < this.bins.length) low += count * Math.exp((this.floor - (i + 1) / PER_NAT) / this.scale - top);
      }
    });
    return [Math.max(low - this.altered * Math.exp(this.most - top), 0), high];
  }

  /** Keeps those of at least `least` -> whether it is known which they are. @param {number} least in the units of now */
  keepFrom(least) {
    let known = this.altered === 0;
    this.bins = this.bins.map((count, i) => {
      const high = (this.floor - i / PER_NAT) / this.scale;
      const low = i + 1 < this.bins.length ? (this.floor - (i + 1) / PER_NAT) / this.scale : -Infinity;
      if (count === 0 || high < least) return 0;
      known &&= low >= least;
      return count;
    });
    this.whole = false;
    return known;
  }

  /** Keeps the `n` likeliest. @param {number} n */
  keepBest(n) {
    this.bins = this.bins.map((count) => {
      const some = Math.min(count, n);
      n -= some;
      return some;
    });
    this.whole = false;
  }
}

class Run {
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

  /** @param {number} n */
  topNSigma(n) {
    let [count, sum, squares] = [this.x.length, 0, 0];
    const shift = this.x[0];
    for (const x of this.x) {
      sum += x - shift;
      squares += (x - shift) ** 2;
    }
    if (this.rest !== null) {
      const { scale, sum: s, squares: q } = this.rest;
      const some = this.vocab - this.startCount;
      count += some;
      sum += s / scale - some * shift;
      squares += q / scale ** 2 - (2 * shift * s) / scale + some * shift ** 2;
      if (!this.rest.whole) this.sure = false;
    }
    const least = shift - n * Math.sqrt(Math.max(squares / count - (sum / count) ** 2, 0));
    const near = this.rest?.altered ? 0.05 : 1e-9 * Math.max(Math.abs(shift), 1);
    if (this.rest !== null && this.x.some((x) => Math.abs(x - least) < near)) this.sure = false;
    const before = this.ids.length + (this.rest?.count ?? 0);
    this.from(least);
    this.byId &&= this.ids.length + (this.rest?.count ?? 0) === before;
  }

  /** @param {number} k */
  topK(k) {
    if (!(k > 0 && k < this.vocab)) return;
    this.byId = false;
    const all = this.ids.length + (this.rest?.count ?? 0);
    if (k >= all) return;
    if (this.rest === null || k <= this.ahead) this.first(k);
    else {
      if (this.ahead < this.ids.length || this.rest.altered) this.sure = false;
      this.rest.keepBest(Math.max(k - this.ids.length, 0));
      if (k <= this.ids.length) this.first(k);
    }
  }

  /** Nats, and whether it is known. @returns {[number, boolean]} */
  entropy() {
    const top = this.top;
    let [total, dot] = [0, 0];
    for (const x of this.x) {
      const w = Math.exp(x - top);
      if (w > 0) {
        total += w;
        dot += w * (x - top);
      }
    }
    const rest = this.rest;
    if (rest !== null) {
      const shift = Math.exp(rest.ref - top);
      total += rest.mass * shift;
      dot += shift * (rest.dot + rest.mass * (rest.ref - top));
    }
    return [Math.log(total) - dot / total, rest === null || rest.exact];
  }

  /** @param {number} share */
  typicalP(share) {
    const [entropy, known] = this.entropy();
    const p = this.shares();
    const off = p.map((one) => Math.abs((one > 0 ? -Math.log(one) : 800) - entropy));
    const order = off.map((_, i) => i).sort((a, b) => off[a] - off[b] || this.ids[a] - this.ids[b]);
    const n = Run.smallest(order.map((i) => p[i]), share);
    if (this.rest !== null) {
      const [low, high] = this.total();
      const nearest = Math.log((low + high) / 2) - (this.rest.most - this.top) - entropy;
      if (!known || off[order[n - 1]] >= nearest || n === order.length) this.sure = false;
      this.rest = null;
    }
    const chosen = new Set(order.slice(0, n));
    this.byId = false;
    this.keep((i) => chosen.has(i));
  }

  /** @param {number} share */
  topP(share) {
    const least = Math.fround(share);
    const [low, high] = this.total();
    const w = this.x.map((x) => Math.exp(x - this.top));
    const n = Run.smallest(w, least * low);
    if (n !== Run.smallest(w, least * high)) this.sure = false;
    if (this.rest !== null && n === w.length && w.reduce((a, b) => a + b, 0) < least * high) this.sure = false;
    this.byId = false;
    this.first(n);
  }

  /** @param {number} share */
  minP(share) {
    this.byId = false;
    const best = this.x[0];
    if (this.rest !== null && this.rest.most > best) this.sure = false;
    if (this.rest !== null) {
      if (Math.exp(this.rest.most - best) < share) this.rest = null;
      else if (!this.rest.keepFrom(best + Math.log(share))) this.sure = false;
      if (this.rest?.count === 0) this.rest = null;
    }
    this.keep((i) => this.x[i] === best || Math.exp(this.x[i] - best) >= share);
  }

  /** @param {number} u @param {number} probability @param {number} threshold */
  xtc(u, probability, threshold) {
    if (u >= probability) return;
    const [low, high] = this.total();
    const above = (/** @type {number} */ total) => this.x.filter((x) => Math.exp(x - this.top) / total >= threshold).length;
    const n = above((low + high) / 2);
    if (this.rest !== null) {
      if (above(low) !== above(high) || Math.exp(this.rest.most - this.top) / low >= threshold || n > this.ahead) this.sure = false;
    }
    this.byId &&= threshold > 0;
    if (n > 1) this.keep((i) => i >= n - 1);
  }

  /** @param {number} temperature @param {number} spread @param {number} exponent */
  temperature(temperature, spread, exponent) {
    const count = this.ids.length + (this.rest?.count ?? 0);
    if (spread > 0 && count > 1) {
      const [entropy, known] = this.entropy();
      if (!known) this.sure = false;
      const [low, high] = [Math.max(temperature - spread, 0), temperature + spread];
      temperature = low + (high - low) * Math.min(Math.max(entropy / Math.log(count), 0), 1) ** exponent;
    }
    this.scale = Math.max(temperature, LEAST);
    this.x = this.x.map((x) => x / this.scale);
    if (this.rest !== null) this.rest.scale *= this.scale;
  }

  /** @param {number} mu */
  mirostat(mu) {
    const [low, high] = this.total();
    const count = (/** @type {number} */ total) => this.x.filter((x) => -Math.log2(Math.exp(x - this.top) / total) <= mu).length;
    const n = Math.max(count((low + high) / 2), 1);
    const before = this.ids.length + (this.rest?.count ?? 0);
    if (this.rest !== null) {
      const nearest = -Math.log2(Math.exp(this.rest.most - this.top) / high);
      if (count(low) !== count(high) || nearest <= mu) this.sure = false;
    }
    this.first(n);
    this.byId &&= this.ids.length === before;
  }

  /** @param {Record<string, any>} o @param {ArrayLike<number>} past */
  penalties(o, past) {
    const on = (o.repeat_penalty !== 0 && o.repeat_penalty !== 1) || o.presence_penalty !== 0 || o.frequency_penalty !== 0;
    const recent = Array.from(past).slice(Math.max(past.length - o.repeat_last, 0));
    if (!on || recent.length === 0) return;
    /** @type {Map<number, number>} */
    const counts = new Map();
    for (const id of recent) counts.set(id, (counts.get(id) ?? 0) + 1);
    const repeat = o.repeat_penalty || 1;
    /** @type {Map<number, (x: number) => number>} */
    const changed = new Map();
    for (const [id, count] of counts) {
      changed.set(id, (x) => (x > 0 ? x / repeat : x * repeat) - o.presence_penalty - count * o.frequency_penalty);
    }
    this.change(changed, repeat >= 1 && o.presence_penalty >= 0 && o.frequency_penalty >= 0);
    this.show("penalties");
  }

  /** @param {Record<string, any>} o @param {Where} where */
  dry(o, where) {
    if (!(o.dry_multiplier > 0) || o.dry_range === 0) return;
    const start = o.dry_range < 0 ? 0 : Math.max(where.past.length - o.dry_range, 0);
    const [past, breaks] = [where.past, where.breaks].map((one) => Array.from(one).slice(start));
    const lengths = dryLengths(past, o.dry_allowed_length, breaks);
    if (lengths.size === 0) return;
    /** @type {Map<number, (x: number) => number>} */
    const changed = new Map();
    for (const [id, length] of lengths) {
      const penalty = Math.min(o.dry_multiplier * o.dry_base ** (length - o.dry_allowed_length), 1e30 / this.scale);
      changed.set(id, (x) => x - penalty);
    }
    this.change(changed, true);
    this.show(`dry ${short(o.dry_multiplier)}`);
  }

  /** @param {string} name @param {Record<string, any>} o @param {number} u */
  filter(name, o, u) {
    if (name === "top_n_sigma" && o.top_n_sigma > 0) {
      this.topNSigma(o.top_n_sigma);
      this.show(`top-n-sigma ${short(o.top_n_sigma)}`);
    } else if (name === "top_k" && o.top_k > 0) {
      this.topK(o.top_k);
      this.show(`top-k ${o.top_k}`);
    } else if (name === "typical_p" && o.typical_p > 0 && o.typical_p < 1) {
      this.typicalP(o.typical_p);
      this.show(`typical-p ${short(o.typical_p)}`);
    } else if (name === "top_p" && o.top_p < 1) {
      this.topP(o.top_p);
      this.show(`top-p ${short(o.top_p)}`);
    } else if (name === "min_p" && o.min_p > 0) {
      this.minP(o.min_p);
      this.show(`min-p ${short(o.min_p)}`);
    } else if (name === "xtc" && o.xtc_probability > 0) {
      this.xtc(u, o.xtc_probability, o.xtc_threshold);
      this.show(`xtc ${short(o.xtc_probability)}`);
    } else if (name === "temperature" && (o.temperature !== 1 || o.dynatemp_range > 0)) {
      this.temperature(o.temperature, o.dynatemp_range, o.dynatemp_exponent);
      this.show(`temperature ${short(this.scale)}`);
    }
  }
}

/** Token that followed an earlier occurrence of the last tokens -> the length of the longest, by the Z algorithm
 * (Gusfield 1997) on the ids read backwards. @param {number[]} ids @param {number} least @param {number[]} breaks */
export function dryLengths(ids, least, breaks) {
  const n = ids.length;
  /** @type {Map<number, number>} */
  const longest = new Map();
  least = Math.max(least, 1);
  let most = 0;
  while (most < n && !breaks[n - 1 - most]) most++;
  if (most < least) return longest;
  const z = new Array(n).fill(0);
  let [left, right] = [0, 0];
  for (let k = 1; k < n; k++) {
    let length = k < right ? Math.min(z[k - left], right - k) : 0;
    if (k + length >= right) {
      while (length < most && k + length < n && ids[n - 1 - length] === ids[n - 1 - k - length]) length++;
      left = k;
      right = k + length;
    }
    z[k] = length;
    if (length >= least && !breaks[n - k]) longest.set(ids[n - k], Math.max(length, longest.get(ids[n - k]) ?? 0));
  }
  return longest;
}

/** @param {Prediction} p @param {Record<string, any>} o the options of a generation @param {Where} where
 * @returns {{steps: Step[], sure: boolean, drawn: Drawn | null, draw: (seed: bigint) => Drawn}} drawn: null without a seed */
export function sample(p, o, where) {
  const run = new Run(p, where);
  const u = where.seed === null ? 0 : uniform(where.seed, where.number, 1);
  let biased = false;
  for (const name of [...o.samplers, ""]) {
    if (!biased && name !== "penalties" && name !== "dry") {
      biased = true;
      run.forbid(where.forbidden ?? []);
    }
    if (name === "penalties") run.penalties(o, where.past);
    else if (name === "dry") run.dry(o, where);
    else if (name && o.temperature > 0 && (name === "temperature" || !o.mirostat)) run.filter(name, o, u);
  }
  if (o.temperature === 0) {
    if (run.ahead < 1) run.sure = false;
    run.steps.push({ name: "greedy", kept: 1, ids: run.ids.slice(0, 1), p: [1], ahead: 1, sure: run.sure });
    run.rest = null;
    run.first(1);
  } else if (o.mirostat) {
    run.mirostat(2 * o.mirostat_tau);
    if (where.number > 0) run.sure = false; // mu depends on the tokens drawn before
    run.show(`mirostat ${short(2 * o.mirostat_tau)}`);
  }
  const last = run.steps[run.steps.length - 1];
  const draws = (/** @type {bigint} */ seed) => draw(run, last, seed, where.number);
  return { steps: run.steps, sure: last.sure, drawn: where.seed === null ? null : draws(where.seed), draw: draws };
}

/** @param {Run} run @param {Step} last @param {bigint} seed @param {number} number @returns {Drawn} */
function draw(run, last, seed, number) {
  const u = uniform(seed, number, 0);
  let order = last.ids.map((_, i) => i);
  if (run.byId || order.length > SORTED) order.sort((a, b) => last.ids[a] - last.ids[b]);
  order = order.filter((i) => last.p[i] > 0);
  const ids = order.map((i) => last.ids[i]);
  const p = order.map((i) => last.p[i]);
  if (run.rest !== null || !last.sure) return { id: null, u, ids, p };
  const total = p.reduce((a, b) => a + b, 0);
  let sum = 0;
  const at = p.findIndex((one) => (sum += one) > u * total);
  return { id: ids[at < 0 ? ids.length - 1 : at], u, ids, p };
}
