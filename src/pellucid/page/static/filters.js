// The sampler's steps. Each keeps what it keeps for certain, or says that it is a guess (`sure` is false).
import { Left } from "./left.js";

/** @typedef {import("./left.js").Where} Where */

const LEAST = 1.1754943508222875e-38; // of a temperature

/** As Python's format "g". @param {number} value */
export function short(value) {
  return String(Number(value.toPrecision(6)));
}

export class Run extends Left {
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
      this.drop();
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
      if (Math.exp(this.rest.most - best) < share) this.drop();
      else if (!this.rest.keepFrom(best + Math.log(share))) this.sure = false;
      if (this.rest?.count === 0) this.drop();
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
    this.divide(this.scale);
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
function dryLengths(ids, least, breaks) {
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
