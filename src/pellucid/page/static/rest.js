// The tokens of a position beyond the candidates, of which is known how many there are in each quarter nat, and their sums.

/** @typedef {import("./data.js").Prediction} Prediction */

const PER_NAT = 4;

/** The tokens beyond the candidates. */
export class Rest {
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
