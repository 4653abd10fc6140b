// Conversations as trees: an edited message or another answer is a branch beside the first.
import { say } from "./appstrings.js";

/** A call of a tool. @typedef {{id: string, name: string, arguments: string}} Call */
/** calls: of tools, by an answer; call: which of them a tool's message answers; thought: what the model wrote before its
 * answer.
 * @typedef {{id: string, parent: string | null, role: string, text: string, ids: number[], bits: number[], pieces: string[],
 *   finish: string | null, calls?: Call[], call?: string, thought?: string}} Message */
/** @typedef {{system: string, options: Record<string, number>, seed: string, most: number, schema: string, tools: string}} Settings */
/** @typedef {{id: string, title: string, changed: number, leaf: string | null, messages: Record<string, Message>, settings: Settings}} Conversation */

const VERSION_OF_FILES = 1;
const ROLES = ["user", "assistant", "tool"];

/** @returns {Settings} */
export function settings() {
  return { system: "", options: {}, seed: "", most: 512, schema: "", tools: "" };
}

/** @returns {Conversation} */
export function conversation() {
  return { id: crypto.randomUUID(), title: say("chatNewTitle"), changed: Date.now(), leaf: null, messages: {}, settings: settings() };
}

/** Adds a message after another and makes it the end. @param {Conversation} all @param {string | null} parent @param {string} role @param {string} text @returns {Message} */
export function add(all, parent, role, text) {
  /** @type {Message} */
  const made = { id: crypto.randomUUID(), parent, role, text, ids: [], bits: [], pieces: [], finish: null };
  all.messages[made.id] = made;
  all.leaf = made.id;
  all.changed = Date.now();
  if (role === "user" && parent === null) all.title = text.slice(0, 60) || all.title;
  return made;
}

/** The messages from the first to one. @param {Conversation} all @param {string | null} leaf @returns {Message[]} */
export function path(all, leaf = all.leaf) {
  const found = [];
  const seen = new Set();
  for (let at = leaf; at !== null && at in all.messages && !seen.has(at); at = all.messages[at].parent) {
    seen.add(at);
    found.push(all.messages[at]);
  }
  return found.reverse();
}

/** For each message, those that stand in the same place. @param {Conversation} all @returns {(message: Message) => Message[]} */
export function places(all) {
  /** @type {Map<string, Message[]>} */
  const found = new Map();
  const key = (/** @type {Message} */ one) => `${one.parent} ${one.role}`;
  for (const one of Object.values(all.messages)) {
    const same = found.get(key(one));
    if (same === undefined) found.set(key(one), [one]);
    else same.push(one);
  }
  return (message) => found.get(key(message)) ?? [message];
}

/** Goes to a branch, and in it to its newest end. @param {Conversation} all @param {Message} message */
export function enter(all, message) {
  /** @type {Map<string | null, Message>} */
  const last = new Map(Object.values(all.messages).map((one) => [one.parent, one]));
  let at = message;
  for (let next = last.get(at.id); next !== undefined; next = last.get(at.id)) at = next;
  all.leaf = at.id;
}

/** What the model is given up to a message. @param {Conversation} all @param {string | null} leaf @returns {Record<string, any>[]} */
export function requested(all, leaf) {
  /** @type {Record<string, any>[]} */
  const said = path(all, leaf).map(({ role, text, calls, call }) => {
    if (role === "tool") return { role, tool_call_id: call, content: text };
    if (!calls?.length) return { role, content: text };
    return { role, content: text || null, tool_calls: calls.map((one) => ({ id: one.id, type: "function", function: { name: one.name, arguments: one.arguments } })) };
  });
  const { system } = all.settings;
  return system ? [{ role: "system", content: system }, ...said] : said;
}

/** Adds what came of an answer. @param {Message} message @param {import("./api.js").Part} part */
export function take(message, part) {
  message.text += part.text;
  if (part.thought) message.thought = (message.thought ?? "") + part.thought;
  for (const token of part.tokens) {
    message.ids.push(token.id);
    message.bits.push(token.bits);
    message.pieces.push(token.text);
  }
  for (const { index, id, function: { name, arguments: more } } of part.calls) {
    const calls = (message.calls ??= []);
    calls[index] ??= { id: id ?? "", name: name ?? "", arguments: "" };
    calls[index].arguments += more;
  }
  message.finish = part.finish ?? message.finish;
}

/** @param {Conversation[]} all @returns {string} */
export function exported(all) {
  return JSON.stringify({ pellucid_conversations: VERSION_OF_FILES, conversations: all }, null, 1);
}

/** Conversations of a file. Throws an Error in words for any other. @param {string} text @returns {Conversation[]} */
export function imported(text) {
  let read;
  try {
    read = JSON.parse(text);
  } catch {
    throw new Error(say("fileJson"));
  }
  if (read?.pellucid_conversations !== VERSION_OF_FILES || !Array.isArray(read.conversations)) {
    throw new Error(say("fileVersion"));
  }
  return read.conversations.map((/** @type {any} */ one) => {
    /** @type {Record<string, Message>} */
    const messages = {};
    for (const given of Object.values(one?.messages ?? {})) {
      const message = checked(/** @type {any} */ (given) ?? {});
      messages[message.id] = message;
    }
    const leaf = typeof one?.leaf === "string" && Object.hasOwn(messages, one.leaf) ? one.leaf : null;
    return { id: crypto.randomUUID(), title: String(one?.title ?? "").slice(0, 200), changed: Number(one?.changed) || Date.now(), leaf, messages, settings: set(one?.settings) };
  });
}

/** @param {any} given @returns {Message} */
function checked(given) {
  const { id, parent, role, text, ids, bits, pieces, finish, calls, call, thought } = given;
  if (typeof id !== "string" || typeof text !== "string" || !ROLES.includes(role)) throw new Error(say("fileMessage"));
  const list = (/** @type {any} */ values, /** @type {string} */ type) => (Array.isArray(values) && values.every((v) => typeof v === type) ? values : []);
  /** @type {Message} */
  const made = { id, parent: typeof parent === "string" ? parent : null, role, text, ids: list(ids, "number"), bits: list(bits, "number"), pieces: list(pieces, "string"), finish: typeof finish === "string" ? finish : null };
  if (made.bits.length !== made.ids.length || made.pieces.length !== made.ids.length) [made.ids, made.bits, made.pieces] = [[], [], []];
  if (Array.isArray(calls)) made.calls = calls.map((one) => ({ id: String(one?.id ?? ""), name: String(one?.name ?? ""), arguments: String(one?.arguments ?? "") }));
  if (typeof call === "string") made.call = call;
  if (typeof thought === "string") made.thought = thought;
  return made;
}

/** Settings of a file or of an earlier version. @param {any} given @returns {Settings} */
export function set(given) {
  const made = settings();
  for (const name of /** @type {["system", "seed", "schema", "tools"]} */ (["system", "seed", "schema", "tools"])) {
    if (typeof given?.[name] === "string") made[name] = given[name];
  }
  if (Number.isInteger(given?.most) && given.most > 0) made.most = given.most;
  for (const [name, value] of Object.entries(given?.options ?? {})) if (typeof value === "number") made.options[name] = value;
  return made;
}
