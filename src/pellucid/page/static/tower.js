// The stack of layers at one token, the embedding at the bottom; above it, the lens of all tokens.
import { html, nothing } from "./vendor/lit.js";
import { amount, AMOUNT_TABLE, css, ink, push } from "./colour.js";
import { GUESSES, NEURON } from "./data.js";
import { parts, say } from "./strings.js";
import { fixed, listed, named, percent, signed } from "./text.js";
import { bdi, View } from "./view.js";

export class Tower extends View {
  depends() {
    return { chosen: ["at", "target", "layer", "head", "root"], blocks: ["lens-ids", "lens-p", "lengths", "base-push", "att-push", "mlp-push", "edit-push", "head-push", ...NEURON] };
  }

  draw() {
    const { data, now } = this;
    const target = data.targets(now.at)[now.target];
    const layers = Array.from({ length: data.layers }, (_, i) => data.layers - 1 - i);
    const most = this.most();
    const [embedding, bias] = data.basePush(now.at, now.target);
    return html`
      <h2>${say("towerTitle")}</h2>
      <div class="row">
        <label>${say("towerTarget")}
          <select @change=${(/** @type {any} */ e) => this.go({ target: Number(e.target.value) })}>
            ${data.targets(now.at).map((id, i) => html`<option value=${i} .selected=${i === now.target}>${i === 0 && now.at + 1 < data.n ? say("towerFollows", { token: named(data.piece(id)) }) : named(data.piece(id))}</option>`)}
          </select></label>
        <label><input type="checkbox" .checked=${now.root} @change=${(/** @type {any} */ e) => this.go({ root: e.target.checked })}> ${say("towerRoot")}</label>
        <span class="quiet">${say("towerColours")}</span>
      </div>
      <figure>
        <canvas class="lens" width=${data.n} height=${data.layers + 1} tabindex="0" role="img" aria-label=${this.said()}
          @click=${this.pick} @keydown=${this.press}></canvas>
        <figcaption class="quiet">${say("towerLens")}</figcaption>
      </figure>
      ${this.table(say("towerTable", { layer: now.layer }), [say("token"), say("towerSays"), say("probability")], () => this.rows())}
      <div class="scroll"><table class="tower">
        <caption>${parts("towerCaption", { at: now.at, token: bdi(named(data.piece(data.meta.ids[now.at]))), target: bdi(named(data.piece(target))) })}</caption>
        <thead><tr><th scope="col">${say("layer")}</th><th scope="col">${say("towerSays")}</th><th scope="col" class="wide">${say("length")}</th><th scope="col">${say("attention")}</th><th scope="col">${say("feedForward")}</th>
          <th scope="col">${say("towerHeads")}</th><th scope="col" class="wide">${say("towerNeuron")}</th></tr></thead>
        <tbody>
          ${layers.map((layer) => this.layer(layer, most))}
          <tr><th scope="row">${say("towerEmbedding")}</th>${this.guess(0)}<td class="wide">${fixed(data.length(0, 0, now.at), 1)}</td>
            ${this.cell(embedding, most.part)}<td></td><td></td><td class="wide"></td></tr>
          ${bias ? html`<tr><th scope="row">${say("towerBias")}</th><td></td><td class="wide"></td>${this.cell(bias, most.part)}<td></td><td></td><td class="wide"></td></tr>` : nothing}
        </tbody>
      </table></div>`;
  }

  most() {
    const { data, now } = this;
    let [part, head] = [0, 0];
    for (let layer = 0; layer < data.layers; layer++) {
      for (const name of ["att-push", "mlp-push"]) part = Math.max(part, Math.abs(data.push(name, now.at, now.target, layer)) || 0);
      for (let i = 0; i < data.heads; i++) head = Math.max(head, Math.abs(data.headPush(now.at, now.target, layer, i)) || 0);
    }
    return { part, head };
  }

  /** @param {number} value @param {number} most */
  scaled(value, most) {
    return this.now.root ? Math.sign(value) * Math.sqrt(Math.abs(value) * most) : value;
  }

