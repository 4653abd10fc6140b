// The text: its tokens, shaded, with what the chosen head looks at.
import { html, nothing } from "./vendor/lit.js";
import { say } from "./strings.js";
import { fixed } from "./text.js";
import { bdi, View } from "./view.js";

const FULL = 12; // bits of a full shade
const ARCS = 6;
const SHADES = /** @type {const} */ ({
  surprise: "stripSurprise", entropy: "stripEntropy", received: "stripReceived", push: "stripPush", none: "stripNone",
});

export class Strip extends View {
  depends() {
    return { chosen: ["at", "layer", "head", "shade"], blocks: [this.data.map(this.now.layer, this.now.head), "head-push"] };
  }

  draw() {
    const { data, now } = this;
    const looks = this.looks();
    return html`
      <div class="row">
        <label>${say("stripShade")}
          <select @change=${(/** @type {any} */ e) => this.go({ shade: e.target.value })}>
            ${Object.entries(SHADES).map(([name, text]) => html`<option value=${name} .selected=${name === now.shade}>${say(text)}</option>`)}
          </select>
        </label>
        <span class="quiet">${say("stripLines", { layer: now.layer, head: now.head })}</span>
      </div>
      <div class="strip" role="listbox" tabindex="0" aria-label=${say("stripTokens")} aria-activedescendant="token-${now.at}" @keydown=${this.press}>
        <svg class="arcs" aria-hidden="true"></svg>
        ${data.meta.ids.map((_, i) => this.token(i, looks))}
      </div>`;
  }

  /** @param {number} i @param {Float32Array | undefined} looks */
  token(i, looks) {
    const { data, now } = this;
    const id = data.meta.ids[i];
    const token = data.shown(id);
    const share = this.shade(i);
    const look = looks && i < looks.length ? looks[i] : 0;
    const surprise = data.surprise(i);
    const bits = Number.isNaN(surprise) ? say("stripFirst") : say("stripBits", { bits: fixed(surprise, 1) });
    const breaks = data.piece(id).includes("\n");
    const made = i >= data.meta.prompt;
    return html`<span id="token-${i}" role="option" class="token ${i === now.at ? "chosen" : ""} ${made ? "made" : ""}"
        aria-selected=${i === now.at} aria-label=${say("stripToken", { at: i, token, bits })} title=${say("stripTip", { at: i, token, id, bits })}
        .style=${`--share:${share.toFixed(3)};--look:${Math.sqrt(look).toFixed(3)}`}
        @click=${() => this.go({ at: i })}>${bdi(token.replace(/ /g, "\u00b7"))}</span>${breaks ? html`<br>` : nothing}`;
  }

  /** @param {number} i */
  shade(i) {
    const { data, now } = this;
    switch (now.shade) {
      case "surprise":
        return Math.min((data.surprise(i) || 0) / FULL, 1);
      case "entropy":
        return Math.min(data.entropy(i) / FULL, 1);
      case "received": {
        const column = data.hasMap(now.layer) ? data.column(now.layer, now.head, i) : undefined;
        return column && i <= now.at ? Math.sqrt(column.reduce((a, b) => a + b, 0) / column.length) : 0;
      }
      case "push":
        return Math.min(Math.abs(data.headPush(i, 0, now.layer, now.head)) / 4 || 0, 1);
      default:
        return 0;
    }
  }

  looks() {
    const { data, now } = this;
    return data.hasMap(now.layer) ? data.row(now.layer, now.head, now.at) : undefined;
  }

  drawn() {
    const box = /** @type {HTMLElement} */ (this.querySelector(".strip"));
    const arcs = /** @type {SVGElement | null} */ (this.querySelector(".arcs"));
    if (!box || !arcs) return;
    const chosen = /** @type {HTMLElement} */ (this.querySelector(`#token-${this.now.at}`));
    if (this.last !== this.now.at) {
      this.last = this.now.at;
      const [top, bottom] = [chosen.offsetTop - 24, chosen.offsetTop + chosen.offsetHeight + 8];
      if (top < box.scrollTop || bottom > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 3;
    }
    const looks = this.looks();
    const best = looks
      ? Array.from(looks, (w, i) => ({ w, i })).filter((one) => one.w > 0.02 && one.i !== this.now.at).sort((a, b) => b.w - a.w).slice(0, ARCS)
      : [];
    arcs.setAttribute("width", String(box.clientWidth));
    arcs.setAttribute("height", String(box.scrollHeight));
    const middle = (/** @type {HTMLElement} */ e) => [e.offsetLeft + e.offsetWidth / 2, e.offsetTop];
    const [x, y] = middle(chosen);
    arcs.replaceChildren(
      ...best.map(({ w, i }) => {
        const [to, below] = middle(/** @type {HTMLElement} */ (this.querySelector(`#token-${i}`)));
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        const height = Math.min(12 + Math.abs(to - x) / 12, 22);
        path.setAttribute("d", `M${x},${y} C${x},${y - height} ${to},${below - height} ${to},${below}`);
        path.style.strokeWidth = `${1 + 3 * w}`;
        path.style.opacity = `${0.35 + 0.65 * w}`;
        return path;
      }),
    );
  }

  /** @type {number | undefined} */
  last = undefined;

  /** @param {KeyboardEvent} event */
  press(event) {
    const { at } = this.now;
    const end = this.data.n - 1;
    /** @type {Record<string, number>} */
    const to = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1,
      Home: 0, End: end, PageUp: at - 16, PageDown: at + 16,
    };
    if (!(event.key in to) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.go({ at: Math.min(Math.max(to[event.key], 0), end) });
  }
}

customElements.define("pellucid-strip", Strip);
