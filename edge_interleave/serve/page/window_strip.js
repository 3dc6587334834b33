/** The window's frames as small pictures, with their numbers and what each costs in tokens. */

import { byId, make } from "./dom.js";
import { counted } from "./format.js";

/** @typedef {import("./connection.js").WindowFrame} WindowFrame */

/** Pictures that are kept: the window's, and those that an answer may still name. */
const KEPT = 80;

export class WindowStrip {
  /** @type {Map<number, Blob>} */
  #pictures = new Map();
  /** @type {Map<number, {item: HTMLElement, url: string | null}>} */
  #shown = new Map();
  /** @type {WindowFrame[]} */
  #frames = [];

  /**
   * The picture of a frame.
   * @param {number} number
   * @returns {Blob | undefined}
   */
  picture(number) {
    return this.#pictures.get(number);
  }

  /** @returns {Blob[]} The window's pictures, oldest first. */
  get pictures() {
    return this.#frames.flatMap(({ number }) => this.#pictures.get(number) ?? []);
  }

  /** Another window: its frames are numbered from 1. */
  clear() {
    this.#pictures.clear();
    this.show([], 0);
  }

  /**
   * @param {number} number
   * @param {Blob} picture
   */
  keep(number, picture) {
    this.#pictures.set(number, picture);
    this.#pictures.delete(number - KEPT);
  }

  /**
   * @param {WindowFrame[]} frames Oldest first.
   * @param {number} most Frames that the window holds.
   */
  show(frames, most) {
    this.#frames = frames;
    const numbers = new Set(frames.map((frame) => frame.number));
    for (const [number, { item, url }] of this.#shown) {
      if (numbers.has(number)) continue;
      item.remove();
      if (url) URL.revokeObjectURL(url);
      this.#shown.delete(number);
    }
    for (const frame of frames) if (!this.#shown.has(frame.number)) this.#append(frame);
    const list = byId("window");
    for (const item of list.children) item.classList.toggle("newest", item === list.lastElementChild);
    list.scrollLeft = list.scrollWidth;
    const tokens = frames.reduce((sum, frame) => sum + frame.tokens, 0);
    byId("window-sum").textContent = frames.length
      ? `${frames.length} of ${counted(most, "frame")}, ${tokens} visual tokens`
      : "no frames yet";
  }

  /** @param {WindowFrame} frame */
  #append({ number, tokens }) {
    const picture = this.#pictures.get(number);
    const url = picture ? URL.createObjectURL(picture) : null;
    const shown = url ? make("img", { src: url, alt: `Frame ${number}` }) : make("span", { class: "blank" });
    const item = make("li", {}, shown, make("span", {}, make("b", {}, `${number}`), ` · ${tokens} tokens`));
    byId("window").append(item);
    this.#shown.set(number, { item, url });
  }
}
