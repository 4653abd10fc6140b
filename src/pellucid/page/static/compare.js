// Two traces of as many tokens: where a change is felt, and what it changes.
import { html } from "./vendor/lit.js";
import { push } from "./colour.js";
import { parts, say } from "./strings.js";
import { fixed, named, percent, signed } from "./text.js";
import { bdi, View } from "./view.js";

const BITS = 6; // of a full shade
const ROWS = 8;

export class Compare extends View {
  depends() {
    return { chosen: ["at"], blocks: ["lens-ids", "lens-p", "lengths", "att-push", "mlp-push"] };
  }

  get sources() {
    return [this.data, this.other];
  }

  get other() {
    return /** @type {import("./data.js").Data} */ (this.page.other);
  }

  draw() {
    const { data, now, other } = this;
    const edited = data.meta.against?.edited;
    return html`<h2>${say(edited ? "comparedModel" : "comparedText")}</h2>
      <p class="quiet">${say("comparedColours")}</p>
      <div class="strip">${data.meta.ids.map((id, i) => {
        const more = (data.surprise(i) || 0) - (other.surprise(i) || 0);
        const [token, bits, before] = [data.token(i), signed(more, 1), other.meta.ids[i] === id ? "" : other.token(i)];
        const tip = before ? say("comparedInstead", { token, other: before, bits }) : say("comparedToken", { token, bits });
        return html`<button type="button" class="token ${i === now.at ? "chosen" : ""}" title=${tip}
          .style=${`background:${push(more, BITS)}`} @click=${() => this.go({ at: i })}>${bdi(named(token))}${before ? html`<s>${bdi(named(before))}</s>` : ""}</button>`;
      })}</div>
      <div class="columns">${this.candidates()}${this.layers()}</div>`;
  }

  candidates() {
    const { data, now, other } = this;
    const shares = [data, other].map((one) => {
      const p = one.prediction(now.at);
      return new Map(Array.from(p.ids, (id, i) => [id, Math.exp(p.logits[i] - p.logSum)]));
    });
    const ids = [...new Set(shares.flatMap((one) => [...one.keys()].slice(0, ROWS)))];
    const most = (/** @type {number} */ id) => Math.max(...shares.map((one) => one.get(id) ?? 0));
    return html`<table><caption>${parts("comparedFollows", { token: bdi(named(data.token(now.at))) })}</caption>
      <thead><tr><th scope="col">${say("token")}</th><th scope="col">${say("here")}</th><th scope="col">${say("there")}</th></tr></thead>
      <tbody>${ids.sort((a, b) => most(b) - most(a)).slice(0, ROWS).map((id) => html`<tr><th scope="row">${bdi(named(data.shown(id)))}</th>
        ${shares.map((one) => html`<td><span class="bar model" .style=${`--share:${(one.get(id) ?? 0).toFixed(4)}`}></span>${percent(one.get(id) ?? 0)}</td>`)}</tr>`)}</tbody></table>`;
  }

  layers() {
    const { data, now, other } = this;
    const said = (/** @type {import("./data.js").Data} */ one, /** @type {number} */ after) => {
      const [best] = one.lens(after, now.at);
      return best ? html`${bdi(named(data.shown(best.id)))} <small>${percent(best.p)}</small>` : "";
    };
    const more = (/** @type {string} */ name, /** @type {number} */ layer) => data.push(name, now.at, 0, layer) - other.push(name, now.at, 0, layer);
    const same = data.targets(now.at)[0] === other.targets(now.at)[0];
    return html`<div class="scroll"><table><caption>${same ? parts("comparedPushes", { token: bdi(named(data.shown(data.targets(now.at)[0]))) }) : say("comparedLayers")}</caption>
      <thead><tr><th scope="col">${say("layer")}</th><th scope="col">${say("here")}</th><th scope="col">${say("there")}</th><th scope="col">${say("length")}</th>
        ${same ? html`<th scope="col">${say("attention")}</th><th scope="col">${say("feedForward")}</th>` : ""}</tr></thead>
      <tbody>${Array.from({ length: data.layers }, (_, i) => data.layers - 1 - i).map((layer) => html`<tr><th scope="row">${layer}</th>
        <td>${said(data, layer + 1)}</td><td>${said(other, layer + 1)}</td>
        <td>${fixed(data.length(0, layer + 1, now.at), 1)} / ${fixed(other.length(0, layer + 1, now.at), 1)}</td>
        ${same ? ["att-push", "mlp-push"].map((name) => html`<td class="push" .style=${`background:${push(more(name, layer), 4)}`}>${signed(more(name, layer))}</td>`) : ""}</tr>`)}</tbody></table></div>`;
  }
}

customElements.define("pellucid-compare", Compare);
