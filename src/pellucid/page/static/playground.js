// The playground: a text, the sampler on the token that comes next, and up to eight continuations with fixed seeds.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { LiveSource, textOf } from "./api.js";
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
    this.text = "The capital of France is";
    this.count = 4;
    this.most = 24;
    /** @type {import("./view.js").Pair | null} */
    this.pair = null;
    /** @type {AbortController | null} */
    this.looking = null;
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
      if (!looking.signal.aborted) server.fail(error);
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
      return { label: `Seed ${own}`, request: { prompt, max_tokens: this.most, ...options, seed: own } };
    });
    const failure = await this.draws.run(wanted);
    if (failure) server.fail(failure);
  }

  render() {
    const { pair, draws } = this;
    return html`<section aria-label="Text"><h2>Playground</h2>
        <textarea aria-label="The text" rows="4" .value=${this.text} @input=${(/** @type {any} */ e) => this.write(e.target.value)}></textarea>
        <p class="quiet" role="status">${this.looking ? "The model reads the text…" : pair ? `${pair.data.n} tokens.` : ""}</p></section>
      <div class="columns">
        <section aria-label="Next token">${pair ? html`<pellucid-next .page=${pair}></pellucid-next>` : html`<h2>Next token</h2>`}</section>
        <section class="beside" aria-label="Continuations"><h2>Continuations</h2>
          <div class="row"><label>How many <input type="range" min="1" max=${MOST} .value=${String(this.count)} @input=${(/** @type {any} */ e) => { this.count = Number(e.target.value); this.moved(); this.requestUpdate(); }}> <output>${this.count}</output></label>
            <label>Tokens at most <input type="number" min="1" max="512" .value=${String(this.most)} @change=${(/** @type {any} */ e) => { this.most = Math.min(Math.max(Math.trunc(Number(e.target.value)) || 1, 1), 512); this.moved(); this.requestUpdate(); }}></label>
            ${draws.running ? html`<button type="button" @click=${() => draws.stop()}>Stop</button>` : html`<button type="button" ?disabled=${pair === null} @click=${() => this.draw()}>Draw</button>`}</div>
          <p class="quiet">Their seeds follow the one beside the sliders and stay as they are: what changes when a slider moves, the slider has changed.</p>
          ${draws.shown((draw) => (draw.text ? html`<button type="button" @click=${() => { this.text += draw.text; void this.look(); }}>Take it over</button>` : nothing))}
        </section>
      </div>`;
  }
}

customElements.define("pellucid-playground", Playground);
