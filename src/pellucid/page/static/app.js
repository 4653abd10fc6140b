// The app of `pellucid serve --ui`: conversations with the model, and the look inside an answer.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { answer, CallError, LiveSource, model, useKey } from "./api.js";
import { Data } from "./data.js";
import { opened } from "./state.js";
import { add, branches, conversation, enter, exported, forget, imported, keep, kept, path } from "./tree.js";
import "./message.js";
import "./views.js";

/** @typedef {import("./tree.js").Message} Message */

const KEY = "pellucid key"; // in this tab's storage
const SLIDERS = /** @type {[string, string, number, number, number][]} */ ([
  ["temperature", "Temperature", 0, 2, 0.05],
  ["top_k", "Top-k", 0, 200, 1],
  ["top_p", "Top-p", 0, 1, 0.01],
  ["min_p", "Min-p", 0, 1, 0.005],
  ["repeat_penalty", "Repeat penalty", 1, 2, 0.01],
]);

export class App extends LitElement {
  constructor() {
    super();
    /** @type {import("./tree.js").Conversation} */
    this.all = conversation();
    /** @type {import("./tree.js").Conversation[]} */
    this.others = [];
    /** @type {Awaited<ReturnType<typeof model>> | null} */
    this.model = null;
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {import("./view.js").Pair | null} */
    this.pair = null;
    this.looking = false;
    this.failure = "";
    this.lost = false;
    this.follows = true;
    this.version = 0;
    this.system = "";
    this.seed = "";
    this.most = 512;
    /** @type {Record<string, number>} */
    this.options = {};
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    useKey(sessionStorage.getItem(KEY) ?? "");
    void this.start();
    for (const name of ["branch", "retry", "edit", "inside"]) {
      this.addEventListener(name, (event) => this.told(name, /** @type {CustomEvent} */ (event).detail));
    }
  }

  async start() {
    try {
      this.model = await model();
      this.lost = false;
      this.failure = "";
    } catch (error) {
      this.fail(error);
    }
    try {
      this.others = await kept();
    } catch {
      this.failure = "This browser keeps no conversations: they end with the tab.";
    }
    this.requestUpdate();
  }

  /** @param {unknown} error */
  fail(error) {
    this.failure = error instanceof Error ? error.message : String(error);
    if (error instanceof CallError && error.lost && !this.lost) {
      this.lost = true;
      const again = async () => {
        try {
          this.model = await model();
          this.lost = false;
          this.failure = "The server is back.";
          this.requestUpdate();
        } catch {
          setTimeout(again, 1500);
        }
      };
      setTimeout(again, 1500);
    }
    this.requestUpdate();
  }

  // ---- conversations

  /** @param {string} name @param {{message: Message, detail: any}} said */
  told(name, { message, detail }) {
    if (name === "branch") {
      const some = branches(this.all, message);
      enter(this.all, some[some.indexOf(message) + detail]);
      this.saved();
    } else if (name === "retry") void this.answer(message.parent);
    else if (name === "edit") void this.send(detail, message.parent);
    else void this.inside(message, detail);
  }

  /** @param {string} text @param {string | null} parent */
  async send(text, parent = this.all.leaf) {
    if (!text.trim() || this.running) return;
    const made = add(this.all, parent, "user", text);
    this.follows = true;
    await this.answer(made.id);
  }

  /** What the model is given up to a message. @param {string | null} leaf */
  messages(leaf) {
    const said = path(this.all, leaf).map(({ role, text }) => ({ role, content: text }));
    return this.system ? [{ role: "system", content: this.system }, ...said] : said;
  }

  /** @param {string | null} parent the message to answer */
  async answer(parent) {
    if (this.running) return;
    const messages = this.messages(parent);
    const message = add(this.all, parent, "assistant", "");
    const running = (this.running = new AbortController());
    this.failure = "";
    this.requestUpdate();
    try {
      const request = { messages, max_tokens: this.most, ...this.options, ...(this.seed ? { seed: Number(this.seed) } : {}) };
      for await (const part of answer(request, running.signal)) {
        message.text += part.text;
        for (const token of part.tokens) {
          message.ids.push(token.id);
          message.bits.push(token.bits);
          message.pieces.push(token.text);
        }
        message.finish = part.finish ?? message.finish;
        this.draw();
      }
    } catch (error) {
      if (!running.signal.aborted) this.fail(error);
    }
    this.running = null;
    if (!message.text && !message.ids.length) {
      delete this.all.messages[message.id];
      this.all.leaf = parent;
    }
    this.saved();
  }

