// Conversations with the model, as trees, and the look inside an answer.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { answer, conversationIds, LiveSource, textOf } from "./api.js";
import { parts, say } from "./appstrings.js";
import { Data } from "./data.js";
import { asked, toolsOf } from "./options.js";
import { server } from "./server.js";
import { opened } from "./state.js";
import { changedElsewhere, forget, keep, kept, read } from "./store.js";
import { add, conversation, enter, exported, imported, path, places, requested, take } from "./tree.js";
import "./message.js";
import "./views.js";

/** @typedef {import("./tree.js").Message} Message */
/** @typedef {import("./tree.js").Conversation} Conversation */

const NEAR = 48; // pixels from the end within which the conversation follows

export class Chat extends LitElement {
  constructor() {
    super();
    /** @type {Conversation} */
    this.all = conversation();
    /** @type {import("./store.js").Entry[]} */
    this.others = [];
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {import("./view.js").Pair | null} */
    this.pair = null;
    /** @type {AbortController | null} */
    this.looking = null;
    this.follows = true;
    this.drawing = false;
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    void this.list();
    changedElsewhere(() => this.list());
    server.addEventListener("change", () => this.requestUpdate());
    this.addEventListener("settings", () => this.saved([]));
    for (const name of ["branch", "retry", "edit", "inside", "on", "results"]) {
      this.addEventListener(name, (event) => this.told(name, /** @type {CustomEvent} */ (event).detail));
    }
  }

  // ---- what messages ask for

  /** @param {string} name @param {{message: Message, detail: any}} said */
  told(name, { message, detail }) {
    if (name === "branch") {
      const some = places(this.all)(message);
      enter(this.all, some[some.indexOf(message) + detail]);
      this.saved([]);
    } else if (name === "retry") void this.answer(message.parent);
    else if (name === "edit") void this.send(detail, message.parent);
    else if (name === "on") void this.goOn(message, message.ids.length);
    else if (name === "results") void this.results(message, detail);
    else void this.inside(message, detail);
  }

  /** @param {string} text @param {string | null} parent */
  async send(text, parent = this.all.leaf) {
    if (!text.trim() || this.running) return;
    const made = add(this.all, parent, "user", text);
    this.follows = true;
    this.saved([made]);
    await this.answer(made.id);
  }

  /** @param {Message} message with calls @param {{call: string, text: string}[]} given */
  async results(message, given) {
    if (this.running) return;
    const made = [];
    for (const { call, text } of given) {
      const one = add(this.all, made.length ? made[made.length - 1].id : message.id, "tool", text);
      one.call = call;
      made.push(one);
    }
    this.saved(made);
    await this.answer(this.all.leaf);
  }

  /** @param {string | null} parent the message to answer */
  async answer(parent) {
    if (this.running) return;
    await this.stream(parent, async () => ({ messages: requested(this.all, parent), max_tokens: this.all.settings.most, ...asked(this.all.settings) }));
  }

  /** Goes on from a token of an answer, in a branch beside it: from the ids, which a text may not give again.
   * @param {Message} message @param {number} count tokens that stay @param {{id: number, bits: number} | null} next another one behind them */
  async goOn(message, count, next = null) {
    if (this.running) return;
    const ids = [...message.ids.slice(0, count), ...(next ? [next.id] : [])];
    const bits = [...message.bits.slice(0, count), ...(next ? [next.bits] : [])];
    this.follows = true;
    this.talk?.scrollIntoView({ block: "nearest" });
    let cut = false; // inside a character, whose other bytes are in the next tokens
    const request = async (/** @type {Message} */ made) => {
      const { tools, response_format: _, ...rest } = asked(this.all.settings);
      const prompt = await conversationIds(requested(this.all, message.parent), tools ?? []);
      const piece = next ? [await textOf([next.id])] : [];
      const text = await textOf(ids);
      cut = text.endsWith("\ufffd");
      Object.assign(made, { ids, bits, pieces: [...message.pieces.slice(0, count), ...piece], text: text.replace(/\ufffd+$/, "") });
      return { prompt: [...prompt, ...ids], max_tokens: this.all.settings.most, ...rest };
    };
    await this.stream(message.parent, request, async (made) => {
      if (cut) made.text = await textOf(made.ids);
    });
  }

