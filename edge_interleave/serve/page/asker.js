/** Decides when to ask: once, again and again, or when the picture has changed. */

import { difference } from "./capture.js";
import { byId } from "./dom.js";

export class Asker {
  #askedAt = -Infinity;
  /** @type {Uint8ClampedArray | null} */
  #askedOn = null;
  #asking = false;
  #ask;

  /** @param {(question: string) => Promise<void>} ask */
  constructor(ask) {
    this.#ask = ask;
    byId("ask").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#now();
    });
    byId("question").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#now();
    });
    for (const radio of byId("ask").elements.when) radio.addEventListener("change", () => this.#showFields());
    this.#showFields();
  }

  /** @returns {string} */
  get question() {
    return byId("question").value.trim();
  }

  /**
   * A new frame is in the window.
   * @param {Uint8ClampedArray} grey
   */
  frame(grey) {
    if (this.#asking || !this.question) return;
    const when = byId("ask").elements.when.value;
    const seconds = Math.max(0, Number(byId("seconds").value) || 0);
    const due =
      (when === "every" && performance.now() - this.#askedAt >= seconds * 1000) ||
      (when === "change" && (!this.#askedOn || difference(this.#askedOn, grey) >= Number(byId("change").value)));
    if (!due) return;
    this.#askedOn = grey;
    this.#run();
  }

  /** A new source: its first picture counts as a change. */
  reset() {
    this.#askedOn = null;
    this.#askedAt = -Infinity;
  }

  #now() {
    if (this.#asking) return;
    if (!this.question) {
      byId("ask-hint").textContent = "Write a question first.";
      return byId("question").focus();
    }
    this.#run();
  }

  async #run() {
    byId("ask-hint").textContent = "";
    this.#asking = true;
    this.#askedAt = performance.now();
    byId("stop-answer").hidden = false;
    try {
      await this.#ask(this.question);
    } finally {
      this.#asking = false;
      byId("stop-answer").hidden = true;
    }
  }

  #showFields() {
    const when = byId("ask").elements.when.value;
    byId("every-field").hidden = when !== "every";
    byId("change-field").hidden = when !== "change";
    this.#askedOn = null;
  }
}
