// How a token was made, one step after another, with its own numbers. Nothing moves by itself.
import { html } from "./vendor/lit.js";
import { passRows } from "./passes.js";
import { sample } from "./sampler.js";
import { fixed, named, percent, signed, size } from "./text.js";
import { bdi, View } from "./view.js";

const STEP_NAMES = [
  "Text and tokens", "Embedding", "Stack of layers", "Attention: where to look", "Attention: what is added", "Feed-forward",
  "Logits and probabilities", "Choosing a token", "Passes", "Cache and context",
];

/** Where docs/looking-inside.md tells more of each. */
const CHAPTERS = [
  "The tokenizer's vocabulary", "Embeddings", "Layers in order", "Attention by hand", "Attention by hand", "The feed-forward network as a memory",
  "The head", "Choosing a token", "The prompt in parallel", "The cache",
];

export class StepByStep extends View {
  depends() {
    return { chosen: ["at", "layer", "head", "target", "step", "options", "seed"], blocks: [this.data.map(this.now.layer, this.now.head), "lens-p", "lengths", "base-push", "att-push", "mlp-push", "head-push", "neuron-push", "near-cosines"] };
  }

  draw() {
    const { now } = this;
    const parts = [
      () => this.tokens(), () => this.embedding(), () => this.stack(), () => this.scoring(), () => this.combining(),
      () => this.feedForward(), () => this.head(), () => this.choosing(), () => this.passes(), () => this.cache(),
    ];
    return html`
      <h2>How the token after ${this.name(now.at)} is made</h2>
      <div class="row">
        <button type="button" ?disabled=${now.step === 0} @click=${() => this.go({ step: now.step - 1 })}>Back</button>
        <label>Step <select @change=${(/** @type {any} */ e) => this.go({ step: Number(e.target.value) })}>
          ${STEP_NAMES.map((name, i) => html`<option value=${i} .selected=${i === now.step}>${i + 1}. ${name}</option>`)}</select></label>
        <button type="button" ?disabled=${now.step === STEP_NAMES.length - 1} @click=${() => this.go({ step: now.step + 1 })}>Next</button>
      </div>
      <div class="step" aria-live="polite"><h3>${STEP_NAMES[now.step]}</h3>${parts[now.step]()}</div>
      <p class="quiet">More in docs/looking-inside.md, “${CHAPTERS[now.step]}”. The keys [ and ] go back and on.</p>`;
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
    const bytes = Array.from(new TextEncoder().encode(data.piece(id)), (one) => one.toString(16).padStart(2, "0")).join(" ");
    const bits = data.surprise(now.at);
    return html`<p>The text is cut into ${data.n} tokens of a vocabulary of ${Number(data.meta.model.vocab).toLocaleString("en")}.
      Token ${now.at} is ${this.name(now.at)}: number ${id} of the vocabulary, the bytes ${bytes || "of no text"}.</p>
      <p>${Number.isNaN(bits) ? "It is the first one: nothing says that it would come."
        : html`The model gave it ${percent(2 ** -bits)} before it came, which is a surprise of ${fixed(bits, 1)} bits; ${data.need("ranks")[now.at - 1] === 1
          ? "no token was likelier" : `${data.need("ranks")[now.at - 1] - 1} tokens were likelier`}.`}</p>`;
  }

  embedding() {
    const { data, now } = this;
    const [best] = data.lens(0, now.at);
    const [push] = data.basePush(now.at, now.target);
    return html`<p>Its number picks a row of a table: ${data.meta.model.dim} numbers, a vector of length ${fixed(data.length(0, 0, now.at), 2)}.
      This is the start of the <em>residual stream</em>, to which each layer adds.</p>
      ${this.near()}
      <p>Read at once, it would say ${best ? this.said(best.id) : "…"}; on the logit of ${this.said(this.target)} it pushes ${signed(push)}.</p>`;
  }

  /** Tokens whose rows of the table point the same way; the page has those of one position. */
  near() {
    const { data, now } = this;
    const [ids, cosines] = [data.use("near-ids"), data.use("near-cosines")];
    if (!ids || !cosines) return "";
    if (now.at !== data.meta.hand) return html`<p class="quiet">The rows nearest to it, of token ${data.meta.hand}: <button type="button" class="plain" @click=${() => this.go({ at: data.meta.hand })}>show them</button></p>`;
    return html`<p>The rows that point nearly the same way: ${Array.from(ids, (id, i) => html`${i ? ", " : ""}${this.said(id)} (cosine ${fixed(cosines[i], 2)})`)}.</p>`;
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
    return html`<p>${data.layers} layers follow, each in two halves: attention, which reads other tokens, and a feed-forward network, which
      reads this one alone. What the stream would say changes ${changes.length - 1} times on the way:</p>
      <ol>${changes.slice(-8).map((one) => html`<li>after ${one.after ? html`<button type="button" class="plain" @click=${() => this.go({ layer: one.after - 1 })}>layer ${one.after - 1}</button>` : "the embedding"}:
        ${this.said(one.id)} (${percent(one.p)})</li>`)}</ol>`;
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
    return html`<p>Each head makes a <em>query</em> of this token, and a <em>key</em> of every token that it may see (${window > 0 ? `the last ${window}` : "all before it, and itself"}).
      The product of query and key is a score; softmax turns the scores into weights that sum to 1.</p>
      <p>Layer ${now.layer}, head ${now.head} looks at ${looks.length ? looks.map((one, i) => html`${i ? ", " : ""}${this.name(one.i)} (${percent(one.w)})`) : "what the page did not keep"}.
      ${best.push === 0 ? "Which head pushes this token most the page did not keep." : best.layer === now.layer && best.head === now.head ? "It is the head that pushes the chosen token most."
        : html`The head that pushes ${this.said(this.target)} most is <button type="button" class="plain" @click=${() => this.go({ layer: best.layer, head: best.head })}>layer ${best.layer}, head ${best.head}</button> (${signed(best.push)}).`}</p>`;
  }

