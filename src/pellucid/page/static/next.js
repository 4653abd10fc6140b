// The next token: what the model gives, what each step of the sampler leaves, and which token a seed draws.
import { html, nothing } from "./vendor/lit.js";
import { sample } from "./sampler.js";
import { numeral } from "./say.js";
import { parts, say } from "./strings.js";
import { fixed, listed, named, percent } from "./text.js";
import { bdi, View } from "./view.js";

const SHOWN = 12;

/** Options of each step: [name, its text, least, most, step, value that switches it off or null]
 * @typedef {[string, Extract<keyof typeof import("./strings.js").STRINGS, `option${string}`>, number, number, number, number | null]} Option */
/** @type {Record<string, Option[]>} */
const STEPS = {
  penalties: [
    ["repeat_penalty", "optionRepeat", 1, 2, 0.01, 1],
    ["presence_penalty", "optionPresence", -2, 2, 0.05, 0],
    ["frequency_penalty", "optionFrequency", -2, 2, 0.05, 0],
    ["repeat_last", "optionLast", 0, 512, 1, null],
  ],
  dry: [
    ["dry_multiplier", "optionDry", 0, 5, 0.05, 0],
    ["dry_base", "optionDryBase", 1, 4, 0.05, null],
    ["dry_allowed_length", "optionDryLength", 0, 20, 1, null],
    ["dry_range", "optionDryRange", -1, 512, 1, null],
  ],
  top_n_sigma: [["top_n_sigma", "optionSigma", 0, 5, 0.05, 0]],
  top_k: [["top_k", "optionTopK", 0, 200, 1, 0]],
  typical_p: [["typical_p", "optionTypical", 0.01, 1, 0.01, 1]],
  top_p: [["top_p", "optionTopP", 0, 1, 0.01, 1]],
  min_p: [["min_p", "optionMinP", 0, 1, 0.005, 0]],
  xtc: [
    ["xtc_probability", "optionXtc", 0, 1, 0.05, 0],
    ["xtc_threshold", "optionXtcLeast", 0, 0.5, 0.01, null],
  ],
  temperature: [
    ["temperature", "optionTemperature", 0, 2, 0.05, null],
    ["dynatemp_range", "optionRange", 0, 2, 0.05, 0],
    ["dynatemp_exponent", "optionExponent", 0.1, 4, 0.1, null],
  ],
};

const WAIT = 150; // milliseconds without a change before the server is asked

export class Next extends View {
  constructor() {
    super();
    /** @type {{key: string, found: import("./source.js").Exact} | null} */
    this.exact = null;
    this.asked = "";
    /** @type {import("./data.js").Data | undefined} of which both are */
    this.of = undefined;
  }

  /** What the engine says where the stored candidates do not decide it; null: not yet, or nobody can be asked.
   * @param {bigint} seed @returns {import("./source.js").Exact | null} */
  fromEngine(seed) {
    const { now, data } = this;
    const { source } = data;
    const key = JSON.stringify([now.at, now.options, String(seed)]);
    if (this.of !== data) this.exact = null;
    if (this.of !== data) this.asked = "";
    this.of = data;
    if (this.exact?.key === key) return this.exact.found;
    if (source.steps === undefined || this.asked === key) return null;
    this.asked = key;
    setTimeout(async () => {
      if (this.asked !== key || this.data !== data) return;
      try {
        const found = await /** @type {NonNullable<typeof source.steps>} */ (source.steps).call(source, { position: now.at, options: now.options, seed });
        if (this.asked === key) this.exact = { key, found };
        if (found.drawn) data.pieces[found.drawn.id] ??= found.drawn.piece;
        this.requestUpdate();
      } catch {
        this.asked = ""; // what the page knows stays
      }
    }, WAIT);
    return null;
  }

  /** @param {ReturnType<typeof sample>} found @param {import("./source.js").Exact} exact @returns {ReturnType<typeof sample>} */
  replaced(found, exact) {
    const steps = exact.steps.map(({ name, kept, ids, probabilities }) => ({ name, kept, ids, p: probabilities, ahead: ids.length, sure: true }));
    const last = steps[steps.length - 1];
    const { drawn } = exact;
    return { ...found, steps, sure: true, drawn: drawn === null || drawn.u === null ? null : { id: drawn.id, u: drawn.u, ids: last.ids, p: last.p } };
  }

  depends() {
    return { chosen: ["at", "target", "options", "seed"], blocks: [] };
  }

