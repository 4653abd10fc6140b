// What all views share: they draw from the page's data and from what is chosen, once they are seen.
import { html, LitElement, nothing } from "./vendor/lit.js";

/** goOn: begins a text with all tokens up to one and this one behind them; from: the first token that it may follow.
 * @typedef {{data: import("./data.js").Data, state: import("./state.js").State, other?: import("./data.js").Data,
 *   goOn?: {from: number, with: (at: number, id: number, bits: number) => void}}} Pair */

/** Views that are to be drawn though nothing was chosen: one with each frame, so that none takes long.
 * @type {Set<View>} */
const waiting = new Set();

/** @param {View} view */
function inTurn(view) {
  const begins = waiting.size === 0;
  waiting.add(view);
  if (begins) requestAnimationFrame(turn);
}

function turn() {
  const [view] = waiting;
  waiting.delete(view);
  view.requestUpdate();
  if (waiting.size) requestAnimationFrame(turn);
}

export class View extends LitElement {
  static properties = { page: { attribute: false } };

  constructor() {
    super();
    /** @type {Pair} */
    this.page = /** @type {any} */ (undefined);
    this.seen = false;
    this.waits = false;
    this.drew = "";
    this.asTable = false; // whether it is open
    this.again = () => this.later();
    this.came = () => {
      if (this.seen && this.drew !== this.key()) inTurn(this);
    };
    this.watcher = new IntersectionObserver((entries) => {
      if (!this.seen && entries.some((one) => one.isIntersecting)) {
        this.seen = true;
        inTurn(this);
      }
    }, { rootMargin: "200px" });
  }

  get data() {
    return this.page.data;
  }

  get now() {
    return this.page.state.now;
  }

  /** @param {Partial<import("./state.js").Chosen>} change */
  go(change) {
    this.page.state.go(change);
  }

  /** What the view depends on: the names of what is chosen, and of blocks. @returns {{chosen: string[], blocks: string[]}} */
  depends() {
    return { chosen: [], blocks: [] };
  }

  /** All that the view depends on, as it is now. */
  key() {
    const { chosen, blocks } = this.depends();
    const { now, data } = this;
    return JSON.stringify([chosen.map((name) => now[/** @type {"at"} */ (name)]), blocks.map((name) => data.kept.get(name) != null)]);
  }

  /** Draws with the next frame, once for many changes; not at all where nothing that the view shows has changed. */
  later() {
    if (this.waits || !this.seen || this.drew === this.key()) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.requestUpdate();
    });
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    this.attach(this.page);
    this.watcher.observe(this);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.detach(this.page);
    this.watcher.disconnect();
  }

  /** @param {Pair} page */
  attach(page) {
    page.state.addEventListener("change", this.again);
    page.data.addEventListener("block", this.came);
  }

  /** @param {Pair} page */
  detach(page) {
    page.state.removeEventListener("change", this.again);
    page.data.removeEventListener("block", this.came);
  }

  /** @param {Map<string, any>} changed */
  willUpdate(changed) {
    const before = changed.get("page");
    if (before === undefined || !this.isConnected) return;
    this.detach(before);
    this.attach(this.page);
  }

  /** What a canvas shows, in words, for who asks for it. @param {string} caption @param {string[]} head @param {() => unknown[][]} rows */
  table(caption, head, rows) {
    return html`<details class="as-table" @toggle=${(/** @type {any} */ e) => { this.asTable = e.target.open; this.requestUpdate(); }}><summary>As a table</summary>
      ${this.asTable ? html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table><caption>${caption}</caption>
        <thead><tr>${head.map((one) => html`<th scope="col">${one}</th>`)}</tr></thead>
        <tbody>${rows().map(([first, ...rest]) => html`<tr><th scope="row">${first}</th>${rest.map((one) => html`<td>${one}</td>`)}</tr>`)}</tbody></table></div>` : nothing}</details>`;
  }

  /** @returns {unknown} */
  draw() {
    return html``;
  }

  render() {
    if (!this.seen) return html`<p class="quiet">…</p>`;
    this.drew = this.key();
    return this.draw();
  }

  /** @param {Map<string, unknown>} _changed */
  updated(_changed) {
    if (this.seen) this.drawn();
  }

  /** After each drawing: what needs places or canvases. */
  drawn() {}
}

/** A token in its own direction of writing. @param {string} text */
export function bdi(text) {
  return html`<bdi dir="auto">${text}</bdi>`;
}
