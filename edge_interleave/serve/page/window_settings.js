/** How many frames the window keeps, and how much they are pooled; changed at any time. */

import { byId, make } from "./dom.js";
import { counted } from "./format.js";

/**
 * @typedef {{pool: number, tokens: number, frames: number}} Choice
 */

export class WindowSettings {
  /** @type {Choice[]} */
  #choices = [];
  /** The model's name, if another than the server's first was chosen. @type {string | undefined} */
  model;

  /** @param {() => void} onChange */
  constructor(onChange) {
    for (const id of ["window-frames", "pool"]) {
      byId(id).addEventListener("change", () => {
        this.#bound();
        onChange();
      });
    }
  }

  /** @returns {import("./connection.js").Settings} */
  get value() {
    const settings = { window: Number(byId("window-frames").value) || 1, pool: Number(byId("pool").value) };
    return this.model ? { model: this.model, ...settings } : settings;
  }

  /** @param {{window: number, pool: number, allowed: Choice[]}} opened What the server opened, and what it allows. */
  show({ window, pool, allowed }) {
    this.#choices = allowed;
    const options = allowed
      .filter((choice) => choice.frames > 0)
      .map((choice) => {
        const text = `${choice.pool}: ${counted(choice.tokens, "visual token")} a frame`;
        return make("option", { value: `${choice.pool}` }, text);
      });
    byId("pool").replaceChildren(...options);
    byId("pool").value = `${pool}`;
    byId("window-frames").value = `${window}`;
    this.#bound();
  }

  #bound() {
    const choice = this.#choices.find(({ pool }) => pool === Number(byId("pool").value));
    if (!choice) return;
    const field = byId("window-frames");
    field.max = `${choice.frames}`;
    field.value = `${Math.min(choice.frames, Math.max(1, Math.round(Number(field.value)) || 1))}`;
    byId("allowed").textContent =
      `The server allows ${counted(choice.frames, "frame")} at this pooling. More frames show a longer time; less ` +
      "pooling shows more detail.";
  }
}