  /** Draws with the next frame, once for many tokens. */
  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.version++;
      this.requestUpdate();
    });
  }

  waits = false;

  saved() {
    this.version++;
    this.requestUpdate();
    const { all } = this;
    if (!Object.keys(all.messages).length) return;
    keep(all).then(async () => {
      this.others = await kept();
      this.requestUpdate();
    }, () => (this.failure = "This browser did not keep the conversation."));
  }

  /** @param {import("./tree.js").Conversation} one */
  open(one) {
    this.running?.abort();
    this.all = one;
    this.pair = null;
    this.requestUpdate();
  }

  /** @param {string} id */
  async discard(id) {
    await forget(id);
    this.others = await kept();
    if (this.all.id === id) this.all = conversation();
    this.requestUpdate();
  }

  save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported([this.all])], { type: "application/json" }));
    link.download = "conversation.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  /** @param {File | undefined} file */
  async load(file) {
    if (file === undefined) return;
    try {
      for (const one of imported(await file.text())) {
        await keep(one);
        this.all = one;
      }
      this.others = await kept();
      this.failure = "";
    } catch (error) {
      this.fail(error);
    }
    this.requestUpdate();
  }

  // ---- inside an answer

  /** @param {Message} message @param {number | null} at its token */
  async inside(message, at) {
    if (this.looking) return;
    this.looking = true;
    this.failure = "";
    this.requestUpdate();
    try {
      const source = await LiveSource.open({ messages: this.messages(message.parent), answer: message.ids, options: this.options, seed: this.seed ? Number(this.seed) : null });
      const data = new Data(source);
      await data.start();
      this.pair = { data, state: opened(data, Math.min(data.meta.prompt - 1 + (at ?? 0), data.n - 1), false) };
    } catch (error) {
      this.fail(error);
    }
    this.looking = false;
    this.requestUpdate();
    await this.updateComplete;
    this.querySelector(".inside")?.scrollIntoView();
  }

  // ---- what is shown

  render() {
    const { all } = this;
    const shown = path(all);
    return html`
      <header><h1>${this.model?.id ?? "Pellucid"}</h1>
        ${this.failure ? html`<p class="warn" role="alert">${this.failure}</p>` : nothing}</header>
      <div class="app">
        <nav aria-label="Conversations">${this.list()}${this.settings()}</nav>
        <main>
          <div class="talk" tabindex="0" role="log" aria-label="The conversation" @scroll=${this.scrolled}>
            ${shown.length ? nothing : html`<p class="quiet">Ask something. Every answer can be looked into: each token, layer and head.</p>`}
            ${shown.map((message) => {
              const some = branches(all, message);
              const busy = this.running !== null && message.id === all.leaf;
              return html`<pellucid-message .message=${message} .busy=${busy} .version=${busy ? this.version : message.text.length}
                .place=${some.length > 1 ? { at: some.indexOf(message), count: some.length } : ALONE}></pellucid-message>`;
            })}
          </div>
          <form class="ask" @submit=${(/** @type {SubmitEvent} */ event) => { event.preventDefault(); this.submit(); }}>
            <textarea aria-label="Your message" rows="3" placeholder="Your message" @keydown=${(/** @type {KeyboardEvent} */ event) => {
              if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.submit(); }
            }}></textarea>
            ${this.running ? html`<button type="button" @click=${() => this.running?.abort()}>Stop</button>` : html`<button type="submit" ?disabled=${this.model === null}>Send</button>`}
          </form>
          ${this.looking ? html`<p role="status">The model reads it again, to show every layer…</p>` : nothing}
          ${this.pair ? html`<section class="inside" aria-label="Inside the answer"><div class="row"><h2>Inside the answer</h2>
            <button type="button" @click=${() => { this.pair = null; this.requestUpdate(); }}>Close</button></div>
            <pellucid-views .page=${this.pair}></pellucid-views></section>` : nothing}
        </main>
      </div>`;
  }

  list() {
    return html`<div class="row"><button type="button" @click=${() => this.open(conversation())}>New</button>
        <button type="button" ?disabled=${!this.all.leaf} @click=${() => this.save()}>Export</button>
        <label class="file">Import <input type="file" accept=".json,application/json" @change=${(/** @type {any} */ event) => { void this.load(event.target.files[0]); event.target.value = ""; }}></label></div>
      <ul class="kept">${this.others.map((one) => html`<li><button type="button" class="plain" aria-current=${one.id === this.all.id} @click=${() => this.open(one)}>${one.title}</button>
        <button type="button" aria-label="Delete ${one.title}" @click=${() => this.discard(one.id)}>×</button></li>`)}</ul>`;
  }

  settings() {
    const defaults = this.model?.defaults ?? {};
    return html`<details><summary>Options</summary>
      <label class="slider">System message <textarea rows="2" .value=${this.system} @change=${(/** @type {any} */ e) => (this.system = e.target.value)}></textarea></label>
      ${SLIDERS.map(([name, said, least, most, step]) => {
        const value = this.options[name] ?? defaults[name] ?? least;
        return html`<label class="slider">${said} <output>${value}</output><input type="range" min=${least} max=${most} step=${step} .value=${String(value)}
          @input=${(/** @type {any} */ e) => { this.options = { ...this.options, [name]: Number(e.target.value) }; this.requestUpdate(); }}></label>`;
      })}
      <label>Tokens at most <input type="number" min="1" .value=${String(this.most)} @change=${(/** @type {any} */ e) => (this.most = Math.max(Number(e.target.value) || 1, 1))}></label>
      <label>Seed <input inputmode="numeric" size="10" maxlength="15" .value=${this.seed} @change=${(/** @type {any} */ e) => (this.seed = /^\d{1,15}$/.test(e.target.value) ? e.target.value : "")}></label>
      <label>Key <input class="secret" autocomplete="off" spellcheck="false" @change=${(/** @type {any} */ e) => { sessionStorage.setItem(KEY, e.target.value); useKey(e.target.value); void this.start(); }}></label>
    </details>`;
  }

  submit() {
    const area = /** @type {HTMLTextAreaElement} */ (this.querySelector(".ask textarea"));
    if (this.running || !area.value.trim()) return;
    const text = area.value;
    area.value = "";
    void this.send(text);
  }

  scrolled() {
    const talk = /** @type {HTMLElement} */ (this.querySelector(".talk"));
    this.follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 48;
  }

  updated() {
    const talk = this.querySelector(".talk");
    if (talk && this.follows) talk.scrollTop = talk.scrollHeight;
  }
}

const ALONE = { at: 0, count: 1 };

customElements.define("pellucid-app", App);
