// Edits of the model: a list of changes, what they do to a text, and the Python that makes the same. The model as it is
// always stands beside.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { CallError, edited, LiveSource } from "./api.js";
import { say } from "./appstrings.js";
import { Data } from "./data.js";
import { Drawn } from "./drawn.js";
import { server } from "./server.js";
import { opened } from "./state.js";
import { named, percent } from "./text.js";
import { bdi } from "./view.js";
import "./views.js";

/** @typedef {Record<string, any> & {kind: string}} Change */
/** @typedef {{on: boolean, change: Change}} Entry */

const WAIT = 400; // milliseconds without a change before the model is asked
const SHOWN = 8;
const KINDS = /** @type {const} */ ([["head", "editsHead"], ["skip", "editsSkip"], ["direction", "editsDirection"], ["patch", "editsPatch"]]);

/** What a change does, in words. @param {Change} one @returns {string} */
function told(one) {
  const { layer, head, factor, strength, to, away, position, from, text } = one;
  if (one.kind === "head") return say("editedHead", { layer, head, factor });
  if (one.kind === "skip") return say(one.part === "mlp" ? "editedMlp" : "editedAttention", { layer });
  const start = layer === "embeddings";
  if (one.kind === "direction") return start ? say("editedDirectionStart", { strength, to, away }) : say("editedDirection", { layer, strength, to, away });
  return start ? say("editedPatchStart", { position, from, text }) : say("editedPatch", { layer, position, from, text });
}

export class Edits extends LitElement {
  constructor() {
    super();
    this.text = say("playStart");
    this.chat = false;
    this.most = 16;
    /** @type {Entry[]} */
    this.list = [];
    this.kind = "head";
    this.python = "";
    this.copied = false;
    /** @type {import("./view.js").Pair | null} */
    this.pair = null;
    /** @type {AbortController | null} */
    this.running = null;
    this.failed = false; // the text could not be computed
    this.timer = 0;
    this.draws = new Drawn(() => this.requestUpdate());
    /** @type {{key: string, data: Data} | null} the model as it is, on the text */
    this.plain = null;
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    server.addEventListener("change", () => this.requestUpdate());
    void this.run();
  }

  get what() {
    return this.chat ? { messages: [{ role: "user", content: this.text }] } : { prompt: this.text };
  }

