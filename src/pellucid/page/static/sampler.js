// The sampler's steps as the library's `choice.steps` has them, on the likeliest tokens of a position ("candidates") and
// on what is known of the others: how many there are in each quarter nat, and their sums. Where that does not decide
// what the engine would do, the result says so (`sure` is false) and shows the nearest guess.
import { Run, short } from "./filters.js";
import { uniform } from "./random.js";

/** @typedef {import("./left.js").Prediction} Prediction */
/** @typedef {import("./left.js").Step} Step */
/** @typedef {import("./left.js").Where} Where */
/** @typedef {{id: number | null, u: number, ids: number[], p: number[]}} Drawn */

const SORTED = 1024; // lists up to this length are drawn from in the order of probability, others in that of ids

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
