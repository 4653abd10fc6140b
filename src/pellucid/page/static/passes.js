// The passes that made a text, drawn.
import { html, nothing } from "./vendor/lit.js";
import { named } from "./text.js";
import { bdi } from "./view.js";

const PASSES = 6; // passes of one token

/** The prompt in one pass, then a token at a time; what enters the table of logits is marked. @param {import("./data.js").Data} data */
export function passRows(data) {
  const { n, meta } = data;
  const made = n - meta.prompt;
  const name = (/** @type {number} */ at) => bdi(named(data.token(at)));
  const shown = Array.from({ length: Math.min(made - 1, PASSES) }, (_, i) => meta.prompt + i);
  return html`<ol class="passes">
    <li><span class="pass" aria-hidden="true"><i></i></span> ${meta.prompt} ${meta.prompt === 1 ? "token" : "tokens at once"}: the prompt. ${made ? html`Its last row gave ${name(meta.prompt)}.` : "Only its last row enters the table of logits."}</li>
    ${shown.map((at) => html`<li><span class="pass one" aria-hidden="true"><i></i></span> 1 token, ${name(at)}, which gave ${name(at + 1)}</li>`)}
    ${made - 1 > PASSES ? html`<li><span class="pass one" aria-hidden="true"><i></i></span> and ${made - 1 - PASSES} more passes of one token</li>` : nothing}
  </ol>`;
}
