// A message of a conversation. Markdown is rendered block by block; a block that is complete is never rendered again.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { DOMPurify, marked } from "./vendor/markdown.js";
import { fixed, plain } from "./text.js";

/** @typedef {import("./tree.js").Message} Message */

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

export class MessageView extends LitElement {
  static properties = { message: { attribute: false }, version: { attribute: false }, busy: { attribute: false }, place: { attribute: false } };

  constructor() {
    super();
    /** @type {Message} */
    this.message = /** @type {any} */ (undefined);
    this.version = 0;
    this.busy = false;
    /** @type {{at: number, count: number}} */
    this.place = { at: 0, count: 1 };
    this.shaded = false;
    this.editing = false;
    /** @type {{raw: string, clean: string}[]} */
    this.blocks = [];
  }

  createRenderRoot() {
    return this;
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
    const { message, place } = this;
    const own = message.role === "user";
    return html`<article class="message ${own ? "own" : ""}" aria-label=${own ? "You" : "Answer"}>
      ${this.editing ? this.editor() : this.shaded ? this.tokens() : own
        ? html`<div class="said" dir="auto">${message.text}</div>`
        : html`<div class="said" dir="auto">${this.rendered().map((block) => html`<div .innerHTML=${block.clean}></div>`)}${this.busy ? html`<span class="caret" aria-hidden="true"></span>` : nothing}</div>`}
      ${message.finish === "length" ? html`<p class="quiet">It ended here because it was as long as it may be.</p>` : nothing}
      <div class="row tools">
        ${place.count > 1 ? html`<span><button type="button" aria-label="The branch before" ?disabled=${place.at === 0} @click=${() => this.tell("branch", -1)}>‹</button>
          ${place.at + 1} of ${place.count} <button type="button" aria-label="The branch after" ?disabled=${place.at + 1 === place.count} @click=${() => this.tell("branch", 1)}>›</button></span>` : nothing}
        ${own ? html`<button type="button" @click=${() => this.edit(true)} ?disabled=${this.busy}>Edit</button>` : html`
          <button type="button" ?disabled=${this.busy} @click=${() => this.tell("retry")}>Try again</button>
          <button type="button" aria-pressed=${this.shaded} @click=${() => { this.shaded = !this.shaded; this.requestUpdate(); }}>Tokens</button>
          <button type="button" ?disabled=${this.busy || !message.ids.length} @click=${() => this.tell("inside")}>Look inside</button>`}
      </div>
    </article>`;
  }

  tokens() {
    const { message } = this;
    return html`<div class="strip">${message.pieces.map((piece, i) => html`<button type="button" class="token" title="token ${i}: ${fixed(message.bits[i], 1)} bits"
      .style=${`--share:${Math.min(message.bits[i] / BITS, 1)};--look:0`} @click=${() => this.tell("inside", i)}><bdi dir="auto">${plain(piece).replace(/ /g, "\u00b7")}</bdi></button>`)}</div>`;
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
    }}><textarea aria-label="The message" rows="4" .value=${this.message.text}></textarea>
      <div class="row"><button type="submit">Send</button><button type="button" @click=${() => this.edit(false)}>Cancel</button></div></form>`;
  }
}

customElements.define("pellucid-message", MessageView);
