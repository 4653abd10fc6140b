// How tokens and numbers are written.
import { say } from "./strings.js";

const UNITS = /** @type {const} */ (["sizeB", "sizeKB", "sizeMB", "sizeGB"]);

/** What is not seen, or would reorder or hide the text around it, is spelled out. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu;

/** @param {string} text */
export function plain(text) {
  return text.replace(HIDDEN, (one) =>
    one === "\n" ? "\u21b5" : one === "\t" ? "\u21e5" : `\u27e8${(one.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`,
  );
}

/** A token in a list: spaces as dots. @param {string} text */
export function named(text) {
  return plain(text).replace(/ /g, "\u00b7") || "\u2205";
}

/** A number; a dash where it is not known. @param {number} value @param {number} digits */
export function fixed(value, digits) {
  if (Number.isNaN(value)) return "\u2013";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text.replace("-", "\u2212");
}

/** @param {number} value @param {number} digits */
export function signed(value, digits = 2) {
  const text = fixed(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

/** @param {number} p */
export function percent(p) {
  const share = p >= 0.0995 ? (100 * p).toFixed(0) : p >= 0.00095 ? (100 * p).toFixed(1) : p > 0 ? (100 * p).toPrecision(1) : "0";
  return say("percent", { share });
}

/** @param {number} bytes */
export function size(bytes) {
  let at = 0;
  while (bytes >= 1000 && at < UNITS.length - 1) {
    bytes /= 1000;
    at++;
  }
  return say(UNITS[at], { size: at && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes) });
}

/** Things with commas between them, as lit draws them. @param {unknown[]} things @returns {unknown[]} */
export function listed(things) {
  return things.flatMap((one, i) => (i ? [say("comma"), one] : [one]));
}
