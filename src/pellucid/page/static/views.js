// All views of one text, with the line that tells what is chosen and the keys that work everywhere.
import { html } from "./vendor/lit.js";
import { fixed, named, percent } from "./text.js";
import { View } from "./view.js";
import "./strip.js";
import "./next.js";
import "./tower.js";
import "./heads.js";
import "./head.js";
import "./machine.js";
import "./compare.js";
import "./steps.js";

const KEYS = [
  ["arrow keys, Home, End, Page Up, Page Down", "in the text: another token"],
  ["arrow keys", "in a map: another token, layer or head"],
  ["[ and ]", "the step before, the step after, of how a token is made"],
  ["Alt and an arrow key", "on a step of the sampler: moves it"],
  ["?", "shows or hides this list"],
];

export class Views extends View {
  constructor() {
    super();
    this.seen = true;
    this.keys = false;
    this.pressed = (/** @type {KeyboardEvent} */ event) => this.press(event);
    this.told = () => this.tell();
  }

  connectedCallback() {
    super.connectedCallback();
    document.addEventListener("keydown", this.pressed);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    document.removeEventListener("keydown", this.pressed);
  }

  /** @param {import("./view.js").Pair} page */
  attach(page) {
    super.attach(page);
    page.state.addEventListener("change", this.told);
  }

  /** @param {import("./view.js").Pair} page */
  detach(page) {
    super.detach(page);
    page.state.removeEventListener("change", this.told);
  }

  /** The views draw themselves; this one changes with its keys alone. */
  later() {}

  /** Tells what was chosen, for those who do not see it. */
  tell() {
    const { data, now } = this;
    const bits = data.surprise(now.at);
    const p = data.prediction(now.at);
    const said = `Token ${now.at}, ${named(data.token(now.at))}${Number.isNaN(bits) ? "" : `, surprise ${fixed(bits, 1)} bits`}. Likeliest next: ${named(data.shown(p.ids[0]))}, ${percent(Math.exp(p.logits[0] - p.logSum))}.`;
    const status = this.querySelector("[role=status]");
    if (status && status.textContent !== said) status.textContent = said;
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const where = /** @type {HTMLElement} */ (event.target);
    if (!this.checkVisibility() || event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT", "TEXTAREA"].includes(where.tagName)) return;
    if (event.key === "?") this.showKeys(!this.keys);
    else if (event.key === "[") this.go({ step: this.now.step - 1 });
    else if (event.key === "]") this.go({ step: this.now.step + 1 });
  }

  /** @param {boolean} on */
  showKeys(on) {
    this.keys = on;
    this.requestUpdate();
  }

  /** What else the page had no room for. */
  left() {
    const { pushed, neurons, candidates } = this.page.data.meta.kept;
    const all = [
      pushed ? "pushes of heads on the token that follows alone" : "",
      neurons ? "one neuron of each layer" : "",
      candidates ? `at most ${candidates} candidates of a token` : "",
    ].filter(Boolean);
    return all.length ? `For the size of the file also: ${all.join(", ")}.` : "";
  }

  draw() {
    const { page } = this;
    const { meta } = page.data;
    const kept = meta.kept.attention;
    return html`
      <p class="quiet">${meta.n} tokens through ${meta.model.name}, ${page.data.layers} layers. ${
        kept === null ? "Weights of heads: small maps alone, for the size of the file."
          : kept === undefined || (kept.share === 1 && !kept.most) ? "" : `Weights of heads: the largest that hold ${Math.round(100 * kept.share)} % of a row${kept.most ? `, at most ${kept.most}` : ""}.`
      } ${this.left()} <button type="button" class="plain" aria-expanded=${this.keys} @click=${() => this.showKeys(!this.keys)}>Keys: ?</button></p>
      ${this.keys ? html`<dl class="keys">${KEYS.map(([key, does]) => html`<dt>${key}</dt><dd>${does}</dd>`)}</dl>` : ""}
      <div role="status" class="unseen"></div>
      <section class="text" aria-label="Text"><pellucid-strip .page=${page}></pellucid-strip></section>
      <section class="made" aria-label="Step by step"><pellucid-steps .page=${page}></pellucid-steps></section>
      ${page.other ? html`<section aria-label="Compared"><pellucid-compare .page=${page}></pellucid-compare></section>` : ""}
      <div class="columns">
        <section class="next" aria-label="Next token"><pellucid-next .page=${page}></pellucid-next></section>
        <section class="tower" aria-label="Layers"><pellucid-tower .page=${page}></pellucid-tower></section>
        <section aria-label="One head"><pellucid-head .page=${page}></pellucid-head></section>
        <section class="broad" aria-label="All heads"><pellucid-heads .page=${page}></pellucid-heads></section>
        <section class="broad" aria-label="Machine"><pellucid-machine .page=${page}></pellucid-machine></section>
      </div>`;
  }
}

customElements.define("pellucid-views", Views);
