// The server's endpoints, as the app calls them.
import { say } from "./appstrings.js";
import { numbers } from "./source.js";

/** @typedef {import("./source.js").Meta} Meta */
/** @typedef {{id: number, text: string, bits: number}} Piece a token of an answer */
/** @typedef {{index: number, id?: string, function: {name?: string, arguments: string}}} CallDelta */
/** @typedef {{text: string, thought: string, calls: CallDelta[], tokens: Piece[], finish: string | null}} Part */

/** What went wrong, in words; lost: the server could not be reached. */
export class CallError extends Error {
  /** @param {string} message @param {boolean} lost */
  constructor(message, lost = false) {
    super(message);
    this.lost = lost;
  }
}

/** Whether the server answers. */
export async function alive() {
  try {
    return (await fetch("health", { cache: "no-store" })).status < 500;
  } catch {
    return false;
  }
}

let key = "";

/** @param {string} value sent with each call */
export function useKey(value) {
  key = value.trim();
}

/** @param {string} path @param {object | string | null} body an object, or what it is as JSON @param {AbortSignal} [signal] */
async function call(path, body, signal) {
  if (/[^!-~]/.test(key)) throw new CallError(say("keyAscii")); // no header can hold it
  /** @type {Record<string, string>} */
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== null) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body === null ? "GET" : "POST", headers, body: typeof body === "string" || body === null ? body : JSON.stringify(body), signal: signal ?? null });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError(say("serverLost"), true);
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new CallError(said?.error?.message ?? say("serverStatus", { status: answer.status }));
  }
  return answer;
}

/** @returns {Promise<{id: string, max_model_len: number, defaults: Record<string, any>, has_chat_template: boolean}>} */
export async function model() {
  const list = await (await call("v1/models", null)).json();
  return (await call(`v1/models/${encodeURIComponent(list.data[0].id)}`, null)).json();
}

/** The ids of a conversation as the model reads it. @param {object[]} messages @param {object[]} tools @returns {Promise<number[]>} */
export async function conversationIds(messages, tools) {
  const found = await call("v1/apply-template", { messages, ...(tools.length ? { tools } : {}) });
  return (await found.json()).tokens;
}

/** Their text; special tokens have none. @param {number[]} ids @returns {Promise<string>} */
export async function textOf(ids) {
  return (await (await call("v1/detokenize", { tokens: ids, special: false })).json()).content;
}

/** A model with changes. @param {object[]} list @param {AbortSignal} [signal] @returns {Promise<{id: string, python: string}>} */
export async function edited(list, signal) {
  return (await call("v1/edits", { list }, signal)).json();
}

/** Streams an answer to messages, or what follows a prompt. @param {Record<string, any>} request @param {AbortSignal} signal @returns {AsyncGenerator<Part>} */
export async function* answer(request, signal) {
  const chat = "messages" in request;
  const asked = { ...request, stream: true, ...(chat ? { logprobs: true } : { logprobs: 1, return_token_ids: true }) };
  const found = await call(chat ? "v1/chat/completions" : "v1/completions", asked, signal);
  for await (const said of events(found, signal)) {
    const choice = said.choices[0];
    if (choice === undefined) continue;
    const { delta } = choice;
    yield chat
      ? { text: delta?.content ?? "", thought: delta?.reasoning_content ?? "", calls: delta?.tool_calls ?? [], tokens: chatTokens(choice), finish: choice.finish_reason }
      : { text: choice.text, thought: "", calls: [], tokens: completionTokens(choice), finish: choice.finish_reason };
  }
}

/** @param {any} choice @returns {Piece[]} */
function chatTokens(choice) {
  return (choice.logprobs?.content ?? []).map((/** @type {any} */ one) => ({ id: one.id, text: one.token, bits: -one.logprob / Math.LN2 }));
}

/** Those of the text, without the one that ended it. @param {any} choice @returns {Piece[]} */
function completionTokens(choice) {
  const { tokens = [], token_logprobs: logs = [] } = choice.logprobs ?? {};
  return (choice.token_ids ?? []).map((/** @type {number} */ id, /** @type {number} */ i) => ({ id, text: tokens[i] ?? "", bits: -(logs[i] ?? 0) / Math.LN2 }));
}

/** The objects of a stream of events. @param {Response} found @param {AbortSignal} signal @returns {AsyncGenerator<any>} */
async function* events(found, signal) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (found.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let ended = false;
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (signal.aborted) return;
      throw new CallError(say("serverCut"), true);
    }
    rest += decoder.decode(read.value, { stream: !read.done });
    const parts = rest.split("\n\n");
    rest = parts.pop() ?? "";
    for (const event of parts) {
      if (event === "data: [DONE]") ended = true;
      if (!event.startsWith("data: ") || ended) continue;
      const said = JSON.parse(event.slice(6));
      if (said.error) throw new CallError(said.error.message);
      yield said;
    }
    if (!read.done) continue;
    if (!ended) throw new CallError(say("serverCut"), true);
    return;
  }
}

/** What the model computed for some tokens, as the views ask for it. */
export class LiveSource {
  byHead = true;

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

  /** The engine's own sampler at a position. @param {{position: number, options: object, seed: bigint}} what
   * @returns {Promise<import("./source.js").Exact>} */
  async steps({ position, options, seed }) {
    const body = JSON.stringify({ position, options }).slice(0, -1);
    return (await call(`v1/look/${this.id}/steps`, `${body},"seed":${seed}}`)).json(); // which has 64 bits
  }

  /** @param {string} name */
  has(name) {
    return this.of(name).name in this.meta.blocks;
  }

  /** What the server is asked for: a block, or one head's part of a layer's weights. @param {string} name @returns {{name: string, head?: number}} */
  of(name) {
    const [, layer, head] = /^(att-\d+)-(\d+)$/.exec(name) ?? [];
    return layer === undefined ? { name } : { name: layer, head: Number(head) };
  }

  /** @param {string} name */
  block(name) {
    let found = this.kept.get(name);
    if (found === undefined) {
      const asked = this.of(name);
      found = call(`v1/look/${this.id}/block`, asked).then(async (answer) => numbers(this.meta.blocks[asked.name], await answer.arrayBuffer()));
      this.kept.set(name, found);
      found.catch(() => this.kept.delete(name));
    }
    return found;
  }
}
