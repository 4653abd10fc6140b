// One head: its map, and where the chosen token looks.
import { html, nothing } from "./vendor/lit.js";
import { amount, AMOUNT_TABLE, css, ink } from "./colour.js";
import { HAND, place, weight } from "./data.js";
import { parts, say } from "./strings.js";
import { fixed, listed, named, percent, signed } from "./text.js";
import { bdi, cells, View } from "./view.js";

const NEAR = 48; // tokens of a map with names
const BARS = 12;
const LOOKS = 3; // of each token in the table
const MOST = 1024; // pixels of a whole map, each way
const MARGIN = 96; // pixels for names

export class Head extends View {
  depends() {
    return { chosen: ["at", "layer", "head", "first", "whole", "target"], blocks: [this.data.map(this.now.layer, this.now.head), "att-rest", "head-push", ...HAND] };
  }

  draw() {
    const { data, now } = this;
    const window = data.meta.windows[now.layer];
    const kind = window < 0 ? say("headNone") : window > 0 ? say("headWindow", { n: window }) : say("headAll");
    const heads = data.heads / Math.max(data.meta.kv_heads[now.layer], 1);
    return html`
      <h2>${say("headTitle", { layer: now.layer, head: now.head })}</h2>
      <p class="quiet">${kind} ${heads > 1 && window >= 0 ? say("headShared", { n: heads }) : ""}
        ${parts("headPushes", { token: this.name(data.targets(now.at)[now.target]), push: this.pushes() })}</p>
      <div class="row">
        <label><input type="checkbox" .checked=${now.first} @change=${(/** @type {any} */ e) => this.go({ first: e.target.checked })}> ${say("headFirst")}</label>
        <label><input type="checkbox" .checked=${now.whole} @change=${(/** @type {any} */ e) => this.go({ whole: e.target.checked })}> ${say("headWhole")}</label>
      </div>
      ${data.hasMap(now.layer) ? this.map() : html`<p class="warn">${window < 0 ? "" : this.missing()}</p>`}`;
  }

  /** @param {number} id of a token */
  name(id) {
    return bdi(named(this.data.piece(id)));
  }

  pushes() {
    const { now } = this;
    return signed(this.data.headPush(now.at, now.target, now.layer, now.head));
  }

  missing() {
    const { layers } = this.data.meta.kept;
    return layers && !layers.includes(this.now.layer) ? parts("headLayers", { layers: listed(layers) })
      : say("headSmall");
  }

  /** The tokens that the map shows: from, to. @returns {[number, number]} */
  range() {
    const { data, now } = this;
    if (now.whole || data.n <= NEAR) return [0, data.n];
    const from = Math.min(Math.max(now.at - Math.floor(NEAR / 2), 0), data.n - NEAR);
    return [from, from + NEAR];
  }

  map() {
    const { data, now } = this;
    const [from, to] = this.range();
    return html`
      <figure><canvas class="map" tabindex="0" role="img" @click=${this.pick} @keydown=${this.press}
        aria-label=${say("headMap", { from, to: to - 1, at: now.at, token: named(data.piece(data.meta.ids[now.at])) })}></canvas>
        <figcaption class="quiet">${from ? say("headRowsFrom", { from }) : say("headRows")}</figcaption></figure>
      ${this.table(say("headTable", { layer: now.layer, head: now.head }), [say("token"), say("headMost")], () => this.rows(from, to))}
      ${this.bars()}
      ${data.meta.kept.positions?.includes(now.at) === false ? html`<p class="warn">${say("headPositions")}</p>` : nothing}
      ${now.at === data.meta.hand ? this.byHand() : html`<p class="quiet">${parts("headHandAt", { at: data.meta.hand, button: html`<button type="button" class="plain" @click=${() => this.go({ at: data.meta.hand })}>${say("show")}</button>` })}</p>`}`;
  }

  /** The map's rows in words. @param {number} from @param {number} to @returns {unknown[][]} */
  rows(from, to) {
    const { data, now } = this;
    const name = (/** @type {number} */ at) => html`${at}: ${bdi(named(data.token(at)))}`;
    return Array.from({ length: to - from }, (_, i) => {
      const row = data.row(now.layer, now.head, from + i);
      const best = Array.from(row ?? [], (w, at) => ({ w, at })).filter((one) => one.w > 0).sort((a, b) => b.w - a.w).slice(0, LOOKS);
      return [name(from + i), listed(best.map((one) => html`${name(one.at)} ${percent(one.w)}`))];
    });
  }

