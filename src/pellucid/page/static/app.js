// The app of `pellucid serve --ui`: conversations, a playground, edits of the model.
import { html, LitElement, nothing } from "./vendor/lit.js";
import { useKey } from "./api.js";
import { say } from "./appstrings.js";
import { server } from "./server.js";
import "./chat.js";
import "./edits.js";
import "./options.js";
import "./playground.js";

const KEY = "pellucid key"; // in this tab's storage
const PARTS = /** @type {const} */ ([["chat", "appChat"], ["playground", "appPlayground"], ["edits", "appEdits"]]);

export class App extends LitElement {
  constructor() {
    super();
    this.chosen = PARTS.some(([name]) => `#${name}` === location.hash) ? location.hash.slice(1) : "chat";
    this.opened = new Set([this.chosen]);
  }

  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    useKey(sessionStorage.getItem(KEY) ?? "");
    server.addEventListener("change", () => this.requestUpdate());
    void server.start();
  }

  /** @param {string} part */
  go(part) {
    this.chosen = part;
    this.opened.add(part);
    history.replaceState(null, "", `#${part}`);
    this.requestUpdate();
  }

  render() {
    const { chosen: part, opened } = this;
    return html`
      <header><h1>${server.model?.id ?? say("appName")}</h1>
        <nav class="row" aria-label=${say("appParts")}>${PARTS.map(([name, text]) => html`<button type="button" aria-current=${name === part ? "page" : "false"} @click=${() => this.go(name)}>${say(text)}</button>`)}
          <label class="key">${say("appKey")} <input class="secret" autocomplete="off" spellcheck="false" @change=${(/** @type {any} */ e) => { sessionStorage.setItem(KEY, e.target.value); useKey(e.target.value); void server.start(); }}></label></nav>
        ${server.failure ? html`<p class="warn" role="alert">${server.failure}</p>` : nothing}</header>
      <main>
        <div ?hidden=${part !== "chat"}>${opened.has("chat") ? html`<pellucid-chat></pellucid-chat>` : nothing}</div>
        <div ?hidden=${part !== "playground"}>${opened.has("playground") ? html`<pellucid-playground></pellucid-playground>` : nothing}</div>
        <div ?hidden=${part !== "edits"}>${opened.has("edits") ? html`<pellucid-edits></pellucid-edits>` : nothing}</div>
      </main>`;
  }
}

customElements.define("pellucid-app", App);