  later() {
    this.requestUpdate();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), WAIT);
  }

  /** Computes the text without and with the changes that are on. */
  async run() {
    clearTimeout(this.timer);
    this.running?.abort();
    const running = (this.running = new AbortController());
    const { signal } = running;
    this.failed = false;
    this.requestUpdate();
    try {
      const { what } = this;
      const key = JSON.stringify(what);
      if (this.plain?.key !== key) this.plain = { key, data: await this.look(what, signal) };
      const list = this.list.filter((one) => one.on).map((one) => one.change);
      const made = list.length ? await edited(list, signal) : { id: "", python: "" };
      const data = list.length ? await this.look({ ...what, edits: made.id }, signal) : this.plain.data;
      if (signal.aborted) return;
      [this.python, this.copied] = [made.python, false];
      this.show(data, this.plain.data);
      server.say("");
      /** @type {Record<string, any>} */
      const common = { ...what, max_tokens: this.most, temperature: 0 };
      const wanted = [{ label: say("editsPlain"), request: common }];
      if (list.length) wanted.push({ label: say("editsWith"), request: { ...common, pellucid_edits: made.id } });
      void this.draws.run(wanted).then((failure) => failure && server.fail(failure));
    } catch (error) {
      if (!signal.aborted) {
        this.failed = true;
        if (error instanceof CallError && error.lost) this.plain = null;
        server.fail(error);
      }
    }
    if (this.running === running) this.running = null;
    this.requestUpdate();
  }

  /** @param {object} what @param {AbortSignal} signal */
  async look(what, signal) {
    const data = new Data(await LiveSource.open(what, signal));
    await data.start();
    return data;
  }

  /** @param {Data} data @param {Data} plain */
  show(data, plain) {
    const before = this.pair?.state.now;
    const at = data.n - 1;
    const state = opened(data, at, false);
    if (before) state.go({ layer: before.layer, head: before.head, options: before.options, seed: before.seed, root: before.root });
    state.addEventListener("change", () => this.requestUpdate());
    data.meta.against = { ids: plain.meta.ids, edited: true };
    this.pair = data === plain ? { data, state } : { data, state, other: plain };
    if (data !== plain) plain.addEventListener("block", () => data.dispatchEvent(new Event("block")));
  }

  /** @param {SubmitEvent} event */
  add(event) {
    event.preventDefault();
    const given = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
    const number = (/** @type {string} */ name) => Number(given.get(name));
    const text = (/** @type {string} */ name) => String(given.get(name) ?? "");
    const layer = given.get("layer") === "embeddings" ? "embeddings" : number("layer");
    const { kind } = this;
    /** @type {Change} */
    const change = kind === "head" ? { kind, layer, head: number("head"), factor: 0 }
      : kind === "skip" ? { kind, layer, part: text("part") }
      : kind === "direction" ? { kind, layer, to: text("to"), away: text("away"), strength: number("strength") }
      : { kind, layer, text: text("text"), position: number("position"), from: number("from") };
    this.list.push({ on: true, change });
    this.later();
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.python);
      this.copied = true;
    } catch {
      const shown = this.querySelector(".python code");
      if (shown) getSelection()?.selectAllChildren(shown);
    }
    this.requestUpdate();
  }

  // ---- what is shown

  render() {
    const { pair } = this;
    return html`<div class="columns">
        <section aria-label=${say("editsAsked")}><h2>${say("editsText")}</h2>
          <textarea aria-label=${say("theText")} rows="3" .value=${this.text} @input=${(/** @type {any} */ e) => { this.text = e.target.value; this.later(); }}></textarea>
          <div class="row"><label><input type="checkbox" .checked=${this.chat} @change=${(/** @type {any} */ e) => { this.chat = e.target.checked; this.later(); }}> ${say("editsMessage")}</label>
            <label>${say("editsNew")} <input type="number" min="1" max="256" .value=${String(this.most)} @change=${(/** @type {any} */ e) => { this.most = Math.min(Math.max(Math.trunc(Number(e.target.value)) || 1, 1), 256); this.later(); }}></label></div>
          <p class="quiet" role="status">${this.running ? say("editsComputes") : ""}</p>
          ${this.failed ? html`<button type="button" @click=${() => this.run()}>${say("again")}</button>` : nothing}
          ${pair ? this.next() : nothing}</section>
        <section aria-label=${say("appEdits")}><h2>${say("appEdits")}</h2>${this.entries()}${pair ? this.form() : nothing}</section>
        <section class="broad" aria-label=${say("editsAnswers")}><h2>${say("editsLikeliest")}</h2>${this.draws.shown()}</section>
        <section class="broad" aria-label=${say("editsPython")}><div class="row"><h2>${say("editsPython")}</h2><button type="button" ?disabled=${!this.python} @click=${() => this.copy()}>${say("editsCopy")}</button>
          <span role="status">${this.copied ? say("editsCopied") : ""}</span></div><pre class="python" tabindex="0" role="region" aria-label=${say("editsProgram")}><code>${this.python}</code></pre></section>
      </div>
      ${pair ? html`<pellucid-views .page=${pair}></pellucid-views>` : nothing}`;
  }

  /** The next token, without and with the edits. */
  next() {
    const { data, other } = /** @type {import("./view.js").Pair} */ (this.pair);
    const shares = [other ?? data, data].map((one) => {
      const p = one.prediction(one.n - 1);
      return new Map(Array.from(p.ids, (id, i) => [id, Math.exp(p.logits[i] - p.logSum)]));
    });
    const most = (/** @type {number} */ id) => Math.max(...shares.map((one) => one.get(id) ?? 0));
    const ids = [...new Set(shares.flatMap((one) => [...one.keys()].slice(0, SHOWN)))].sort((a, b) => most(b) - most(a)).slice(0, SHOWN);
    const cell = (/** @type {number} */ p) => html`<td><span class="bar model" .style=${`--share:${p.toFixed(4)}`}></span>${percent(p)}</td>`;
    return html`<table class="candidates edited"><caption>${say("editsNext")}</caption>
      <thead><tr><th scope="col">${say("token")}</th><th scope="col">${say("editsBefore")}</th><th scope="col">${say("editsAfter")}</th></tr></thead>
      <tbody>${ids.map((id) => html`<tr><th scope="row">${bdi(named((other ?? data).piece(id) === `[${id}]` ? data.piece(id) : (other ?? data).piece(id)))}</th>
        ${cell(shares[0].get(id) ?? 0)}${other ? cell(shares[1].get(id) ?? 0) : html`<td></td>`}</tr>`)}</tbody></table>`;
  }

  entries() {
    if (!this.list.length) return html`<p class="quiet">${say("editsNone")}</p>`;
    return html`<ul class="changes">${this.list.map((one, i) => html`<li>
      <label><input type="checkbox" .checked=${one.on} @change=${(/** @type {any} */ e) => { one.on = e.target.checked; this.later(); }}> ${told(one.change)}</label>
      ${one.change.kind === "head" ? html`<input type="range" min="0" max="2" step="0.05" aria-label=${say("editsFactor", { layer: one.change.layer, head: one.change.head })} .value=${String(one.change.factor)}
        @input=${(/** @type {any} */ e) => { one.change.factor = Number(e.target.value); this.later(); }}>` : nothing}
      ${one.change.kind === "direction" ? html`<input type="range" min="-4" max="4" step="0.1" aria-label=${say("editsStrengthOf", { edit: told(one.change) })} .value=${String(one.change.strength)}
        @input=${(/** @type {any} */ e) => { one.change.strength = Number(e.target.value); this.later(); }}>` : nothing}
      <button type="button" aria-label=${say("editsRemove", { edit: told(one.change) })} @click=${() => { this.list.splice(i, 1); this.later(); }}>×</button></li>`)}</ul>`;
  }

  /** What is added, at the layer and head that are chosen in the views. */
  form() {
    const { data, state: { now } } = /** @type {import("./view.js").Pair} */ (this.pair);
    const layers = Array.from({ length: data.layers }, (_, i) => String(i));
    const stream = this.kind === "direction" || this.kind === "patch";
    const layer = html`<label>${say("editsLayer")} <select name="layer">${(stream ? ["embeddings", ...layers] : layers).map((one) => html`<option value=${one} .selected=${one === String(now.layer)}>${one === "embeddings" ? say("editsEmbeddings") : one}</option>`)}</select></label>`;
    const token = (/** @type {string} */ name, /** @type {string} */ label, /** @type {number} */ value, /** @type {number | null} */ most) =>
      html`<label>${label} <input type="number" name=${name} min="0" max=${most ?? nothing} required .value=${String(value)}></label>`;
    const text = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string} */ value) => html`<label>${label} <input name=${name} required .defaultValue=${value}></label>`;
    const fields = {
      head: () => token("head", say("editsHeadNumber"), now.head, data.heads - 1),
      skip: () => html`<label>${say("editsPart")} <select name="part"><option value="attention">${say("editsPartAttention")}</option><option value="mlp">${say("editsPartMlp")}</option></select></label>`,
      direction: () => html`${text("to", say("editsTowards"), say("editsTowardsText"))}${text("away", say("editsAway"), say("editsAwayText"))}<label>${say("editsStrength")} <input type="number" name="strength" min="-100" max="100" step="any" .defaultValue=${"1"}></label>`,
      patch: () => html`${text("text", say("editsOther"), say("editsOtherText"))}${token("position", say("editsHere"), now.at, data.n - 1)}${token("from", say("editsThere"), now.at, null)}`,
    }[/** @type {"head"} */ (this.kind)];
    return html`<form class="adds" @submit=${(/** @type {SubmitEvent} */ event) => this.add(event)}>
      <div class="row"><label>${say("editsKind")} <select @change=${(/** @type {any} */ e) => { this.kind = e.target.value; this.requestUpdate(); }}>${KINDS.map(([name, text]) => html`<option value=${name} .selected=${name === this.kind}>${say(text)}</option>`)}</select></label>
        ${layer}${fields()}<button type="submit">${say("editsAdd")}</button></div>
      <p class="quiet">${say("editsHint")}</p></form>`;
  }
}

customElements.define("pellucid-edits", Edits);