  /** The arithmetic of the chosen row, for the tokens that it looks at most. */
  byHand() {
    const { data, now } = this;
    const found = data.hand(now.layer, now.head);
    if (found === undefined) return nothing;
    const scale = data.meta.scales[now.layer];
    return html`<details class="hand"><summary>${say("handTitle")}</summary>
      <p>${parts("handQuery", { token: this.name(data.meta.ids[now.at]), n: found.query.length })}</p>${cells(found.query)}
      ${found.best.map((one) => {
        const product = one.key.reduce((sum, v, i) => sum + v * found.query[i], 0);
        const quotient = html`e<sup>${fixed(one.score, 2)}</sup> / e<sup>${fixed(found.sum, 2)}</sup>`;
        return html`<p>${parts("handKey", { at: one.at, token: this.name(data.meta.ids[one.at]), scale: fixed(scale, 4), product: fixed(product * scale, 2), score: fixed(one.score, 2), quotient, share: percent(one.weight) })}</p>${cells(one.key)}`;
      })}
      <p>${say("handValues", { n: found.mixed.length })}</p>${cells(found.mixed)}
      <p>${parts("handWrites", { token: this.name(data.targets(now.at)[now.target]), push: this.pushes(), tokens: listed(found.promoted.map((id) => html`<strong>${bdi(named(data.shown(id)))}</strong>`)) })}</p>
    </details>`;
  }

  /** The chosen row's weights, without the first token where that is wanted. */
  weights() {
    const { data, now } = this;
    const row = data.row(now.layer, now.head, now.at);
    if (row === undefined) return undefined;
    const left = data.left(now.layer, now.head, now.at);
    if (!now.first || row.length < 2) return { row, left };
    const others = Math.max(1 - row[0], 1e-9);
    return { row: row.map((w, i) => (i ? w / others : 0)), left: left / others };
  }

  bars() {
    const { data, now } = this;
    const found = this.weights();
    if (found === undefined) return html`<p class="quiet">${say("wait")}</p>`;
    const best = Array.from(found.row, (w, i) => ({ w, i })).filter((one) => one.w > 0).sort((a, b) => b.w - a.w);
    const shown = best.slice(0, BARS);
    const other = Math.max(best.slice(BARS).reduce((sum, one) => sum + one.w, 0) + found.left, 0);
    return html`<table class="looks">
      <caption>${parts("headLooks", { at: now.at, token: this.name(data.meta.ids[now.at]) })}</caption>
      <thead><tr><th scope="col">${say("token")}</th><th scope="col">${say("headWeight")}</th></tr></thead>
      <tbody>${shown.map(({ w, i }) => html`<tr><th scope="row"><button type="button" class="plain" @click=${() => this.go({ at: i })}>${i}: ${bdi(named(data.piece(data.meta.ids[i])))}</button></th>
          <td><span class="bar look" .style=${`--share:${w.toFixed(4)}`}></span>${percent(w)}</td></tr>`)}
        ${other > 0.0005 ? html`<tr><th scope="row">${say("headRest")}</th><td><span class="bar look" .style=${`--share:${other.toFixed(4)}`}></span>${percent(other)}</td></tr>` : nothing}
      </tbody></table>`;
  }

  drawn() {
    const { data, now } = this;
    const canvas = /** @type {HTMLCanvasElement | null} */ (this.querySelector("canvas.map"));
    const codes = data.hasMap(now.layer) ? data.codes(now.layer, now.head) : undefined;
    if (canvas === null || codes === undefined) return;
    const [from, to] = this.range();
    if (to - from <= NEAR) this.drawNames(canvas, codes, from, to);
    else this.drawWhole(canvas, codes);
    this.ahead();
  }

  /** Reads neighbouring layers while nothing else happens. */
  ahead() {
    const { data, now } = this;
    const idle = globalThis.requestIdleCallback ?? ((/** @type {() => void} */ f) => setTimeout(f, 200));
    idle(() => {
      for (const layer of [now.layer + 1, now.layer - 1]) if (data.hasMap(layer)) data.use(data.map(layer, now.head));
    });
  }

