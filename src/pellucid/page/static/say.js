// Texts by name. A table has all that an area shows; "{name}" in a text is a place for a value.

/** The names of a text's places. @template S @typedef {S extends `${string}{${infer Name}}${infer Rest}` ? Name | Places<Rest> : never} Places */
/** A text, or one for each plural category of its place "n". @typedef {string | {readonly one: string, readonly other: string}} Entry */
/** @template E @typedef {E extends {one: infer One, other: infer Other} ? Places<One> | Places<Other> : Places<E>} PlacesOf */
/** The values of a text, by name; none where it has no places. @template E, V @typedef {[PlacesOf<E>] extends [never] ? [] : [Record<PlacesOf<E>, V>]} Values */

export const LANGUAGE = "en"; // of the texts, and of numbers

const plurals = new Intl.PluralRules(LANGUAGE);

/** Each text cut at its places: text, name, text, ... @type {Map<string, string[]>} */
const cut = new Map();

/** The functions that give the texts of a table. @template {Record<string, Entry>} const T @param {T} table */
export function texts(table) {
  /** What lit draws: the values may be templates. @template {keyof T & string} N @param {N} name @param {Values<T[N], unknown>} given @returns {unknown[]} */
  function parts(name, ...given) {
    const values = /** @type {Record<string, unknown>} */ (given[0] ?? {});
    const entry = table[name];
    const text = typeof entry === "string" ? entry : plurals.select(Number(values.n)) === "one" ? entry.one : entry.other;
    let found = cut.get(text);
    if (found === undefined) cut.set(text, (found = text.split(/\{(\w+)\}/)));
    return found.map((part, i) => (i % 2 ? values[part] : part));
  }

  /** A text with its values. @template {keyof T & string} N @param {N} name @param {Values<T[N], string | number>} given */
  function say(name, ...given) {
    return parts(name, .../** @type {any} */ (given)).join("");
  }

  return { say, parts };
}

/** A number as the reader writes it. @param {unknown} value */
export function numeral(value) {
  return Number(value).toLocaleString(LANGUAGE);
}
