/** The list of answers, newest first, each with the frame that it is about. */

import { byId, make } from "./dom.js";
import { clock, duration, rate } from "./format.js";
import { say } from "./notices.js";

const MOST = 100;
const UNFAMILIAR = "The model was not trained on questions worded like this one; do not rely on the answer.";

export class Answers {
  #spoken = "";

  /**
   * Add an answer that begins now.
   * @param {string} question
   */
  begin(question) {
    byId("answers").hidden = false;
    byId("answers-empty").hidden = true;
    return new Answer(question, (text) => this.#say(text));
  }

  /** @param {string} text Said aloud unless it is what was said last: a repeated question often has the same answer. */
  #say(text) {
    if (text === this.#spoken) return;
    this.#spoken = text;
    say(text);
  }
}

export class Answer {
  #item;
  #meta = make("p", { class: "meta" });
  #text = make("p", { class: "text" });
  #say;
  /** @type {string | null} */
  #url = null;
  #number = 0;

  /** @param {string} question @param {(text: string) => void} speak */
  constructor(question, speak) {
    this.#say = speak;
    const asked = make("p", { class: "meta" }, question);
    this.#item = make("li", { class: "answer running" }, make("span", { class: "blank" }), this.#meta, asked, this.#text);
    this.#meta.textContent = clock();
    const list = byId("answers");
    list.prepend(this.#item);
    while (list.children.length > MOST) {
      const image = list.lastElementChild.querySelector("img");
      if (image) URL.revokeObjectURL(image.src);
      list.lastElementChild.remove();
    }
  }

  get text() {
    return this.#text.textContent ?? "";
  }

  /**
   * More of the answer has come.
   * @param {any} chunk
   * @param {(number: number) => Blob | undefined} pictureOf
   */
  add(chunk, pictureOf) {
    const picture = pictureOf(chunk.number);
    if (!this.#url && picture) {
      this.#number = chunk.number;
      this.#url = URL.createObjectURL(picture);
      const image = make("img", { src: this.#url, alt: `Frame ${chunk.number}` });
      this.#item.firstElementChild.replaceWith(image);
      this.#meta.textContent = `Frame ${chunk.number} · ${clock()}`;
    }
    this.#text.append(chunk.choices[0]?.delta.content ?? "");
  }

  /** @param {any} last The answer's last chunk. */
  end(last) {
    const { timings } = last;
    const seconds = timings.prompt_ms + timings.predicted_ms;
    this.#meta.append(` · ${duration(seconds)}, ${rate(timings.predicted_per_second)} tokens/s`);
    if (last.familiar === false) this.#item.append(make("p", { class: "note" }, UNFAMILIAR));
    this.#item.classList.remove("running");
    this.#say(this.#number ? `Frame ${this.#number}: ${this.text}` : this.text);
  }

  /** @param {string} why The answer ended early. */
  breakOff(why) {
    this.#item.classList.remove("running");
    this.#item.append(make("p", { class: "note" }, why));
  }
}