  draw() {
    const { data, now } = this;
    const p = data.prediction(now.at);
    const number = Math.max(now.at + 1 - data.meta.prompt, 0);
    const seed = /^\d{1,20}$/.test(now.seed) ? BigInt.asUintN(64, BigInt(now.seed)) : 0n;
    const here = sample(p, now.options, {
      past: data.meta.ids.slice(0, now.at + 1),
      breaks: data.need("dry-breaks").subarray(0, now.at + 1),
      number,
      seed,
      vocab: Number(data.meta.model.vocab),
      forbidden: data.meta.suppressed,
    });
    const exact = here.sure ? null : this.fromEngine(seed);
    const found = exact ? this.replaced(here, exact) : here;
    return html`
      <h2>${say("nextTitle")}</h2>
      <p class="quiet">${parts("nextAfter", { token: bdi(named(data.piece(data.meta.ids[now.at]))), at: now.at, bits: fixed(data.entropy(now.at), 1) })}</p>
      ${this.list(found)}
      ${this.drawing(found, number)}
      ${this.chain(found)}
      ${this.sliders()}`;
  }

  /** @param {ReturnType<typeof sample>} found */
  list(found) {
    const { data, now } = this;
    const [first, last] = [found.steps[0], found.steps[found.steps.length - 1]];
    const after = new Map(last.ids.map((id, i) => [id, last.p[i]]));
    const follows = now.at + 1 < data.n ? data.meta.ids[now.at + 1] : -1;
    const ids = first.ids.slice(0, SHOWN);
    if (follows >= 0 && !ids.includes(follows)) ids[SHOWN - 1] = follows;
    const targets = data.targets(now.at);
    const model = new Map(first.ids.map((id, i) => [id, first.p[i]]));
    const own = Math.exp(data.stat(now.at, 4) - data.stat(now.at, 0));
    const rows = ids.map((id) => ({ id, before: model.get(id) ?? own, now: after.get(id) ?? 0, target: targets.indexOf(id) }));
    return html`<table class="candidates">
      <caption>${say("nextCaption")}</caption>
      <thead><tr><th scope="col">${say("token")}</th><th scope="col">${say("nextModel")}</th><th scope="col">${say("nextDrawn")}</th></tr></thead>
      <tbody>${rows.map((row) => this.candidate(row, follows, found.drawn?.id ?? -1))}</tbody>
    </table>`;
  }

  /** @param {{id: number, before: number, now: number, target: number}} row @param {number} follows @param {number} drawn */
  candidate(row, follows, drawn) {
    const text = named(this.data.piece(row.id));
    const [isNext, isDrawn] = [row.id === follows, row.id === drawn];
    const mark = isNext && isDrawn ? say("nextFollowsDrawn") : isNext ? say("follows") : isDrawn ? say("nextDrawn") : "";
    const name = row.target < 0 ? bdi(text) : html`<button type="button" class="plain" aria-pressed=${row.target === this.now.target}
        title=${say("nextShow")} @click=${() => this.go({ target: row.target })}>${bdi(text)}</button>`;
    const { goOn } = this.page;
    const on = goOn && this.now.at >= goOn.from ? html` <button type="button" class="plain" aria-label=${say("nextOnWith", { token: text })}
        @click=${() => goOn.with(this.now.at, row.id, -Math.log2(row.before))}>${say("nextOn")}</button>` : nothing;
    return html`<tr class="${isNext ? "follows" : ""} ${isDrawn ? "hit" : ""}">
      <th scope="row">${name}${mark ? html` <small>${mark}</small>` : nothing}${on}</th>
      <td><span class="bar model" .style=${`--share:${row.before.toFixed(4)}`}></span>${percent(row.before)}</td>
      <td><span class="bar drawn" .style=${`--share:${row.now.toFixed(4)}`}></span>${percent(row.now)}</td>
    </tr>`;
  }

  /** @param {ReturnType<typeof sample>} found @param {number} number */
  drawing(found, number) {
    const { data, now } = this;
    const { drawn } = found;
    if (drawn === null) return nothing;
    const total = drawn.p.reduce((a, b) => a + b, 0);
    let sum = 0;
    const bars = drawn.ids.slice(0, 40).map((id, i) => {
      const bar = { id, from: sum / total, share: drawn.p[i] / total };
      sum += drawn.p[i];
      return bar;
    });
    const told = drawn.id === null ? say("nextBeyond")
      : parts("nextFalls", { u: fixed(drawn.u, 4), token: html`<strong>${bdi(named(data.piece(drawn.id)))}</strong>` });
    return html`<div class="draw">
      <label>${say("nextSeed")} <input inputmode="numeric" pattern="[0-9]*" maxlength="20" size="8" .value=${now.seed}
        @change=${(/** @type {any} */ e) => this.go({ seed: /^\d{1,20}$/.test(e.target.value) ? e.target.value : "0" })}></label>
      <button type="button" @click=${() => this.go({ seed: String(BigInt.asUintN(64, BigInt(now.seed || "0") + 1n)) })}>${say("nextSeedNext")}</button>
      <div class="cumulated" aria-hidden="true">
        ${bars.map((one, i) => html`<span class=${i % 2 ? "odd" : "even"} .style=${`left:${100 * one.from}%;width:${100 * one.share}%`}>${one.share > 0.08 ? named(data.piece(one.id)) : ""}</span>`)}
        <i .style=${`left:${100 * drawn.u}%`}></i>
      </div>
      <p aria-live="polite">${told} <span class="quiet">${say("nextDraw", { number })}</span></p>
      ${drawn.id === null || found.draw(0n).id === null || now.options.xtc_probability > 0 ? nothing : html`<p class="quiet">${parts("nextOthers", { tokens: listed(Array.from({ length: 8 }, (_, i) => {
        const id = found.draw(BigInt.asUintN(64, BigInt(now.seed || "0") + BigInt(i + 1))).id;
        return bdi(named(data.piece(id ?? -1)));
      })) })}</p>`}
    </div>`;
  }

