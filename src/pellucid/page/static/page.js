// The offline page: one file's data, and the views.
import { html, LitElement } from "./vendor/lit.js";
import { Data } from "./data.js";
import { OtherSource, PageSource } from "./source.js";
import { opened } from "./state.js";
import { say } from "./strings.js";
import "./views.js";

export class Page extends LitElement {
  constructor() {
    super();
    /** @type {import("./view.js").Pair | null} */
    this.pair = null;
    this.failure = "";
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    void this.start();
  }

  async start() {
    try {
      if (!("DecompressionStream" in globalThis)) throw new Error(say("pageOld"));
      const data = new Data(new PageSource(document));
      await data.start();
      const state = opened(data, data.meta.hand, true);
      globalThis.addEventListener("hashchange", () => state.read());
      this.pair = { data, state };
      if (data.meta.against) {
        const other = new Data(new OtherSource(data.source));
        await other.start();
        other.addEventListener("block", () => data.dispatchEvent(new Event("block")));
        this.pair = { data, state, other };
      }
    } catch (error) {
      this.failure = error instanceof Error ? error.message : String(error);
    }
    this.requestUpdate();
  }

  render() {
    if (this.failure) return html`<p role="alert" class="warn">${this.failure}</p>`;
    if (this.pair === null) return html`<p class="quiet">${say("pageReading")}</p>`;
    return html`<header><h1>${this.pair.data.meta.title}</h1></header>
      <main><pellucid-views .page=${this.pair}></pellucid-views></main>`;
  }
}

customElements.define("pellucid-page", Page);
