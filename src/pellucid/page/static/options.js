// What a conversation is asked with: the sampler's options, a shape for answers, tools.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { say } from "./appstrings.js";

/** @typedef {import("./tree.js").Settings} Settings */

const SLIDERS = /** @type {const} */ ([
  ["temperature", "optionsTemperature", 0, 2, 0.05],
  ["top_k", "optionsTopK", 0, 200, 1],
  ["top_p", "optionsTopP", 0, 1, 0.01],
  ["min_p", "optionsMinP", 0, 1, 0.005],
  ["repeat_penalty", "optionsRepeat", 1, 2, 0.01],
]);
const TOOL = '{"type": "function", "function": {...}}';

/** The tools of a text; throws an Error in words. @param {string} text @returns {object[]} */
export function toolsOf(text) {
  if (!text.trim()) return [];
  const found = parsed(text, (why) => say("optionsToolsJson", { why }));
  if (!Array.isArray(found)) throw new Error(say("optionsNoList", { example: TOOL }));
  return found;
}

/** @param {string} text @param {(why: string) => string} wrong what is said of another text */
function parsed(text, wrong) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(wrong(error instanceof Error ? error.message : ""));
  }
}

/** The fields of a request. Throws an Error in words. @param {Settings} settings @returns {Record<string, any>} */
export function asked(settings) {
  const tools = toolsOf(settings.tools);
  const shape = settings.schema.trim() ? { response_format: { type: "json_schema", json_schema: { name: "answer", schema: parsed(settings.schema, (why) => say("optionsSchemaJson", { why })) } } } : {};
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
    return html`<details><summary>${say("options")}</summary>
      <label class="slider">${say("optionsSystem")} <textarea rows="2" .value=${settings.system} @change=${(/** @type {any} */ e) => this.change({ system: e.target.value })}></textarea></label>
      ${SLIDERS.map(([name, text, least, most, step]) => {
        const value = settings.options[name] ?? defaults[name] ?? least;
        return html`<label class="slider">${say(text)} <output>${value}</output><input type="range" min=${least} max=${most} step=${step} .value=${String(value)}
          @input=${(/** @type {any} */ e) => this.change({ options: { ...settings.options, [name]: Number(e.target.value) } })}></label>`;
      })}
      <label>${say("tokensMost")} <input type="number" min="1" .value=${String(settings.most)} @change=${(/** @type {any} */ e) => this.change({ most: Math.max(Math.trunc(Number(e.target.value)) || 1, 1) })}></label>
      <label>${say("optionsSeed")} <input inputmode="numeric" size="10" maxlength="15" .value=${settings.seed} @change=${(/** @type {any} */ e) => this.change({ seed: /^\d{1,15}$/.test(e.target.value) ? e.target.value : "" })}></label>
      <label class="slider">${say("optionsSchema")} <textarea rows="3" spellcheck="false" .value=${settings.schema} @change=${(/** @type {any} */ e) => this.change({ schema: e.target.value })}></textarea></label>
      <label class="slider">${say("optionsTools")} <textarea rows="3" spellcheck="false" .value=${settings.tools} @change=${(/** @type {any} */ e) => this.change({ tools: e.target.value })}></textarea></label>
      ${wrong ? html`<p class="warn">${wrong}</p>` : nothing}
    </details>`;
  }
}

customElements.define("pellucid-options", Options);
