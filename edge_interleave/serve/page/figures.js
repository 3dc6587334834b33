/** Rates, milliseconds by stage, dropped frames and memory. */

import { byId, make } from "./dom.js";
import { bytes, duration, rate } from "./format.js";

/** @type {[string, string][]} */
const ROWS = [
  ["rate", "frames a second"],
  ["taken", "frames taken"],
  ["dropped", "frames dropped"],
  ["encode", "encode a frame"],
  ["prefill", "prefill a frame"],
  ["question", "prefill the question"],
  ["decode", "tokens a second, decode"],
  ["check", "yes-or-no check"],
  ["entries", "KV entries in use"],
  ["memory", "server's memory"],
];

export class Figures {
  /** @type {Map<string, {value: HTMLElement, more: HTMLElement}>} */
  #shown = new Map();

  constructor() {
    for (const [id, name] of ROWS) {
      const value = make("dd", {}, "–");
      const more = make("small");
      this.#shown.set(id, { value, more });
      byId("figures").append(make("div", {}, make("dt", {}, name, more), value));
    }
  }

  /** @param {any} frames The server's message after a frame. @param {number} dropped */
  frame(frames, dropped) {
    this.#set("rate", rate(frames.frames_per_s));
    this.#set("encode", duration(frames.encode_ms));
    this.#set("prefill", duration(frames.prefill_ms));
    this.#set("taken", `${frames.numbers.at(-1)}`);
    this.#set("dropped", `${dropped}`);
    this.#set("entries", `${frames.entries}`, `of ${frames.capacity}`);
    this.#set("memory", bytes(frames.memory_bytes), `peak ${bytes(frames.peak_memory_bytes)}`);
  }

  /** @param {any} timings Of an answer. */
  answer(timings) {
    this.#set("question", duration(timings.prompt_ms), `${timings.prompt_n} tokens`);
    this.#set("decode", rate(timings.predicted_per_second));
  }

  /** @param {number} ms */
  check(ms) {
    this.#set("check", duration(ms));
  }

  /** @param {string} id @param {string} text @param {string} [more] */
  #set(id, text, more = "") {
    const shown = /** @type {{value: HTMLElement, more: HTMLElement}} */ (this.#shown.get(id));
    shown.value.textContent = text;
    shown.more.textContent = more;
  }
}
