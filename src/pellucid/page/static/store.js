// Conversations in this browser alone: what the list shows apart from the messages, each of which is kept by itself, so
// that a new one costs nothing of the others.
import { say } from "./appstrings.js";
import { set } from "./tree.js";

/** @typedef {import("./tree.js").Conversation} Conversation */
/** @typedef {import("./tree.js").Message} Message */
/** @typedef {{id: string, title: string, changed: number}} Entry */

const HEADS = "conversations";
const MESSAGES = "messages";
const VERSION = 2; // 1: whole conversations

/** @returns {Promise<IDBDatabase>} */
function database() {
  return new Promise((done, failed) => {
    const request = indexedDB.open("pellucid", VERSION);
    request.onupgradeneeded = (event) => {
      const base = request.result;
      const work = /** @type {IDBTransaction} */ (request.transaction);
      if (event.oldVersion < 1) base.createObjectStore(HEADS, { keyPath: "id" });
      const messages = base.createObjectStore(MESSAGES, { keyPath: ["conversation", "id"] });
      messages.createIndex("conversation", "conversation");
      const heads = work.objectStore(HEADS);
      heads.getAll().onsuccess = (read) => {
        for (const { messages: own, ...head } of /** @type {any} */ (read.target).result) {
          Object.values(own ?? {}).forEach((one, made) => messages.put({ .../** @type {object} */ (one), conversation: head.id, made }));
          heads.put(head);
        }
      };
    };
    request.onblocked = () => failed(new Error(say("chatOldTab")));
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      done(request.result);
    };
    request.onerror = () => failed(request.error);
  });
}

/** @template T @param {"readonly" | "readwrite"} mode @param {(heads: IDBObjectStore, messages: IDBObjectStore) => IDBRequest<T>} work @returns {Promise<T>} */
async function stored(mode, work) {
  const base = await database();
  try {
    return await new Promise((done, failed) => {
      const all = base.transaction([HEADS, MESSAGES], mode);
      const request = work(all.objectStore(HEADS), all.objectStore(MESSAGES));
      all.oncomplete = () => done(request.result);
      all.onabort = all.onerror = () => failed(all.error);
    });
  } finally {
    base.close();
  }
}

/** All that are kept, the newest first. @returns {Promise<Entry[]>} */
export async function kept() {
  const found = await stored("readonly", (heads) => heads.getAll());
  return found.sort((a, b) => b.changed - a.changed);
}

/** @param {string} id @returns {Promise<Conversation | null>} */
export async function read(id) {
  const head = await stored("readonly", (heads) => heads.get(id));
  if (head === undefined) return null;
  const found = await stored("readonly", (_, messages) => messages.index("conversation").getAll(id));
  // By id they come; a branch is behind another that was made before it.
  found.sort((a, b) => (a.made ?? 0) - (b.made ?? 0));
  /** @type {Record<string, Message>} */
  const own = {};
  for (const { conversation: _, made: __, ...one } of found) own[one.id] = one;
  return { ...head, settings: set(head.settings), messages: own };
}

/** Keeps a conversation's entry, and some of its messages. @param {Conversation} all @param {Message[]} changed */
export async function keep(all, changed) {
  const { messages: own, ...head } = all;
  const made = new Map(Object.keys(own).map((id, i) => [id, i]));
  await stored("readwrite", (heads, messages) => {
    for (const one of changed) messages.put({ ...one, conversation: all.id, made: made.get(one.id) ?? 0 });
    return heads.put(head);
  });
  tell();
}

/** @param {string} id */
export async function forget(id) {
  await stored("readwrite", (heads, messages) => {
    messages.index("conversation").openKeyCursor(id).onsuccess = (event) => {
      const cursor = /** @type {any} */ (event.target).result;
      if (!cursor) return;
      messages.delete(cursor.primaryKey);
      cursor.continue();
    };
    return heads.delete(id);
  });
  tell();
}

// ---- other tabs

const channel = new BroadcastChannel("pellucid conversations");

function tell() {
  channel.postMessage(null);
}

/** @param {() => void} listener called when another tab has changed what is kept */
export function changedElsewhere(listener) {
  channel.onmessage = listener;
}
