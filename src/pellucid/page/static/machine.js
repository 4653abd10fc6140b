// What runs: the plan's operations, the cache, and the passes that made the text.
import { html, nothing, svg } from "./vendor/lit.js";
import { passRows } from "./passes.js";
import { numeral } from "./say.js";
import { parts, say } from "./strings.js";
import { fixed, listed, percent, size } from "./text.js";
import { View } from "./view.js";

export class Machine extends View {
  depends() {
    return { chosen: ["at"], blocks: [] };
  }

  draw() {
    return html`<h2>${say("machineTitle")}</h2>${this.facts()}${this.passes()}${this.cache()}${this.plan()}`;
  }

  facts() {
    const { model } = this.data.meta;
    const { name, architecture, quantisation, dim, heads, kv } = model;
    return html`<p>${say("machineFacts", { name, architecture, parameters: numeral(model.parameters), quantisation, layers: this.data.layers, dim, heads, kv })}</p>`;
  }

  passes() {
    const { n, meta } = this.data;
    const meter = html`<meter min="0" max=${meta.model.context} .value=${n} aria-label=${say("machineFilled")}></meter>`;
    return html`<h3>${say("machinePasses")}</h3>${passRows(this.data)}
    <p class="quiet">${say("machineMarked")}</p>
    <p>${parts("machineContext", { used: numeral(n), context: numeral(meta.model.context), meter })}</p>`;
  }

  cache() {
    const { meta } = this.data;
    const at = this.now.at + 1;
    const rows = meta.cache.map((one) => ({ ...one, held: one.bytes_per_token * (one.window ? Math.min(one.window, at) : at) }));
    const sum = rows.reduce((total, one) => total + one.held, 0);
    return html`<h3>${say("machineCache")}</h3>${this.growth()}<table><caption>${say("machineHeld", { at: this.now.at, size: size(sum) })}</caption>
      <thead><tr><th scope="col">${say("layers")}</th><th scope="col">${say("machineSees")}</th><th scope="col">${say("machineBytesToken")}</th><th scope="col">${say("machineHolds")}</th></tr></thead>
      <tbody>${rows.map((one, i) => html`<tr><td><i class="swatch part-${i % 2}" aria-hidden="true"></i>${one.layers}</td><td>${one.window ? say("machineLast", { n: one.window }) : say("machineAll")}</td><td>${size(one.bytes_per_token)}</td><td>${size(one.held)}</td></tr>`)}</tbody></table>`;
  }

  /** What the cache holds after each token, layers of one window on those of another. */
  growth() {
    const { n, meta } = this.data;
    const held = (/** @type {{window: number, bytes_per_token: number}} */ one, /** @type {number} */ at) => one.bytes_per_token * (one.window ? Math.min(one.window, at) : at);
    const ends = [...new Set([0, ...meta.cache.map((one) => Math.min(one.window || n, n)), n])].sort((a, b) => a - b);
    const most = meta.cache.reduce((sum, one) => sum + held(one, n), 0) || 1;
    let below = ends.map(() => 0);
    const areas = meta.cache.map((one, i) => {
      const above = ends.map((at, k) => below[k] + held(one, at));
      const points = [...ends.map((at, k) => [at, above[k]]), ...ends.map((at, k) => [at, below[k]]).reverse()];
      below = above;
      return svg`<polygon class="part-${i % 2}" points=${points.map(([x, y]) => `${(100 * x) / n},${30 - (30 * y) / most}`).join(" ")}></polygon>`;
    });
    const x = (100 * (this.now.at + 1)) / n;
    return html`<svg class="growth" viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label=${say("machineGrowth", { size: size(most) })}>${areas}${svg`<line x1=${x} x2=${x} y1="0" y2="30"></line>`}</svg>`;
  }

  plan() {
    const { meta } = this.data;
    const { timings } = meta;
    /** @type {{key: string, layers: number[], rows: number[]}[]} */
    const groups = [];
    const byLayer = new Map();
    meta.plan.forEach(([layer], i) => byLayer.set(layer ?? `op ${i}`, [...(byLayer.get(layer ?? `op ${i}`) ?? []), i]));
    for (const [layer, rows] of byLayer) {
      const alone = typeof layer === "string";
      const key = alone ? layer : JSON.stringify(rows.map((/** @type {number} */ i) => meta.plan[i].slice(1)));
      const last = groups[groups.length - 1];
      if (!alone && last?.key === key) last.layers.push(layer);
      else groups.push({ key, layers: alone ? [] : [layer], rows });
    }
    const each = (/** @type {number[]} */ ns, /** @type {number[]} */ layers, /** @type {number} */ offset) =>
      layers.length ? layers.reduce((sum, layer) => sum + ns[byLayer.get(layer)[offset]], 0) : NaN;
    const time = (/** @type {number} */ ns) => (ns >= 1e6 ? say("milliseconds", { time: fixed(ns / 1e6, 2) }) : say("microseconds", { time: fixed(ns / 1e3, 1) }));
    return html`<h3>${say("machinePlan")}</h3><div class="scroll"><table>
      <caption>${say(timings ? "machineAlikeTimes" : "machineAlike")}</caption>
      <thead><tr><th scope="col">${say("layers")}</th><th scope="col">${say("machineOperation")}</th><th scope="col">${say("machineWeights")}</th><th scope="col">${say("machineBytes")}</th>
        ${timings ? html`<th scope="col">${say("machinePrompt")}</th><th scope="col">${say("machineOne")}</th>` : nothing}</tr></thead>
      <tbody>${groups.map((group) => group.rows.map((i, offset) => {
        const [, kind, name, matrices, bytes, detail] = meta.plan[i];
        const span = group.layers.length > 1 ? `${group.layers[0]}\u2013${group.layers[group.layers.length - 1]}` : `${group.layers[0] ?? ""}`;
        const took = (/** @type {number[]} */ ns) => {
          const own = group.layers.length ? each(ns, group.layers, offset) : ns[i];
          return say("machineTook", { time: time(own), share: percent(own / ns.reduce((a, b) => a + b, 0)) });
        };
        return html`<tr><td>${offset ? "" : span}</td><td>${kind} <small>${name}${detail ? `: ${detail}` : ""}</small></td>
          <td>${listed(matrices.map(([format, rows, columns]) => `${format} ${rows}\u00d7${columns}`))}</td><td>${bytes ? size(bytes) : ""}</td>
          ${timings ? html`<td>${took(timings.prompt)}</td><td>${took(timings.token)}</td>` : nothing}</tr>`;
      }))}</tbody></table></div>`;
  }
}

customElements.define("pellucid-machine", Machine);
