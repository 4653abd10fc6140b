// All heads as small maps, sorted by what they do.
import { html } from "./vendor/lit.js";
import { AMOUNT_TABLE } from "./colour.js";
import { THUMB } from "./data.js";
import { parts, say } from "./strings.js";
import { fixed, listed, signed } from "./text.js";
import { View } from "./view.js";

const GAP = 4;
const SIZE = THUMB + GAP;

/** @typedef {keyof typeof import("./strings.js").STRINGS} Text */
/** @type {Record<string, Extract<Text, `sort${string}`>>} */
const SORTS = {
  place: "sortPlace", first: "sortFirst", previous: "sortPrevious", same: "sortSame", induction: "sortInduction",
  entropy: "sortEntropy", distance: "sortDistance", push: "sortPush",
};

/** The names of meta.scores. @type {Record<string, Extract<Text, `score${string}`>>} */
const SCORES = {
  first: "scoreFirst", previous: "scorePrevious", same: "scoreSame", induction: "scoreInduction", entropy: "scoreEntropy",
  distance: "scoreDistance",
};

export class Heads extends View {
  depends() {
    return { chosen: ["target", "layer", "head", "sort", "least", "at"], blocks: ["thumbs", "head-scores", "head-push"] };
  }

  draw() {
    const { data, now } = this;
    const order = this.order();
    const columns = this.columns();
    const rows = Math.ceil(order.length / columns);
    const scores = listed(data.meta.scores.map((name) => `${this.scored(name)} ${fixed(data.score(name, now.layer, now.head), 2)}`)).join("");
    const slider = html`<input type="range" min="0" max="100" ?disabled=${now.sort === "place"} .value=${String(now.least)}
          @input=${(/** @type {any} */ e) => this.go({ least: Number(e.target.value) })}>`;
    const push = (/** @type {number} */ layer, /** @type {number} */ head) => signed(data.headPush(now.at, now.target, layer, head));
    return html`
      <h2>${say("headsTitle")}</h2>
      <div class="row">
        <label>${say("headsOrder")} <select @change=${(/** @type {any} */ e) => this.go({ sort: e.target.value })}>
          ${Object.entries(SORTS).map(([name, text]) => html`<option value=${name} .selected=${name === now.sort}>${say(text)}</option>`)}
        </select></label>
        <label>${parts("headsLeast", { slider, share: html`<output>${now.least}</output>` })}</label>
        ${this.number(say("headsLayer"), "layer", data.layers)} ${this.number(say("headsHead"), "head", data.heads)}
      </div>
      <div class="scroll"><canvas class="thumbs" width=${columns * SIZE} height=${rows * SIZE} tabindex="0" role="img"
        aria-label=${say("headsMaps", { layer: now.layer, head: now.head, scores })}
        .style=${`width:${columns * SIZE}px;height:${rows * SIZE}px`}
        @click=${this.pick} @keydown=${this.press}></canvas></div>
      ${this.table(say("headsTable", { n: order.length, order: say(SORTS[now.sort] ?? SORTS.place) }), [say("headsNumber"), ...data.meta.scores.map((name) => this.scored(name)), say("headsPushed")], () => order.map(([layer, head]) => [
        html`<button type="button" class="plain" @click=${() => this.go({ layer, head })}>${layer}.${head}</button>`,
        ...data.meta.scores.map((name) => fixed(data.score(name, layer, head), 2)), push(layer, head)]))}
      <p class="quiet">${say("headsChosen", { layer: now.layer, head: now.head, push: push(now.layer, now.head), scores })}
        ${now.sort === "place" ? say("headsPlaces") : say("headsSorted", { shown: order.length, all: data.layers * data.heads })}</p>`;
  }

  /** @param {string} name one of meta.scores */
  scored(name) {
    return name in SCORES ? say(SCORES[name]) : name;
  }