  /** A code as it is shown: without the first token, over the rest of its row. @param {Uint8Array} codes @param {number} row @param {number} column */
  code(codes, row, column) {
    const code = codes[place(this.data.n, row, column)];
    if (!this.now.first || row === 0) return code;
    if (column === 0) return 0;
    const others = Math.max(1 - weight(codes[place(this.data.n, row, 0)]), 1e-9);
    return Math.min(Math.round(code / Math.sqrt(others)), 255);
  }

  /** Reduced by the largest of each part. @param {HTMLCanvasElement} canvas @param {Uint8Array} codes */
  drawWhole(canvas, codes) {
    const { n } = this.data;
    const each = Math.ceil(n / MOST);
    const side = Math.ceil(n / each);
    canvas.width = canvas.height = side;
    canvas.style.width = `${side < 256 ? side * 2 : side}px`;
    const most = new Uint8Array(side * side);
    for (let column = 0; column < n; column++) {
      for (let row = column; row < n; row++) {
        const to = Math.floor(row / each) * side + Math.floor(column / each);
        most[to] = Math.max(most[to], this.code(codes, row, column));
      }
    }
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(side, side);
    for (let i = 0; i < most.length; i++) {
      if (i % side <= Math.floor(i / side)) for (let k = 0; k < 4; k++) image.data[4 * i + k] = AMOUNT_TABLE[4 * most[i] + k];
    }
    context.putImageData(image, 0, 0);
    context.fillStyle = getComputedStyle(this).caretColor;
    context.fillRect(Math.floor(this.now.at / each) + 1, Math.floor(this.now.at / each), 6, 1);
  }

  /** @param {HTMLCanvasElement} canvas @param {Uint8Array} codes @param {number} from @param {number} to */
  drawNames(canvas, codes, from, to) {
    const [margin, dots] = [MARGIN, globalThis.devicePixelRatio || 1];
    const side = Math.min(Math.max(Math.floor((this.clientWidth - margin) / (to - from)), 9), 26);
    const size = margin + (to - from) * side;
    canvas.width = canvas.height = Math.round(size * dots);
    canvas.style.width = `${size}px`;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(dots, dots);
    const style = getComputedStyle(this);
    context.font = `${Math.min(side, 12)}px ${style.fontFamily}`;
    context.textBaseline = "middle";
    for (let row = from; row < to; row++) {
      const y = margin + (row - from) * side;
      context.fillStyle = style.color;
      context.textAlign = "right";
      const name = named(this.data.shown(this.data.meta.ids[row])).slice(0, 12);
      context.fillText(name, margin - 6, y + side / 2, margin - 10);
      context.save();
      context.translate(margin + (row - from) * side + side / 2, margin - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(name, 0, 0, margin - 10);
      context.restore();
      for (let column = from; column <= row; column++) {
        const code = this.code(codes, row, column);
        const rgb = amount(code / 255);
        const x = margin + (column - from) * side;
        context.fillStyle = css(rgb);
        context.fillRect(x, y, side - 1, side - 1);
        const share = Math.round(100 * weight(code));
        if (share >= 10 && side >= 16) {
          context.fillStyle = ink(rgb);
          context.textAlign = "center";
          context.font = `10px ${style.fontFamily}`;
          context.fillText(String(share), x + side / 2, y + side / 2);
          context.font = `${Math.min(side, 12)}px ${style.fontFamily}`;
        }
      }
    }
    context.strokeStyle = style.caretColor;
    context.lineWidth = 2;
    context.strokeRect(1, margin + (this.now.at - from) * side - 1, margin + (this.now.at - from + 1) * side, side + 1);
  }

  /** @param {MouseEvent} event */
  pick(event) {
    const canvas = /** @type {HTMLCanvasElement} */ (event.currentTarget);
    const box = canvas.getBoundingClientRect();
    const [from, to] = this.range();
    const whole = to - from > NEAR;
    const margin = whole ? 0 : MARGIN;
    const row = from + Math.floor(((event.clientY - box.top - margin) / (box.height - margin)) * (to - from));
    if (row >= from) this.go({ at: Math.min(row, to - 1) });
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    this.go({ at: this.now.at + move });
  }
}

customElements.define("pellucid-head", Head);
