// What all views share: they draw from the page's data and from what is chosen, once they are seen.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { push } from "./colour.js";
import { say } from "./strings.js";
import { signed } from "./text.js";

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
    this.retried = false; // what did not come was asked for again
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

  /** Whose blocks it needs. @returns {import("./data.js").Data[]} */
  get sources() {
    return [this.data];
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
    const { now, sources } = this;
    const come = sources.map((data) => blocks.map((name) => [data.lost.get(name), data.kept.has(name), data.kept.get(name) != null]));
    return JSON.stringify([chosen.map((name) => now[/** @type {"at"} */ (name)]), come]);
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

  /** Says what did not come, where the view would show it; from a server it can be asked for again. */
  missed() {
    const { blocks } = this.depends();
    const lost = this.sources.flatMap((data) => blocks.filter((name) => data.lost.has(name)).map((name) => ({ why: data.lost.get(name) ?? "", waits: data.kept.has(name) })));
    if (lost.length === 0) return nothing;
    const again = html`<button type="button" class="again" @click=${() => this.retry()}>${say("lostAgain")}</button>`;
    return html`<p class="warn" role="alert">${say("lost", { why: lost[0].why })} ${this.data.source.steps ? again : nothing}
      ${lost.some((one) => one.waits) ? say("wait") : nothing}</p>`;
  }

  retry() {
    this.retried = true;
    for (const data of this.sources) data.again();
    this.requestUpdate();
  }

  /** What a canvas shows, in words, for who asks for it. @param {string} caption @param {string[]} head @param {() => unknown[][]} rows */
  table(caption, head, rows) {
    return html`<details class="as-table" @toggle=${(/** @type {any} */ e) => { this.asTable = e.target.open; this.requestUpdate(); }}><summary>${say("asTable")}</summary>
      ${this.asTable ? html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table><caption>${caption}</caption>
        <thead><tr>${head.map((one) => html`<th scope="col">${one}</th>`)}</tr></thead>
        <tbody>${rows().map(([first, ...rest]) => html`<tr><th scope="row">${first}</th>${rest.map((one) => html`<td>${one}</td>`)}</tr>`)}</tbody></table></div>` : nothing}</details>`;
  }

  /** @returns {unknown} */
  draw() {
    return html``;
  }

  render() {
    if (!this.seen) return html`<p class="quiet">${say("wait")}</p>`;
    this.drew = this.key();
    return html`${this.missed()}${this.draw()}`;
  }

  /** @param {Map<string, unknown>} _changed */
  updated(_changed) {
    if (this.retried && !this.querySelector("button.again")) {
      this.retried = false;
      this.tabIndex = -1;
      if (document.activeElement === document.body) this.focus(); // the button that had it is gone
    }
    if (this.seen) this.drawn();
  }

  /** After each drawing: what needs places or canvases. */
  drawn() {}
}

/** A vector's numbers, each in the colour of its sign and size. @param {ArrayLike<number>} values */
export function cells(values) {
  const most = Array.from(values).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  return html`<div class="numbers" aria-hidden="true">${Array.from(values, (v) => html`<i title=${signed(v, 3)} .style=${`background:${push(v, most)}`}></i>`)}</div>`;
}

/** A token in its own direction of writing. @param {string} text */
export function bdi(text) {
  return html`<bdi dir="auto">${text}</bdi>`;
}
