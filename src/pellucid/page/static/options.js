// What a conversation is asked with: the sampler's options, a shape for answers, tools.
import { html, LitElement, nothing } from "./vendor/lit.js";

/** @typedef {import("./tree.js").Settings} Settings */

const SLIDERS = /** @type {[string, string, number, number, number][]} */ ([
  ["temperature", "Temperature", 0, 2, 0.05],
  ["top_k", "Top-k", 0, 200, 1],
  ["top_p", "Top-p", 0, 1, 0.01],
  ["min_p", "Min-p", 0, 1, 0.005],
  ["repeat_penalty", "Repeat penalty", 1, 2, 0.01],
]);

/** The tools of a text; throws an Error in words. @param {string} text @returns {object[]} */
export function toolsOf(text) {
  if (!text.trim()) return [];
  const found = parsed(text, "tools");
  if (!Array.isArray(found)) throw new Error("The tools are not a list, as in [{\"type\": \"function\", \"function\": {...}}].");
  return found;
}

/** @param {string} text @param {string} what */
function parsed(text, what) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The ${what}: no JSON. ${error instanceof Error ? error.message : ""}`);
  }
}

/** The fields of a request. Throws an Error in words. @param {Settings} settings @returns {Record<string, any>} */
export function asked(settings) {
  const tools = toolsOf(settings.tools);
  const shape = settings.schema.trim() ? { response_format: { type: "json_schema", json_schema: { name: "answer", schema: parsed(settings.schema, "schema") } } } : {};
  return { ...settings.options, ...(settings.seed ? { seed: Number(settings.seed) } : {}), ...(tools.length ? { tools } : {}), ...shape };
}

export class Options extends LitElement {
  static properties = { settings: { attribute: false }, defaults: { attribute: false } };

  constructor() {
    super();
    /** @type {Settings} */
    this.settings = /** @type {any} */ (undefined);
    /** @type {Record<string, any>} */
    this.defaults = {};
  }

  createRenderRoot() {
    return this;
  }

  /** @param {Partial<Settings>} change */
  change(change) {
    Object.assign(this.settings, change);
    this.requestUpdate();
    this.dispatchEvent(new CustomEvent("settings", { bubbles: true }));
  }

  wrong() {
    try {
      asked(this.settings);
      return "";
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  render() {
    const { settings, defaults } = this;
    const wrong = this.wrong();
    return html`<details><summary>Options</summary>
      <label class="slider">System message <textarea rows="2" .value=${settings.system} @change=${(/** @type {any} */ e) => this.change({ system: e.target.value })}></textarea></label>
      ${SLIDERS.map(([name, said, least, most, step]) => {
        const value = settings.options[name] ?? defaults[name] ?? least;
        return html`<label class="slider">${said} <output>${value}</output><input type="range" min=${least} max=${most} step=${step} .value=${String(value)}
          @input=${(/** @type {any} */ e) => this.change({ options: { ...settings.options, [name]: Number(e.target.value) } })}></label>`;
      })}
      <label>Tokens at most <input type="number" min="1" .value=${String(settings.most)} @change=${(/** @type {any} */ e) => this.change({ most: Math.max(Math.trunc(Number(e.target.value)) || 1, 1) })}></label>
      <label>Seed <input inputmode="numeric" size="10" maxlength="15" .value=${settings.seed} @change=${(/** @type {any} */ e) => this.change({ seed: /^\d{1,15}$/.test(e.target.value) ? e.target.value : "" })}></label>
      <label class="slider">Schema of answers (JSON) <textarea rows="3" spellcheck="false" .value=${settings.schema} @change=${(/** @type {any} */ e) => this.change({ schema: e.target.value })}></textarea></label>
      <label class="slider">Tools (JSON) <textarea rows="3" spellcheck="false" .value=${settings.tools} @change=${(/** @type {any} */ e) => this.change({ tools: e.target.value })}></textarea></label>
      ${wrong ? html`<p class="warn">${wrong}</p>` : nothing}
    </details>`;
  }
}

customElements.define("pellucid-options", Options);
