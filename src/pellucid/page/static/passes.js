// The passes that made a text, drawn.
import { html, nothing } from "./vendor/lit.js";
import { parts, say } from "./strings.js";
import { named } from "./text.js";
import { bdi } from "./view.js";

const PASSES = 6; // passes of one token

/** The prompt in one pass, then a token at a time; what enters the table of logits is marked. @param {import("./data.js").Data} data */
export function passRows(data) {
  const { n, meta } = data;
  const made = n - meta.prompt;
  const name = (/** @type {number} */ at) => bdi(named(data.token(at)));
  const shown = Array.from({ length: Math.min(made - 1, PASSES) }, (_, i) => meta.prompt + i);
  const bar = (/** @type {boolean} */ one) => html`<span class="pass ${one ? "one" : ""}" aria-hidden="true"><i></i></span>`;
  const last = made ? parts("passGave", { token: name(meta.prompt) }) : say("passLast");
  return html`<ol class="passes">
    <li>${parts("passPrompt", { bar: bar(false), n: meta.prompt, last })}</li>
    ${shown.map((at) => html`<li>${parts("passOne", { bar: bar(true), token: name(at), next: name(at + 1) })}</li>`)}
    ${made - 1 > PASSES ? html`<li>${parts("passMore", { bar: bar(true), n: made - 1 - PASSES })}</li>` : nothing}
  </ol>`;
}
