// The playground: a text, the sampler on the token that comes next, and up to eight continuations with fixed seeds.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { LiveSource, textOf } from "./api.js";
import { say } from "./appstrings.js";
import { Data } from "./data.js";
import { Drawn } from "./drawn.js";
import { server } from "./server.js";
import { opened } from "./state.js";
import "./next.js";

const WAIT = 500; // milliseconds without a change before the model is asked
const MOST = 8;

export class Playground extends LitElement {
  constructor() {
    super();
    this.text = say("playStart");
    this.count = 4;
    this.most = 24;
    /** @type {import("./view.js").Pair | null} */
    this.pair = null;
    /** @type {AbortController | null} */
    this.looking = null;
    this.failed = false; // the text could not be computed
    this.timer = 0;
    this.drawTimer = 0;
    this.draws = new Drawn(() => this.requestUpdate());
    this.drew = "";
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    server.addEventListener("change", () => this.requestUpdate());
    void this.look();
  }

  /** @param {string} text */
  write(text) {
    this.text = text;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), WAIT);
  }

  /** Computes the text; the sliders stay as they are. */
  async look() {
    clearTimeout(this.timer);
    this.looking?.abort();
    const looking = (this.looking = new AbortController());
    this.failed = false;
    this.requestUpdate();
    try {
      const data = new Data(await LiveSource.open({ prompt: this.text }, looking.signal));
      await data.start();
      if (looking.signal.aborted) return;
      const before = this.pair?.state.now;
      const state = opened(data, data.n - 1, false);
      if (before) state.go({ options: before.options, seed: before.seed });
      state.addEventListener("change", () => this.moved());
      const goOn = { from: 0, with: (/** @type {number} */ at, /** @type {number} */ id) => this.take(data.meta.ids.slice(0, at + 1), id) };
      this.pair = { data, state, goOn };
      server.say("");
      this.moved();
    } catch (error) {
      if (!looking.signal.aborted) {
        this.failed = true;
        server.fail(error);
      }
    }
    if (this.looking === looking) this.looking = null;
    this.requestUpdate();
  }

  /** @param {number[]} ids @param {number} id */
  async take(ids, id) {
    try {
      this.text = await textOf([...ids, id]);
      await this.look();
    } catch (error) {
      server.fail(error);
    }
  }

  /** After the first time, what changes a draw draws again. */
  moved() {
    if (this.draws.draws.length === 0 || this.drew === this.key()) return;
    clearTimeout(this.drawTimer);
    this.drawTimer = setTimeout(() => this.draw(), WAIT);
  }

  key() {
    const now = this.pair?.state.now;
    return JSON.stringify([this.text, this.count, this.most, now?.options, now?.seed]);
  }

  async draw() {
    if (this.pair === null) return;
    this.drew = this.key();
    const { options, seed } = this.pair.state.now;
    const prompt = this.pair.data.meta.ids;
    const first = BigInt(/^\d{1,20}$/.test(seed) ? seed : "0");
    const wanted = Array.from({ length: this.count }, (_, i) => {
      const own = Number(BigInt.asUintN(53, first + BigInt(i)));
      return { label: say("playSeed", { seed: own }), request: { prompt, max_tokens: this.most, ...options, seed: own } };
    });
    const failure = await this.draws.run(wanted);
    if (failure) server.fail(failure);
  }

  render() {
    const { pair, draws } = this;
    return html`<section aria-label=${say("areaText")}><h2>${say("appPlayground")}</h2>
        <textarea aria-label=${say("theText")} rows="4" .value=${this.text} @input=${(/** @type {any} */ e) => this.write(e.target.value)}></textarea>
        <p class="quiet" role="status">${this.looking ? say("playReads") : pair ? say("playTokens", { n: pair.data.n }) : ""}</p>
        ${this.failed ? html`<button type="button" @click=${() => this.look()}>${say("again")}</button>` : nothing}</section>
      <div class="columns">
        <section aria-label=${say("areaNext")}>${pair ? html`<pellucid-next .page=${pair}></pellucid-next>` : html`<h2>${say("nextTitle")}</h2>`}</section>
        <section class="beside" aria-label=${say("playContinuations")}><h2>${say("playContinuations")}</h2>
          <div class="row"><label>${say("playMany")} <input type="range" min="1" max=${MOST} .value=${String(this.count)} @input=${(/** @type {any} */ e) => { this.count = Number(e.target.value); this.moved(); this.requestUpdate(); }}> <output>${this.count}</output></label>
            <label>${say("tokensMost")} <input type="number" min="1" max="512" .value=${String(this.most)} @change=${(/** @type {any} */ e) => { this.most = Math.min(Math.max(Math.trunc(Number(e.target.value)) || 1, 1), 512); this.moved(); this.requestUpdate(); }}></label>
            ${draws.running ? html`<button type="button" @click=${() => draws.stop()}>${say("stop")}</button>` : html`<button type="button" ?disabled=${pair === null} @click=${() => this.draw()}>${say("playDraw")}</button>`}</div>
          <p class="quiet">${say("playSeeds")}</p>
          ${draws.shown((draw) => (draw.text ? html`<button type="button" @click=${() => { this.text += draw.text; void this.look(); }}>${say("playTake")}</button>` : nothing))}
        </section>
      </div>`;
  }
}

customElements.define("pellucid-playground", Playground);