  combining() {
    const { data, now } = this;
    const kv = data.meta.kv_heads[now.layer] || data.heads;
    const each = Array.from({ length: data.heads }, (_, head) => ({ head, push: data.headPush(now.at, now.target, now.layer, head) }));
    return html`<p>A head adds up the <em>values</em> of the tokens, times their weights, and a matrix writes the sum into the stream.
      ${kv < data.heads ? `In this model ${data.heads / kv} heads share keys and values, which makes the cache smaller.` : ""}</p>
      <p>Attention of layer ${now.layer} pushes ${this.said(this.target)} by ${signed(data.push("att-push", now.at, now.target, now.layer))}; of that, by head:
      ${each.map((one, i) => html`${i ? ", " : ""}<button type="button" class="plain" @click=${() => this.go({ head: one.head })}>${one.head}: ${signed(one.push)}</button>`)}.</p>`;
  }

  feedForward() {
    const { data, now } = this;
    const all = [];
    for (let layer = 0; layer < data.layers; layer++) for (const one of data.neurons(now.at, layer)) all.push({ layer, ...one });
    all.sort((a, b) => Math.abs(b.push) - Math.abs(a.push));
    return html`<p>The feed-forward network of a layer multiplies the stream by a matrix, which gives ${data.meta.model.ff ? data.meta.model.ff : "its"} neurons, and each active
      neuron adds its own direction. In layer ${now.layer} it pushes ${this.said(this.target)} by ${signed(data.push("mlp-push", now.at, now.target, now.layer))}.</p>
      ${all.length ? html`<p>The neurons that push ${this.said(data.targets(now.at)[0])} most:</p>
      <ol>${all.slice(0, 5).map((one) => html`<li><button type="button" class="plain" @click=${() => this.go({ layer: one.layer })}>layer ${one.layer}</button>, neuron ${one.neuron}: active at ${fixed(one.act, 2)}, pushes ${signed(one.push)}</li>`)}</ol>`
        : html`<p>This model's feed-forward networks are experts, whose neurons the page does not have.</p>`}`;
  }

  head() {
    const { data, now } = this;
    const p = data.prediction(now.at);
    return html`<p>After the last layer the stream is scaled to a fixed length, and its product with each row of a table gives every token a <em>logit</em>.
      Softmax makes probabilities of them: e to the power of each, divided by the sum of all, which is e to the power of ${fixed(p.logSum, 2)}.</p>
      <table><thead><tr><th scope="col">token</th><th scope="col">logit</th><th scope="col">probability</th></tr></thead>
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
    return html`<p>The sampler narrows the choice: ${found.steps.map((step, i) => html`${i ? ", then " : ""}${step.name} (${step.kept.toLocaleString("en")} left)`)}.</p>
      <p>A random number then picks one. With seed ${now.seed} it is ${fixed(found.drawn?.u ?? 0, 4)}${id === null || id === undefined ? ", among more tokens than the page keeps" : html`, which falls on ${this.said(id)}`}.</p>`;
  }

  passes() {
    const { data } = this;
    const made = data.n - data.meta.prompt;
    return html`<p>The prompt's tokens go through the layers at once, since each row needs only the rows before it. ${
      made ? "An answer's go one by one: a token must be chosen before the next one can be computed." : "A token that is drawn now would be the next pass, alone."
    } Only the last row enters the table of logits.</p>${passRows(data)}`;
  }

  cache() {
    const { data, now } = this;
    const at = now.at + 1;
    const held = data.meta.cache.map((one) => one.bytes_per_token * (one.window ? Math.min(one.window, at) : at)).reduce((a, b) => a + b, 0);
    const more = data.meta.cache.reduce((sum, one) => sum + one.bytes_per_token, 0);
    return html`<p>Keys and values of earlier tokens are kept: ${size(held)} up to here, of which a new token reads all and to which it adds ${size(more)}.
      Without them, every new token would run all ${at} again.</p>
      <p>The context has room for ${Number(data.meta.model.context).toLocaleString("en")} tokens; ${data.n.toLocaleString("en")} are used.</p>`;
  }
}

customElements.define("pellucid-steps", StepByStep);
