// Whether the server is there, and its model. All parts of the app share one.
import { alive, CallError, model } from "./api.js";
import { say } from "./appstrings.js";

const EVERY = 5000; // milliseconds between two looks at a server that answers
const AGAIN = 1500; // and at one that does not

export class Server extends EventTarget {
  constructor() {
    super();
    /** @type {Awaited<ReturnType<typeof model>> | null} */
    this.model = null;
    this.failure = "";
    this.lost = false;
    this.timer = 0;
  }

  /** @param {string} failure */
  say(failure) {
    this.failure = failure;
    this.dispatchEvent(new Event("change"));
  }

  /** Asks for the model, and from then on now and then whether the server is there. */
  async start() {
    try {
      this.model = await model();
      this.say(this.lost ? say("serverBack") : "");
      this.lost = false;
    } catch (error) {
      this.fail(error);
    }
    this.later();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), this.lost || this.model === null ? AGAIN : EVERY);
  }

  async check() {
    if (this.lost || this.model === null) {
      if (await alive()) return this.start();
    } else if (!document.hidden && !(await alive())) this.lose();
    this.later();
  }

  lose() {
    this.lost = true;
    this.say(say("serverAgain"));
  }

  /** @param {unknown} error */
  fail(error) {
    if (error instanceof CallError && error.lost) this.lose();
    else this.say(error instanceof Error ? error.message : String(error));
    this.later();
  }
}

export const server = new Server();
