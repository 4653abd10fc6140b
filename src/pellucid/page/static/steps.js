// How a token was made, one step after another, with its own numbers. Nothing moves by itself.
import { html } from "./vendor/lit.js";
import { NEURON } from "./data.js";
import { passRows } from "./passes.js";
import { sample } from "./sampler.js";
import { numeral } from "./say.js";
import { parts, say } from "./strings.js";
import { fixed, listed, named, percent, signed, size } from "./text.js";
import { bdi, cells, View } from "./view.js";

const STEP_NAMES = /** @type {const} */ (["step1", "step2", "step3", "step4", "step5", "step6", "step7", "step8", "step9", "step10"]);

/** Where docs/looking-inside.md tells more of each. */
const CHAPTERS = /** @type {const} */ ([
  "chapter1", "chapter2", "chapter3", "chapter4", "chapter4", "chapter6", "chapter7", "chapter8", "chapter9", "chapter10",
]);

const LARGEST = 4; // numbers of the embedding that are named

export class StepByStep extends View {
  depends() {
    return { chosen: ["at", "layer", "head", "target", "step", "options", "seed"], blocks: [this.data.map(this.now.layer, this.now.head), "lens-ids", "lens-p", "lengths", "base-push", "att-push", "mlp-push", "head-push", "near-row", "near-ids", "near-cosines", ...NEURON] };
  }

  draw() {
    const { now } = this;
    const shown = [
      () => this.tokens(), () => this.embedding(), () => this.stack(), () => this.scoring(), () => this.combining(),
      () => this.feedForward(), () => this.head(), () => this.choosing(), () => this.passes(), () => this.cache(),
    ];
    return html`
      <h2>${parts("stepsTitle", { token: this.name(now.at) })}</h2>
      <div class="row">
        <button type="button" ?disabled=${now.step === 0} @click=${() => this.go({ step: now.step - 1 })}>${say("stepsBack")}</button>
        <label>${say("stepsStep")} <select @change=${(/** @type {any} */ e) => this.go({ step: Number(e.target.value) })}>
          ${STEP_NAMES.map((name, i) => html`<option value=${i} .selected=${i === now.step}>${say("stepsNumber", { number: i + 1, name: say(name) })}</option>`)}</select></label>
        <button type="button" ?disabled=${now.step === STEP_NAMES.length - 1} @click=${() => this.go({ step: now.step + 1 })}>${say("stepsNext")}</button>
      </div>
      <div class="step" aria-live="polite"><h3>${say(STEP_NAMES[now.step])}</h3>${shown[now.step]()}</div>
      <p class="quiet">${say("stepsMore", { chapter: say(CHAPTERS[now.step]) })}</p>`;
  }

  /** @param {number} at */
  name(at) {
    return this.said(this.data.meta.ids[at]);
  }

  /** @param {number} id */
  said(id) {
    return html`<strong>${bdi(named(this.data.shown(id)))}</strong>`;
  }

  get target() {
    return this.data.targets(this.now.at)[this.now.target];
  }

  tokens() {
    const { data, now } = this;
    const id = data.meta.ids[now.at];
    const bytes = data.bytes(id).join(" ");
    return html`<p>${parts("tokensCut", { n: data.n, vocab: numeral(data.meta.model.vocab), at: now.at, token: this.name(now.at), id, bytes: bytes || say("tokensNone") })}</p>
      <p>${this.surprise()}</p>`;
  }

  /** How the token was foreseen. */
  surprise() {
    const { data, now } = this;
    const surprise = data.surprise(now.at);
    if (Number.isNaN(surprise)) return say("tokensFirst");
    const [share, bits, n] = [percent(2 ** -surprise), fixed(surprise, 1), data.need("ranks")[now.at - 1] - 1];
    return n ? say("tokensRank", { share, bits, n }) : say("tokensBest", { share, bits });
  }

  embedding() {
    const { data, now } = this;
    const [best] = data.lens(0, now.at);
    const [push] = data.basePush(now.at, now.target);
    return html`<p>${parts("embeddingRow", { dim: data.meta.model.dim, length: fixed(data.length(0, 0, now.at), 2), stream: html`<em>${say("residualStream")}</em>` })}</p>
      ${this.near()}
      <p>${parts("embeddingSays", { says: best ? this.said(best.id) : say("wait"), target: this.said(this.target), push: signed(push) })}</p>`;
  }

