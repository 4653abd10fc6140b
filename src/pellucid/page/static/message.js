// A message of a conversation. Markdown is rendered block by block; a block that is complete is never rendered again.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { DOMPurify, marked } from "./vendor/markdown.js";
import { say } from "./appstrings.js";
import { fixed, plain } from "./text.js";

/** @typedef {import("./tree.js").Message} Message */
/** @typedef {import("./tree.js").Call} Call */

const BITS = 12; // of a full shade

/** What models may write: no images from elsewhere, no forms, no styles. */
const RULES = {
  ALLOWED_TAGS: [
    "p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a", "sup", "sub",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

/** Messages that are near the part of the conversation that is seen: the others are plain text, which costs less. */
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    const view = /** @type {MessageView} */ (entry.target);
    view.seen = true;
    view.requestUpdate();
  }
}, { rootMargin: "800px" });

/** JSON as people write it; other text as it is. @param {string} text */
function spread(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

export class MessageView extends LitElement {
  static properties = {
    message: { attribute: false }, version: { attribute: false }, busy: { attribute: false }, at: { attribute: false },
    count: { attribute: false }, waits: { attribute: false }, locked: { attribute: false },
  };

  constructor() {
    super();
    /** @type {Message} */
    this.message = /** @type {any} */ (undefined);
    this.version = 0;
    this.busy = false; // it is being written
    this.locked = false; // another one is
    this.waits = false; // for results of its calls
    this.at = 0; // among its branches
    this.count = 1;
    this.shaded = false;
    this.editing = false;
    this.seen = false;
    /** @type {{raw: string, clean: string}[]} */
    this.blocks = [];
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    if (!this.seen) watcher.observe(this);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    watcher.unobserve(this);
  }

  /** @param {string} name @param {any} detail */
  tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail: { message: this.message, detail }, bubbles: true }));
  }

  /** The blocks of the text as clean markup; those that have not changed are the same. */
  rendered() {
    const found = marked.lexer(this.message.text);
    const { links } = found;
    this.blocks = found.map((block, i) => {
      const before = this.blocks[i];
      if (before?.raw === block.raw) return before;
      return { raw: block.raw, clean: DOMPurify.sanitize(marked.parser(Object.assign([block], { links })), RULES) };
    });
    return this.blocks;
  }

  render() {
    const { message } = this;
    const name = say(message.role === "user" ? "messageYou" : message.role === "tool" ? "messageResult" : "messageAnswer");
    return html`<article class="message ${message.role === "user" ? "own" : message.role === "tool" ? "card" : ""}" aria-label=${name}>
      ${this.editing ? this.editor() : this.shaded ? this.tokens() : this.said()}
      ${(message.calls ?? []).map((call) => this.called(call))}
      ${this.waits ? this.results() : nothing}
      ${this.ended()}
      <div class="row tools">${this.branches()}${message.role === "user"
        ? html`<button type="button" @click=${() => this.edit(true)} ?disabled=${this.locked}>${say("messageEdit")}</button>`
        : message.role === "tool" ? nothing : this.tools()}</div>
    </article>`;
  }

  said() {
    const { message } = this;
    if (message.role === "tool") return html`<h3>${say("messageTheResult")}</h3><pre class="said" dir="auto">${spread(message.text)}</pre>`;
    if (message.role === "user" || !(this.seen || this.busy)) return html`<div class="said plain" dir="auto">${message.text}</div>`;
    return html`${message.thought ? html`<details><summary>${say("messageThoughts")}</summary><div class="said plain" dir="auto">${message.thought}</div></details>` : nothing}
      <div class="said" dir="auto">${this.rendered().map((block) => html`<div .innerHTML=${block.clean}></div>`)}${this.busy ? html`<span class="caret" aria-hidden="true"></span>` : nothing}</div>`;
  }

  branches() {
    const { at, count } = this;
    if (count < 2) return nothing;
    return html`<span><button type="button" aria-label=${say("messageBefore")} ?disabled=${at === 0} @click=${() => this.tell("branch", -1)}>‹</button>
      ${say("messageBranch", { at: at + 1, count })} <button type="button" aria-label=${say("messageAfter")} ?disabled=${at + 1 === count} @click=${() => this.tell("branch", 1)}>›</button></span>`;
  }

  tools() {
    const { message, busy, locked } = this;
    return html`<button type="button" ?disabled=${locked || busy} @click=${() => this.tell("retry")}>${say("again")}</button>
      <button type="button" aria-pressed=${this.shaded} @click=${() => { this.shaded = !this.shaded; this.requestUpdate(); }}>${say("messageTokens")}</button>
      <button type="button" ?disabled=${busy || !message.ids.length} @click=${() => this.tell("inside")}>${say("messageInside")}</button>`;
  }

  ended() {
    const { message, busy, locked } = this;
    if (busy || message.role !== "assistant" || ["stop", "tool_calls"].includes(message.finish ?? "") || !message.ids.length) return nothing;
    return html`<p class="quiet">${say(message.finish === "length" ? "messageLong" : "messageStopped")}
      <button type="button" ?disabled=${locked} @click=${() => this.tell("on")}>${say("messageOn")}</button></p>`;
  }

  tokens() {
    const { message } = this;
    return html`<div class="strip">${message.pieces.map((piece, i) => html`<button type="button" class="token" title=${say("messageToken", { at: i, bits: fixed(message.bits[i], 1) })}
      .style=${`--share:${Math.min(message.bits[i] / BITS, 1)};--look:0`} ?disabled=${this.busy} @click=${() => this.tell("inside", i)}><bdi dir="auto">${plain(piece).replace(/ /g, "\u00b7")}</bdi></button>`)}</div>`;
  }

  /** A card. @param {Call} call */
  called(call) {
    return html`<section class="card" aria-label=${say("messageCall", { name: call.name })}><h3>${call.name}</h3><pre dir="auto">${spread(call.arguments)}</pre></section>`;
  }

  /** What the tools gave, which the reader writes. */
  results() {
    const calls = this.message.calls ?? [];
    return html`<form @submit=${(/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const areas = /** @type {NodeListOf<HTMLTextAreaElement>} */ (this.querySelectorAll("form textarea"));
      this.tell("results", [...areas].map((area, i) => ({ call: calls[i].id, text: area.value })));
    }}>${calls.map((call) => html`<label>${say("messageResultOf", { name: call.name })} <textarea rows="2"></textarea></label>`)}
      <div class="row"><button type="submit" ?disabled=${this.locked}>${say(calls.length > 1 ? "messageSendResults" : "messageSendResult")}</button></div></form>`;
  }

  /** @param {boolean} on */
  edit(on) {
    this.editing = on;
    this.requestUpdate();
  }

  editor() {
    return html`<form @submit=${(/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const text = /** @type {HTMLTextAreaElement} */ (this.querySelector("textarea")).value;
      this.edit(false);
      this.tell("edit", text);
    }}><textarea aria-label=${say("messageText")} rows="4" .value=${this.message.text}></textarea>
      <div class="row"><button type="submit">${say("send")}</button><button type="button" @click=${() => this.edit(false)}>${say("cancel")}</button></div></form>`;
  }
}

customElements.define("pellucid-message", MessageView);
