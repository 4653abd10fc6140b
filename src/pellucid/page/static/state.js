// What is chosen. Views draw from it, and change it by `go`; the address after # keeps it, so that a link shows the same.

/**
 * @typedef {object} Chosen
 * @property {number} at the token
 * @property {number} layer
 * @property {number} head
 * @property {number} target number of the token that pushes are about
 * @property {string} shade of the text
 * @property {boolean} first leave out the first token
 * @property {boolean} whole the whole map, not the tokens near the chosen one
 * @property {string} sort of the heads
 * @property {number} least of the sorted heads those are shown that have so many per cent of what the strongest has
 * @property {boolean} root signed square root of pushes
 * @property {number} step of "how this token was made"
 * @property {Record<string, any>} options of the sampler
 * @property {string} seed
 */

const NUMBERS = ["at", "layer", "head", "target", "step", "least"];
const FLAGS = ["first", "whole", "root"];
const WORDS = ["shade", "sort", "seed"];

export class State extends EventTarget {
  /** @param {Chosen} start @param {Record<string, number>} limits of the numbers @param {boolean} address whether it is in the address */
  constructor(start, limits, address) {
    super();
    this.address = address;
    this.start = start;
    this.limits = limits;
    /** @type {Chosen} */
    this.now = { ...start, options: { ...start.options } };
    if (address) this.read();
  }

  /** @param {Partial<Chosen>} change */
  go(change) {
    const next = { ...this.now, ...change };
    for (const name of NUMBERS) {
      const key = /** @type {"at"} */ (name);
      next[key] = Math.min(Math.max(Math.trunc(next[key]) || 0, 0), this.limits[name]);
    }
    if (next.at !== this.now.at && change.target === undefined) next.target = 0;
    this.now = next;
    this.dispatchEvent(new Event("change"));
    if (this.address) this.write();
  }

  /** From the address. What is not understood is as if it were not there. */
  read() {
    const given = new URLSearchParams(globalThis.location.hash.slice(1));
    /** @type {Record<string, any>} */
    const change = {};
    for (const name of NUMBERS) if (given.has(name)) change[name] = Number(given.get(name));
    for (const name of FLAGS) if (given.has(name)) change[name] = given.get(name) === "1";
    for (const name of WORDS) if (given.has(name)) change[name] = given.get(name);
    const options = { ...this.start.options };
    for (const [name, value] of given) {
      const key = name.startsWith("o.") ? name.slice(2) : "";
      if (key === "samplers") options.samplers = value.split(" ").filter((one) => this.start.options.samplers.includes(one));
      else if (Number.isFinite(this.start.options[key]) && Number.isFinite(Number(value))) options[key] = Number(value);
    }
    if (change.seed !== undefined && !/^\d{1,20}$/.test(change.seed)) delete change.seed;
    this.go({ target: 0, ...change, options });
  }

  write() {
    const said = new URLSearchParams();
    for (const name of [...NUMBERS, ...FLAGS, ...WORDS]) {
      const value = this.now[/** @type {"at"} */ (name)];
      if (value !== this.start[/** @type {"at"} */ (name)]) said.set(name, String(typeof value === "boolean" ? Number(value) : value));
    }
    for (const [name, value] of Object.entries(this.now.options)) {
      const text = Array.isArray(value) ? value.join(" ") : String(value);
      const before = this.start.options[name];
      if (text !== (Array.isArray(before) ? before.join(" ") : String(before))) said.set(`o.${name}`, text);
    }
    try {
      globalThis.history.replaceState(null, "", `#${said}`);
    } catch {
      // a frame without an address of its own, as in a notebook
    }
  }
}

/** What is chosen at first. @param {import("./data.js").Data} data @param {number} at @param {boolean} address */
export function opened(data, at, address) {
  const { meta, layers, heads, n } = data;
  const start = {
    at, layer: layers - 1, head: 0, target: 0, shade: "surprise", first: false, whole: false, sort: "place", least: 0, root: false, step: 0,
    options: meta.options, seed: meta.seed ?? "0",
  };
  return new State(start, { at: n - 1, layer: layers - 1, head: heads - 1, target: 3, step: 9, least: 100 }, address);
}