  /** Adds an answer, and what comes of it. @param {string | null} parent @param {(made: Message) => Promise<object>} request @param {(made: Message) => Promise<void>} [end] what is left to do then */
  async stream(parent, request, end) {
    const { all } = this;
    const message = add(all, parent, "assistant", "");
    const running = (this.running = new AbortController());
    server.say("");
    this.requestUpdate();
    try {
      for await (const part of answer(await request(message), running.signal)) {
        take(message, part);
        this.draw(message);
      }
    } catch (error) {
      if (!running.signal.aborted) server.fail(error);
    }
    await end?.(message).catch((error) => server.fail(error));
    if (this.running === running) this.running = null;
    if (!message.text && !message.ids.length && !message.calls) {
      delete all.messages[message.id];
      if (all.leaf === message.id) all.leaf = parent;
      this.saved([], all);
    } else this.saved([message], all);
  }

  /** Draws a message with the next frame, once for many tokens. @param {Message} message */
  draw(message) {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(async () => {
      this.drawing = false;
      const view = /** @type {import("./message.js").MessageView | null} */ (this.querySelector("pellucid-message[data-busy]"));
      if (view?.message !== message) return;
      view.requestUpdate();
      await view.updateComplete;
      this.follow();
    });
  }

  // ---- conversations

  async list() {
    try {
      this.others = await kept();
    } catch (error) {
      server.say(say("chatKeepsNone", { why: error instanceof Error ? error.message : "" }));
    }
    this.requestUpdate();
  }

  /** @param {Message[]} changed @param {Conversation} all */
  saved(changed, all = this.all) {
    this.requestUpdate();
    if (!Object.keys(all.messages).length) return;
    keep(all, changed).then(() => this.list(), () => server.say(say("chatNotKept")));
  }

  /** @param {string | null} id null: a new one */
  async open(id) {
    this.running?.abort();
    this.looking?.abort();
    this.all = (id === null ? null : await read(id)) ?? conversation();
    this.pair = null;
    this.follows = true;
    this.requestUpdate();
  }

  /** @param {string} id */
  async discard(id) {
    await forget(id);
    if (this.all.id === id) await this.open(null);
    await this.list();
  }

