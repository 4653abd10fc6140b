// All views of one text, with the line that tells what is chosen and the keys that work everywhere.
import { html } from "./vendor/lit.js";
import { parts, say } from "./strings.js";
import { fixed, listed, named, percent } from "./text.js";
import { View } from "./view.js";
import "./strip.js";
import "./next.js";
import "./tower.js";
import "./heads.js";
import "./head.js";
import "./machine.js";
import "./compare.js";
import "./steps.js";

const KEYS = /** @type {const} */ ([
  ["keysText", "keysTextDoes"], ["keysMap", "keysMapDoes"], ["keysStep", "keysStepDoes"], ["keysSampler", "keysSamplerDoes"],
  ["keysHelp", "keysHelpDoes"],
]);

export class Views extends View {
  constructor() {
    super();
    this.seen = true;
    this.keys = false;
    this.pressed = (/** @type {KeyboardEvent} */ event) => this.press(event);
    this.told = () => {
      for (const data of [this.data, this.page.other]) data?.again(); // what did not come
      this.tell();
    };
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
    const what = { at: now.at, token: named(data.token(now.at)), next: named(data.shown(p.ids[0])), share: percent(Math.exp(p.logits[0] - p.logSum)) };
    const said = Number.isNaN(bits) ? say("chosen", what) : say("chosenSurprise", { ...what, bits: fixed(bits, 1) });
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

  /** Which weights of heads the page has. */
  kept() {
    const kept = this.page.data.meta.kept.attention;
    if (kept === null) return say("keptThumbs");
    if (kept === undefined || (kept.share === 1 && !kept.most)) return "";
    const share = Math.round(100 * kept.share);
    return kept.most ? say("keptMost", { share, most: kept.most }) : say("keptShare", { share });
  }

  /** What else the page had no room for. */
  left() {
    const { pushed, neurons, candidates } = this.page.data.meta.kept;
    const all = [
      pushed ? say("leftPushed") : "",
      neurons ? say("leftNeurons") : "",
      candidates ? say("leftCandidates", { n: candidates }) : "",
    ].filter(Boolean);
    return all.length ? parts("leftAlso", { all: listed(all) }) : "";
  }

  draw() {
    const { page } = this;
    const { meta } = page.data;
    return html`
      <p class="quiet">${say("about", { n: meta.n, model: meta.model.name, layers: page.data.layers })} ${this.kept()} ${this.left()}
        <button type="button" class="plain" aria-expanded=${this.keys} @click=${() => this.showKeys(!this.keys)}>${say("keys")}</button></p>
      ${this.keys ? html`<dl class="keys">${KEYS.map(([key, does]) => html`<dt>${say(key)}</dt><dd>${say(does)}</dd>`)}</dl>` : ""}
      <div role="status" class="unseen"></div>
      <section class="text" aria-label=${say("areaText")}><pellucid-strip .page=${page}></pellucid-strip></section>
      <section class="made" aria-label=${say("areaSteps")}><pellucid-steps .page=${page}></pellucid-steps></section>
      ${page.other ? html`<section aria-label=${say("areaCompared")}><pellucid-compare .page=${page}></pellucid-compare></section>` : ""}
      <div class="columns">
        <section class="next" aria-label=${say("areaNext")}><pellucid-next .page=${page}></pellucid-next></section>
        <section class="tower" aria-label=${say("areaLayers")}><pellucid-tower .page=${page}></pellucid-tower></section>
        <section aria-label=${say("areaHead")}><pellucid-head .page=${page}></pellucid-head></section>
        <section class="broad" aria-label=${say("areaHeads")}><pellucid-heads .page=${page}></pellucid-heads></section>
        <section class="broad" aria-label=${say("areaMachine")}><pellucid-machine .page=${page}></pellucid-machine></section>
      </div>`;
  }
}

customElements.define("pellucid-views", Views);
