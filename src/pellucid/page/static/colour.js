// Colours of amounts and of pushes; what is written on a cell is black or white, by contrast.

/** cividis (Nunez et al. 2018), made for colour-blind readers, at ten places. @type {[number, number, number][]} */
const AMOUNTS = [
  [0, 32, 77], [0, 51, 111], [57, 72, 107], [87, 92, 109], [112, 113, 115],
  [138, 135, 121], [166, 157, 117], [196, 181, 108], [228, 207, 91], [255, 234, 70],
];

/** @param {number} share 0 to 1 @returns {[number, number, number]} */
export function amount(share) {
  const at = Math.min(Math.max(share, 0), 1) * (AMOUNTS.length - 1);
  const low = Math.min(Math.floor(at), AMOUNTS.length - 2);
  const part = at - low;
  const [from, to] = [AMOUNTS[low], AMOUNTS[low + 1]];
  return /** @type {[number, number, number]} */ (from.map((value, i) => Math.round(value + (to[i] - value) * part)));
}

/** The colours of codes 0 to 255 in the order of ImageData. */
export const AMOUNT_TABLE = (() => {
  const table = new Uint8ClampedArray(1024);
  for (let i = 0; i < 256; i++) table.set([...amount(i / 255), 255], 4 * i);
  return table;
})();

/** @param {[number, number, number]} rgb @returns {string} */
export function css(rgb) {
  return `rgb(${rgb.join(" ")})`;
}

/** Black or white, whichever has more contrast by WCAG. @param {[number, number, number]} rgb */
export function ink(rgb) {
  const [r, g, b] = rgb.map((v) => (v <= 10 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

/** A push as a background: orange up, purple down and hatched, for who does not tell the two apart; over the page's own
 * ground. @param {number} value @param {number} most */
export function push(value, most) {
  const share = most > 0 ? Math.min(Math.abs(value) / most, 1) : 0;
  const mixed = (/** @type {number} */ part) => `color-mix(in srgb, var(${value >= 0 ? "--up" : "--down"}) ${Math.round(part * share)}%, transparent)`;
  return value >= 0 ? mixed(70) : `repeating-linear-gradient(135deg, ${mixed(70)} 0 2px, ${mixed(20)} 2px 4px)`;
}
