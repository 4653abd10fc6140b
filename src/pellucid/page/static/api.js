// The server's endpoints, as the app calls them.
import { numbers } from "./source.js";

/** @typedef {import("./source.js").Meta} Meta */
/** @typedef {{id: number, text: string, bits: number}} Piece a token of an answer */
/** @typedef {{text: string, tokens: Piece[], finish: string | null}} Part */

/** What went wrong, in words; lost: the server could not be reached. */
export class CallError extends Error {
  /** @param {string} message @param {boolean} lost */
  constructor(message, lost = false) {
    super(message);
    this.lost = lost;
  }
}

let key = "";

/** @param {string} value sent with each call */
export function useKey(value) {
  key = value;
}

/** @param {string} path @param {object | null} body @param {AbortSignal} [signal] */
async function call(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== null) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body === null ? "GET" : "POST", headers, body: body === null ? null : JSON.stringify(body), signal: signal ?? null });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("The server cannot be reached.", true);
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new CallError(said?.error?.message ?? `The server answered with status ${answer.status}.`);
  }
  return answer;
}

/** @returns {Promise<{id: string, max_model_len: number, defaults: Record<string, any>, has_chat_template: boolean}>} */
export async function model() {
  const list = await (await call("v1/models", null)).json();
  return (await call(`v1/models/${encodeURIComponent(list.data[0].id)}`, null)).json();
}

/** Streams an answer. @param {object} request @param {AbortSignal} signal @returns {AsyncGenerator<Part>} */
export async function* answer(request, signal) {
  const found = await call("v1/chat/completions", { ...request, stream: true, logprobs: true }, signal);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (found.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (signal.aborted) return;
      throw new CallError("The connection to the server was lost.", true);
    }
    rest += decoder.decode(read.value, { stream: !read.done });
    const events = rest.split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const said = JSON.parse(event.slice(6));
      if (said.error) throw new CallError(said.error.message);
      const choice = said.choices[0];
      if (choice === undefined) continue;
      const tokens = (choice.logprobs?.content ?? []).map((/** @type {any} */ one) => ({ id: one.id, text: one.token, bits: -one.logprob / Math.LN2 }));
      yield { text: choice.delta?.content ?? "", tokens, finish: choice.finish_reason };
    }
    if (read.done) return;
  }
}

/** What the model computed for some tokens, as the views ask for it. */
export class LiveSource {
  /** @param {string} id @param {Meta} meta */
  constructor(id, meta) {
    this.id = id;
    this.meta = meta;
    /** @type {Map<string, Promise<import("./source.js").Numbers>>} */
    this.kept = new Map();
  }

  /** @param {object} what messages and the ids of an answer @param {AbortSignal} [signal] */
  static async open(what, signal) {
    const { id, meta } = await (await call("v1/look", what, signal)).json();
    return new LiveSource(id, meta);
  }

  /** @param {string} name */
  has(name) {
    return name in this.meta.blocks;
  }

  /** @param {string} name */
  block(name) {
    let found = this.kept.get(name);
    if (found === undefined) {
      found = call(`v1/look/${this.id}/block`, { name }).then(async (answer) => numbers(this.meta.blocks[name], await answer.arrayBuffer()));
      this.kept.set(name, found);
    }
    return found;
  }
}