  /** @param {string} label @param {"layer" | "head"} name @param {number} count */
  number(label, name, count) {
    return html`<label>${label} <input type="number" min="0" max=${count - 1} .value=${String(this.now[name])}
      @change=${(/** @type {any} */ e) => this.go({ [name]: Number(e.target.value) })}></label>`;
  }

  columns() {
    return this.now.sort === "place" ? this.data.layers : Math.max(Math.min(Math.floor((this.clientWidth || 400) / SIZE), 32), 4);
  }

  /** @returns {[number, number][]} */
  order() {
    const { data, now } = this;
    /** @type {[number, number][]} */
    const all = [];
    for (let head = 0; head < data.heads; head++) for (let layer = 0; layer < data.layers; layer++) all.push([layer, head]);
    if (now.sort === "place" || !(now.sort in SORTS)) return all;
    const value = (/** @type {[number, number]} */ [layer, head]) =>
      (now.sort === "push" ? Math.abs(data.headPush(now.at, now.target, layer, head)) : data.score(now.sort, layer, head)) || 0;
    const found = all.map((one) => ({ one, value: value(one) })).sort((a, b) => b.value - a.value);
    const least = (found[0].value * now.least) / 100;
    return found.filter((one) => one.value >= least).map(({ one }) => one);
  }

  drawn() {
    const { data, now } = this;
    const canvas = /** @type {HTMLCanvasElement | null} */ (this.querySelector("canvas.thumbs"));
    if (canvas === null || data.use("thumbs") === undefined) return;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const columns = this.columns();
    const order = this.order();
    const made = `${columns} ${order}`;
    if (this.made !== made) {
      this.made = made;
      this.image = this.maps(context.createImageData(canvas.width, canvas.height), order, columns);
    }
    context.putImageData(/** @type {ImageData} */ (this.image), 0, 0);
    const at = order.findIndex(([layer, head]) => layer === now.layer && head === now.head);
    context.strokeStyle = getComputedStyle(this).caretColor;
    context.lineWidth = 2;
    if (at >= 0) context.strokeRect((at % columns) * SIZE + 1, Math.floor(at / columns) * SIZE + 1, SIZE - 2, SIZE - 2);
  }

  made = "";
  /** @type {ImageData | undefined} */
  image = undefined;

  /** @param {ImageData} image @param {[number, number][]} order @param {number} columns */
  maps(image, order, columns) {
    const { data } = this;
    const cells = Math.min(data.n, THUMB); // fewer tokens fill a part of a thumbnail
    order.forEach(([layer, head], i) => {
      const [left, top] = [(i % columns) * SIZE, Math.floor(i / columns) * SIZE];
      const codes = data.thumb(layer, head);
      if (codes === undefined) return;
      for (let y = 0; y < THUMB; y++) {
        for (let x = 0; x < THUMB; x++) {
          const code = codes[Math.floor((y * cells) / THUMB) * THUMB + Math.floor((x * cells) / THUMB)];
          const to = 4 * ((top + GAP / 2 + y) * image.width + left + GAP / 2 + x);
          for (let i = 0; i < 4; i++) image.data[to + i] = AMOUNT_TABLE[4 * code + i];
        }
      }
    });
    return image;
  }

  /** @param {number} i */
  choose(i) {
    const found = this.order()[i];
    if (found) this.go({ layer: found[0], head: found[1] });
  }

  /** @param {MouseEvent} event */
  pick(event) {
    const box = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
    this.choose(Math.floor((event.clientY - box.top) / SIZE) * this.columns() + Math.floor((event.clientX - box.left) / SIZE));
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const columns = this.columns();
    const order = this.order();
    const at = order.findIndex(([layer, head]) => layer === this.now.layer && head === this.now.head);
    /** @type {Record<string, number>} */
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: order.length - 1 };
    if (!(event.key in to)) return;
    event.preventDefault();
    this.choose(to[event.key]);
  }
}

customElements.define("pellucid-heads", Heads);