  /** The row, and tokens whose rows point the same way; the page has those of one position. */
  near() {
    const { data, now } = this;
    const [row, ids, cosines] = [data.use("near-row"), data.use("near-ids"), data.use("near-cosines")];
    if (!row || !ids || !cosines) return "";
    if (now.at !== data.meta.hand) return html`<p class="quiet">${parts("embeddingNearAt", { at: data.meta.hand, button: html`<button type="button" class="plain" @click=${() => this.go({ at: data.meta.hand })}>${say("embeddingShow")}</button>` })}</p>`;
    const tokens = Array.from(ids, (id, i) => parts("embeddingCosine", { token: this.said(id), cosine: fixed(cosines[i], 2) }));
    const largest = Array.from(row, (value, i) => ({ value, i })).sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, LARGEST);
    const some = largest.map(({ value, i }) => say("embeddingNumber", { value: signed(value, 3), i }));
    return html`<p>${parts("embeddingNumbers", { numbers: listed(some) })}</p>${cells(row)}
      <p>${parts("embeddingNear", { tokens: listed(tokens) })}</p>`;
  }

  stack() {
    const { data, now } = this;
    const changes = [];
    let last = -1;
    for (let after = 0; after <= data.layers; after++) {
      const [best] = data.lens(after, now.at);
      if (best && best.id !== last) changes.push({ after, ...best });
      last = best?.id ?? -1;
    }
    return html`<p>${say("stackLayers", { layers: data.layers, n: Math.max(changes.length - 1, 0) })}</p>
      <ol>${changes.slice(-8).map((one) => html`<li>${parts("stackAfter", { place: one.after ? this.place(one.after - 1) : say("stackEmbedding"), token: this.said(one.id), share: percent(one.p) })}</li>`)}</ol>`;
  }

  /** A layer, to choose. @param {number} layer */
  place(layer) {
    return html`<button type="button" class="plain" @click=${() => this.go({ layer })}>${say("stackLayer", { layer })}</button>`;
  }

  /** The head that pushes most. */
  strongest() {
    const { data, now } = this;
    let found = { layer: 0, head: 0, push: 0 };
    for (let layer = 0; layer < data.layers; layer++) {
      for (let head = 0; head < data.heads; head++) {
        const push = data.headPush(now.at, now.target, layer, head) || 0;
        if (Math.abs(push) > Math.abs(found.push)) found = { layer, head, push };
      }
    }
    return found;
  }

  scoring() {
    const { data, now } = this;
    const best = this.strongest();
    const window = data.meta.windows[now.layer];
    const row = data.hasMap(now.layer) ? data.row(now.layer, now.head, now.at) : undefined;
    const looks = row ? Array.from(row, (w, i) => ({ w, i })).sort((a, b) => b.w - a.w).slice(0, 4).filter((one) => one.w > 0) : [];
    const words = { query: html`<em>${say("query")}</em>`, key: html`<em>${say("key")}</em>` };
    const tokens = listed(looks.map((one) => parts("tokenWeight", { token: this.name(one.i), share: percent(one.w) })));
    return html`<p>${window > 0 ? parts("scoringWindow", { ...words, window }) : parts("scoringAll", words)}</p>
      <p>${looks.length ? parts("scoringLooks", { layer: now.layer, head: now.head, tokens }) : say("scoringUnkept", { layer: now.layer, head: now.head })}
      ${best.push === 0 ? say("scoringNone") : best.layer === now.layer && best.head === now.head ? say("scoringThis") : this.best(best)}</p>`;
  }

  /** @param {{layer: number, head: number, push: number}} found */
  best({ layer, head, push }) {
    const button = html`<button type="button" class="plain" @click=${() => this.go({ layer, head })}>${say("layerHead", { layer, head })}</button>`;
    return parts("scoringBest", { token: this.said(this.target), head: button, push: signed(push) });
  }

  combining() {
    const { data, now } = this;
    const kv = data.meta.kv_heads[now.layer] || data.heads;
    const each = Array.from({ length: data.heads }, (_, head) => ({ head, push: data.headPush(now.at, now.target, now.layer, head) }));
    const heads = each.map(({ head, push }) => html`<button type="button" class="plain" aria-pressed=${head === now.head} @click=${() => this.go({ head })}>${say("combiningHead", { head, push: signed(push) })}</button>`);
    const shared = data.heads / kv; // heads that read the same keys and values stand together
    const groups = Array.from({ length: kv }, (_, i) => html`<span class="group">${listed(heads.slice(i * shared, (i + 1) * shared))}</span>`);
    return html`<p>${parts("combiningSum", { values: html`<em>${say("values")}</em>` })}
      ${shared > 1 ? say("combiningShared", { n: shared }) : ""}</p>
      <p>${parts("combiningPush", { layer: now.layer, token: this.said(this.target), push: signed(data.push("att-push", now.at, now.target, now.layer)) })}</p>
      <p class="groups">${shared > 1 ? groups : listed(heads)}</p>`;
  }

  feedForward() {
    const { data, now } = this;
    const all = [];
    for (let layer = 0; layer < data.layers; layer++) for (const one of data.neurons(now.at, layer)) all.push({ layer, ...one });
    all.sort((a, b) => Math.abs(b.push) - Math.abs(a.push));
    const { ff } = data.meta.model;
    const what = { layer: now.layer, token: this.said(this.target), push: signed(data.push("mlp-push", now.at, now.target, now.layer)) };
    return html`<p>${ff ? parts("neuronsCount", { ff, ...what }) : parts("neuronsIts", what)}</p>
      ${all.length ? html`<p>${parts("neuronsBest", { token: this.said(data.targets(now.at)[0]) })}</p>
      <ol>${all.slice(0, 5).map(({ layer, neuron, act, push }) => html`<li>${parts("neuronsOne", { layer: this.place(layer), neuron, act: fixed(act, 2), push: signed(push) })}</li>`)}</ol>`
        : html`<p>${say("neuronsExperts")}</p>`}`;
  }

  head() {
    const { data, now } = this;
    const p = data.prediction(now.at);
    return html`<p>${parts("headProduct", { logit: html`<em>${say("logit")}</em>`, sum: fixed(p.logSum, 2) })}</p>
      <table><thead><tr><th scope="col">${say("token")}</th><th scope="col">${say("logit")}</th><th scope="col">${say("probability")}</th></tr></thead>
      <tbody>${Array.from(p.ids).slice(0, 5).map((id, i) => html`<tr><th scope="row">${bdi(named(data.shown(id)))}</th><td>${fixed(p.logits[i], 2)}</td><td>e<sup>${fixed(p.logits[i] - p.logSum, 2)}</sup> = ${percent(Math.exp(p.logits[i] - p.logSum))}</td></tr>`)}</tbody></table>`;
  }

  choosing() {
    const { data, now } = this;
    const number = Math.max(now.at + 1 - data.meta.prompt, 0);
    const found = sample(data.prediction(now.at), now.options, {
      past: data.meta.ids.slice(0, now.at + 1), breaks: data.need("dry-breaks").subarray(0, now.at + 1), number,
      seed: BigInt.asUintN(64, BigInt(now.seed || "0")), vocab: Number(data.meta.model.vocab), forbidden: data.meta.suppressed,
    });
    const id = found.drawn?.id;
    const steps = found.steps.map((step) => say("choosingLeft", { step: step.name, n: numeral(step.kept) })).join(say("choosingThen"));
    const what = { seed: now.seed, u: fixed(found.drawn?.u ?? 0, 4) };
    return html`<p>${say("choosingSteps", { steps })}</p>
      <p>${id === null || id === undefined ? say("choosingBeyond", what) : parts("choosingFalls", { ...what, token: this.said(id) })}</p>`;
  }

  passes() {
    const { data } = this;
    const made = data.n - data.meta.prompt;
    return html`<p>${say(made ? "passesMade" : "passesPrompt")}</p>${passRows(data)}`;
  }

  cache() {
    const { data, now } = this;
    const at = now.at + 1;
    const held = data.meta.cache.map((one) => one.bytes_per_token * (one.window ? Math.min(one.window, at) : at)).reduce((a, b) => a + b, 0);
    const more = data.meta.cache.reduce((sum, one) => sum + one.bytes_per_token, 0);
    return html`<p>${say("cacheKept", { held: size(held), more: size(more) })} ${say("cacheWithout", { n: at })}</p>
      <p>${say("cacheContext", { context: numeral(data.meta.model.context), used: numeral(data.n) })}</p>`;
  }
}

customElements.define("pellucid-steps", StepByStep);
