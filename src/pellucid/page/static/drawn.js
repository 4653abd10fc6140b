// Answers that are drawn at the same time, to stand side by side.
import { html, nothing } from "./vendor/lit.js";
import { answer } from "./api.js";
import { say } from "./appstrings.js";
import { fixed, named } from "./text.js";
import { bdi } from "./view.js";

const BITS = 12; // of a full shade

/** @typedef {{label: string, tokens: import("./api.js").Piece[], text: string, done: boolean, failure: unknown}} Draw */

export class Drawn {
  /** @param {() => void} changed called with the next frame after something has come */
  constructor(changed) {
    this.changed = changed;
    /** @type {Draw[]} */
    this.draws = [];
    /** @type {AbortController | null} */
    this.running = null;
    this.waits = false;
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.later();
  }

  /** Draws anew; what was being drawn ends. @param {{label: string, request: Record<string, any>}[]} wanted @returns {Promise<unknown>} the first thing that went wrong */
  async run(wanted) {
    this.running?.abort();
    const running = (this.running = new AbortController());
    const draws = (this.draws = wanted.map(({ label }) => /** @type {Draw} */ ({ label, tokens: [], text: "", done: false, failure: null })));
    this.later();
    await Promise.all(wanted.map(({ request }, i) => this.one(draws[i], request, running.signal)));
    if (this.running === running) this.running = null;
    this.later();
    return running.signal.aborted ? null : draws.find((one) => one.failure !== null)?.failure ?? null;
  }

  /** @param {Draw} draw @param {Record<string, any>} request @param {AbortSignal} signal */
  async one(draw, request, signal) {
    try {
      for await (const part of answer(request, signal)) {
        draw.text += part.text;
        draw.tokens.push(...part.tokens);
        this.later();
      }
    } catch (error) {
      if (!signal.aborted) draw.failure = error;
    }
    draw.done = true;
  }

  later() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.changed();
    });
  }

  /** The draws in columns. @param {((draw: Draw) => unknown) | null} more what stands below each */
  shown(more = null) {
    return html`<div class="draws">${this.draws.map((draw) => html`<section class="answer" aria-label=${draw.label}><h3>${draw.label}</h3>
      <p class="strip" dir="auto">${draw.tokens.map((one) => html`<span class="token" title=${say("drawnBits", { bits: fixed(one.bits, 1) })} .style=${`--share:${Math.min(one.bits / BITS, 1)};--look:0`}>${bdi(named(one.text))}</span>`)}${draw.done ? nothing : html`<span class="caret" aria-hidden="true"></span>`}</p>
      ${draw.failure ? html`<p class="warn">${draw.failure instanceof Error ? draw.failure.message : String(draw.failure)}</p>` : nothing}
      ${more && draw.done ? more(draw) : nothing}</section>`)}</div>`;
  }
}