  /** @param {ReturnType<typeof sample>} found */
  chain(found) {
    const most = Number(this.data.meta.model.vocab);
    return html`<ol class="chain" aria-label=${say("nextSteps")}>
      ${found.steps.map((step) => html`<li>${step.name} <span class="quiet">${say(step.sure ? "nextLeft" : "nextLeftAbout", { n: numeral(step.kept) })}</span>
        <meter min="0" max="1" .value=${Math.log(step.kept) / Math.log(most)} aria-label=${say("nextMeter")}></meter></li>`)}
    </ol>
    ${found.sure ? nothing : html`<p class="warn">${say("nextGuess")}</p>`}`;
  }

  sliders() {
    const { options } = this.now;
    const order = options.samplers;
    const on = (/** @type {string} */ step) => STEPS[step].some(([name, , , , , off]) => off !== null && options[name] !== off) || step === "temperature";
    const left = this.data.meta.options.samplers.filter((/** @type {string} */ step) => !order.includes(step));
    return html`<details class="options" ?open=${true}><summary>${say("nextOptions")}</summary>
      <ol class="steps">${order.map((/** @type {string} */ step, /** @type {number} */ i) => html`
        <li draggable="true" class=${on(step) ? "on" : "off"}
          @dragstart=${(/** @type {DragEvent} */ e) => e.dataTransfer?.setData("text/plain", step)}
          @dragover=${(/** @type {DragEvent} */ e) => e.preventDefault()}
          @drop=${(/** @type {DragEvent} */ e) => this.drop(e, i)}
          @keydown=${(/** @type {KeyboardEvent} */ e) => this.move(e, i)}>
          <details ?open=${on(step)}><summary>${step.replaceAll("_", "-")}${on(step) ? "" : html` <small>${say("nextOff")}</small>`}</summary>
            ${STEPS[step].map((one) => this.slider(one))}
            <button type="button" ?disabled=${i === 0} @click=${() => this.place(i, i - 1)} aria-label=${say("nextUp", { step })}>↑</button>
            <button type="button" ?disabled=${i === order.length - 1} @click=${() => this.place(i, i + 1)} aria-label=${say("nextDown", { step })}>↓</button>
          </details>
        </li>`)}
      </ol>
      ${left.length ? html`<p class="quiet">${parts("nextOut", { steps: listed(left) })}</p>` : nothing}
      <button type="button" @click=${() => this.go({ options: { ...this.page.state.start.options } })}>${say("nextGiven")}</button>
      <span class="quiet">${say("nextMoves")}</span>
    </details>`;
  }

  /** @param {Option} of */
  slider([name, text, least, most, step]) {
    const value = this.now.options[name];
    return html`<label class="slider">${say(text)} <output>${value}</output>
      <input type="range" min=${least} max=${most} step=${step} .value=${String(value)}
        @input=${(/** @type {any} */ e) => this.go({ options: { ...this.now.options, [name]: Number(e.target.value) } })}></label>`;
  }

  /** @param {DragEvent} event @param {number} to */
  drop(event, to) {
    event.preventDefault();
    const from = this.now.options.samplers.indexOf(event.dataTransfer?.getData("text/plain"));
    if (from >= 0) this.place(from, to);
  }

  /** @param {KeyboardEvent} event @param {number} i */
  move(event, i) {
    if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    this.place(i, i + (event.key === "ArrowUp" ? -1 : 1));
  }

  /** @param {number} from @param {number} to */
  place(from, to) {
    const samplers = [...this.now.options.samplers];
    if (to < 0 || to >= samplers.length) return;
    samplers.splice(to, 0, ...samplers.splice(from, 1));
    this.go({ options: { ...this.now.options, samplers } });
  }
}

customElements.define("pellucid-next", Next);