  /** @param {number} layer @param {{part: number, head: number}} most */
  layer(layer, most) {
    const { data, now } = this;
    const edit = data.push("edit-push", now.at, now.target, layer);
    const [best] = data.neurons(now.at, layer);
    return html`<tr class=${layer === now.layer ? "chosen" : ""}>
      <th scope="row"><button type="button" class="plain" aria-pressed=${layer === now.layer} @click=${() => this.go({ layer })}>${layer}</button></th>
      ${this.guess(layer + 1)}
      <td class="wide">${fixed(data.length(0, layer + 1, now.at), 1)}</td>
      ${this.cell(data.push("att-push", now.at, now.target, layer), most.part)}
      ${this.cell(data.push("mlp-push", now.at, now.target, layer), most.part, edit ? say("towerEdit", { push: signed(edit) }) : "")}
      <td class="cells">${Array.from({ length: data.heads }, (_, head) => this.head(layer, head, most.head))}</td>
      <td class="wide">${best ? html`<span title=${say("towerActive", { act: fixed(best.act, 2) })}>${best.neuron} ${signed(best.push)}</span>` : ""}</td>
    </tr>`;
  }

  /** @param {number} after */
  guess(after) {
    const [best, ...others] = this.data.lens(after, this.now.at);
    if (best === undefined) return html`<td></td>`;
    const rgb = amount(best.p);
    const tip = listed([best, ...others].map((one) => `${named(this.data.piece(one.id))} ${percent(one.p)}`)).join("");
    return html`<td class="guess" title=${tip} .style=${`background:${css(rgb)};color:${ink(rgb)}`}>${bdi(named(this.data.piece(best.id)))} <small>${percent(best.p)}</small></td>`;
  }

  /** @param {number} value @param {number} most @param {string} more */
  cell(value, most, more = "") {
    if (Number.isNaN(value)) return html`<td></td>`;
    return html`<td class="push" .style=${`background:${push(this.scaled(value, most), most)}`}>${signed(value)}${more ? ` ${more}` : ""}</td>`;
  }

  /** @param {number} layer @param {number} head @param {number} most */
  head(layer, head, most) {
    const value = this.data.headPush(this.now.at, this.now.target, layer, head);
    const chosen = layer === this.now.layer && head === this.now.head;
    return html`<button type="button" tabindex="-1" class="cell ${chosen ? "chosen" : ""}" title=${say("towerTip", { head, push: signed(value) })} aria-label=${say("towerCell", { layer, head, push: signed(value) })}
      .style=${`background:${push(this.scaled(value, most), most)}`} @click=${() => this.go({ layer, head })}></button>`;
  }

  /** The chosen layer's row of the lens. @returns {unknown[][]} */
  rows() {
    const { data, now } = this;
    return data.meta.ids.map((_, at) => {
      const [best] = data.lens(now.layer + 1, at);
      return [html`${at}: ${bdi(named(data.token(at)))}`, best ? bdi(named(data.shown(best.id))) : "", best ? percent(best.p) : ""];
    });
  }

  said() {
    const { data, now } = this;
    const [best] = data.lens(now.layer + 1, now.at);
    const says = best ? say("tokenShare", { token: named(data.piece(best.id)), share: percent(best.p) }) : "";
    return say("towerChosen", { at: now.at, layer: now.layer, says });
  }

  drawn() {
    const { data } = this;
    const canvas = /** @type {HTMLCanvasElement | null} */ (this.querySelector("canvas.lens"));
    const shares = data.use("lens-p");
    if (canvas === null || shares === undefined) return;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(data.n, data.layers + 1);
    for (let after = 0; after <= data.layers; after++) {
      for (let at = 0; at < data.n; at++) {
        const code = shares[(after * data.n + at) * GUESSES];
        const to = 4 * ((data.layers - after) * data.n + at);
        for (let i = 0; i < 3; i++) image.data[to + i] = AMOUNT_TABLE[4 * code + i];
        image.data[to + 3] = at === this.now.at || after === this.now.layer + 1 ? 255 : 225;
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** @param {MouseEvent} event */
  pick(event) {
    const canvas = /** @type {HTMLElement} */ (event.currentTarget);
    const box = canvas.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * this.data.n);
    const after = this.data.layers - Math.floor(((event.clientY - box.top) / box.height) * (this.data.layers + 1));
    this.go({ at, layer: Math.max(after - 1, 0) });
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const { at, layer } = this.now;
    /** @type {Record<string, object>} */
    const moves = { ArrowLeft: { at: at - 1 }, ArrowRight: { at: at + 1 }, ArrowUp: { layer: layer + 1 }, ArrowDown: { layer: layer - 1 } };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.go(moves[event.key]);
  }
}

customElements.define("pellucid-tower", Tower);
