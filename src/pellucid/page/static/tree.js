// Conversations as trees: an edited message or another answer is a branch beside the first. Kept in this browser alone.

/** @typedef {{id: string, parent: string | null, role: string, text: string, ids: number[], bits: number[], pieces: string[], finish: string | null}} Message */
/** @typedef {{id: string, title: string, changed: number, leaf: string | null, messages: Record<string, Message>}} Conversation */

const VERSION_OF_FILES = 1;

/** @returns {Conversation} */
export function conversation() {
  return { id: crypto.randomUUID(), title: "New conversation", changed: Date.now(), leaf: null, messages: {} };
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
  for (let at = leaf; at !== null && at in all.messages; at = all.messages[at].parent) found.push(all.messages[at]);
  return found.reverse();
}

/** The messages that stand in the same place. @param {Conversation} all @param {Message} message */
export function branches(all, message) {
  return Object.values(all.messages).filter((one) => one.parent === message.parent && one.role === message.role);
}

/** Goes to a branch, and in it to its newest end. @param {Conversation} all @param {Message} message */
export function enter(all, message) {
  let at = message;
  for (;;) {
    const next = Object.values(all.messages).filter((one) => one.parent === at.id).pop();
    if (next === undefined) break;
    at = next;
  }
  all.leaf = at.id;
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
    throw new Error("This file is not JSON.");
  }
  if (read?.pellucid_conversations !== VERSION_OF_FILES || !Array.isArray(read.conversations)) {
    throw new Error("This file has no conversations that this version can read.");
  }
  return read.conversations.map((/** @type {any} */ one) => {
    /** @type {Record<string, Message>} */
    const messages = {};
    for (const message of Object.values(one?.messages ?? {})) {
      const { id, parent, role, text, ids, bits, pieces, finish } = /** @type {any} */ (message) ?? {};
      if (typeof id !== "string" || typeof text !== "string" || !["user", "assistant"].includes(role)) throw new Error("This file has a message without its text or role.");
      const list = (/** @type {any} */ values, /** @type {string} */ type) => (Array.isArray(values) ? values.filter((v) => typeof v === type) : []);
      messages[id] = { id, parent: typeof parent === "string" ? parent : null, role, text, ids: list(ids, "number"), bits: list(bits, "number"), pieces: list(pieces, "string"), finish: typeof finish === "string" ? finish : null };
    }
    const leaf = typeof one?.leaf === "string" && one.leaf in messages ? one.leaf : null;
    return { id: crypto.randomUUID(), title: String(one?.title ?? "").slice(0, 200), changed: Number(one?.changed) || Date.now(), leaf, messages };
  });
}

// ---- the browser's store

const STORE = "conversations";

/** @returns {Promise<IDBDatabase>} */
function database() {
  return new Promise((done, failed) => {
    const request = indexedDB.open("pellucid", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

/** @template T @param {"readonly" | "readwrite"} mode @param {(store: IDBObjectStore) => IDBRequest<T>} work @returns {Promise<T>} */
async function stored(mode, work) {
  const base = await database();
  try {
    return await new Promise((done, failed) => {
      const request = work(base.transaction(STORE, mode).objectStore(STORE));
      request.onsuccess = () => done(request.result);
      request.onerror = () => failed(request.error);
    });
  } finally {
    base.close();
  }
}

/** All that are kept, the newest first. @returns {Promise<Conversation[]>} */
export async function kept() {
  const found = await stored("readonly", (store) => store.getAll());
  return found.sort((a, b) => b.changed - a.changed);
}

/** @param {Conversation} one */
export async function keep(one) {
  await stored("readwrite", (store) => store.put(JSON.parse(JSON.stringify(one))));
}

/** @param {string} id */
export async function forget(id) {
  await stored("readwrite", (store) => store.delete(id));
}