  save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported([this.all])], { type: "application/json" }));
    link.download = say("chatFile");
    link.click();
    URL.revokeObjectURL(link.href);
  }

  /** @param {File | undefined} file */
  async load(file) {
    if (file === undefined) return;
    try {
      for (const one of imported(await file.text())) {
        await keep(one, Object.values(one.messages));
        this.all = one;
      }
      this.pair = null;
      server.say("");
    } catch (error) {
      server.fail(error);
    }
    await this.list();
  }

  // ---- inside an answer

  /** @param {Message} message @param {number | null} at its token */
  async inside(message, at) {
    this.looking?.abort();
    const looking = (this.looking = new AbortController());
    this.requestUpdate();
    try {
      const { settings } = this.all;
      const tools = toolsOf(settings.tools);
      const asks = { messages: requested(this.all, message.parent), answer: message.ids, options: settings.options, seed: settings.seed ? Number(settings.seed) : null, ...(tools.length ? { tools } : {}) };
      const data = new Data(await LiveSource.open(asks, looking.signal));
      await data.start();
      if (looking.signal.aborted) return;
      const from = data.meta.prompt - 1;
      const goOn = { from, with: (/** @type {number} */ place, /** @type {number} */ id, /** @type {number} */ bits) => this.goOn(message, place - from, { id, bits }) };
      this.pair = { data, state: opened(data, Math.min(from + (at ?? 0), data.n - 1), false), goOn };
    } catch (error) {
      if (!looking.signal.aborted) server.fail(error);
    }
    if (this.looking === looking) this.looking = null;
    this.requestUpdate();
    await this.updateComplete;
    if (this.pair) this.querySelector(".inside")?.scrollIntoView();
  }

  // ---- what is shown

  render() {
    const { all } = this;
    const shown = path(all);
    const same = places(all);
    const locked = this.running !== null;
    return html`<div class="app">
        <nav aria-label=${say("chatList")}>${this.listed()}
          <pellucid-options .settings=${all.settings} .defaults=${server.model?.defaults ?? {}}></pellucid-options></nav>
        <div class="main">
          <div class="talk" tabindex="0" role="log" aria-label=${say("chatLog")} @scroll=${this.scrolled}>
            ${shown.length ? nothing : html`<p class="quiet">${say("chatEmpty")}</p>`}
            ${shown.map((message) => {
              const some = same(message);
              const last = message.id === all.leaf;
              const busy = locked && last;
              return html`<pellucid-message ?data-busy=${busy} .message=${message} .busy=${busy} .locked=${locked} .version=${message.text.length + message.ids.length}
                .waits=${last && !busy && Boolean(message.calls?.length)} .at=${some.indexOf(message)} .count=${some.length}></pellucid-message>`;
            })}
          </div>
          <form class="ask" @submit=${(/** @type {SubmitEvent} */ event) => { event.preventDefault(); this.submit(); }}>
            <textarea aria-label=${say("chatMessage")} rows="3" placeholder=${say("chatMessage")} @keydown=${(/** @type {KeyboardEvent} */ event) => {
              if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.submit(); }
            }}></textarea>
            ${locked ? html`<button type="button" @click=${() => this.running?.abort()}>${say("stop")}</button>` : html`<button type="submit" ?disabled=${server.model === null}>${say("send")}</button>`}
          </form>
          ${this.looking ? html`<p role="status">${parts("chatReads", { cancel: html`<button type="button" @click=${() => this.looking?.abort()}>${say("cancel")}</button>` })}</p>` : nothing}
          ${this.pair ? html`<section class="inside" aria-label=${say("chatInside")}><div class="row"><h2>${say("chatInside")}</h2>
            <button type="button" @click=${() => { this.pair = null; this.requestUpdate(); }}>${say("chatClose")}</button></div>
            <pellucid-views .page=${this.pair}></pellucid-views></section>` : nothing}
        </div>
      </div>`;
  }

  listed() {
    return html`<div class="row"><button type="button" @click=${() => this.open(null)}>${say("chatNew")}</button>
        <button type="button" ?disabled=${!this.all.leaf} @click=${() => this.save()}>${say("chatExport")}</button>
        <label class="file">${say("chatImport")} <input type="file" accept=".json,application/json" @change=${(/** @type {any} */ event) => { void this.load(event.target.files[0]); event.target.value = ""; }}></label></div>
      <ul class="kept">${this.others.map((one) => html`<li><button type="button" class="plain" aria-current=${one.id === this.all.id} @click=${() => this.open(one.id)}>${one.title}</button>
        <button type="button" aria-label=${say("chatDelete", { title: one.title })} @click=${() => this.discard(one.id)}>×</button></li>`)}</ul>`;
  }

  submit() {
    const area = /** @type {HTMLTextAreaElement} */ (this.querySelector(".ask textarea"));
    if (this.running || !area.value.trim()) return;
    const text = area.value;
    area.value = "";
    void this.send(text);
  }

  get talk() {
    return /** @type {HTMLElement | null} */ (this.querySelector(".talk"));
  }

  scrolled() {
    const { talk } = this;
    if (talk) this.follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < NEAR;
  }

  follow() {
    const { talk } = this;
    if (talk && this.follows) talk.scrollTop = talk.scrollHeight;
  }

  updated() {
    this.follow();
  }
}

customElements.define("pellucid-chat", Chat);
