/** How likely the answer is yes: value, threshold, history, and when it crossed. */

import { byId } from "./dom.js";
import { clock } from "./format.js";
import { say } from "./notices.js";

const WIDTH = 240;
const HEIGHT = 64;
const MOST = 120;
/** Below this share of the probability, the model would answer neither yes nor no. */
const UNCERTAIN = 0.01;

export class Meter {
  /** @type {number[]} */
  #history = [];
  #isYes = false;
  #since = "";

  constructor() {
    byId("threshold").addEventListener("input", () => this.#draw());
    byId("meter-on").addEventListener("change", () => this.reset());
    byId("meter-question").addEventListener("input", () => this.reset());
    byId("meter-question").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter") return;
      byId("meter-on").checked = true;
      this.reset();
    });
    this.reset();
  }

  /** The question to check; "" while the meter is off. @returns {string} */
  get question() {
    return byId("meter-on").checked ? byId("meter-question").value.trim() : "";
  }

  /** Begin again. */
  reset() {
    this.#history = [];
    this.#isYes = false;
    byId("meter-value").textContent = "–";
    this.#draw();
    const on = byId("meter-on").checked;
    if (on && !byId("meter-question").value.trim()) this.#tell("off", "Write a question that yes or no answers.");
    else if (on) this.#tell("no", "Waiting for a frame.");
    else this.#tell("off", "Switch it on to see how likely the answer is yes.");
  }

  /** @param {{number: number, probability: number, certainty: number}} checked */
  show(checked) {
    this.#history.push(checked.probability);
    if (this.#history.length > MOST) this.#history.shift();
    byId("meter-value").textContent = checked.probability.toFixed(2);
    this.#draw();
    const yes = checked.probability >= threshold();
    if (yes !== this.#isYes || this.#history.length === 1) {
      this.#since = `since frame ${checked.number}, ${clock()}`;
      if (yes || this.#isYes) say(`${yes ? "Yes" : "No longer yes"}, frame ${checked.number}`);
    }
    this.#isYes = yes;
    if (checked.certainty < UNCERTAIN) {
      this.#tell("off", "The model would answer neither yes nor no; ask a question that yes or no answers.");
    } else this.#tell(yes ? "yes" : "no", `${yes ? "Yes" : "No"}, ${this.#since}`);
  }

  /** @param {string} state @param {string} text */
  #tell(state, text) {
    byId("meter-state").dataset.state = state;
    byId("meter-state").textContent = text;
  }

  #draw() {
    const points = this.#history.map((value, at) => {
      const x = WIDTH - (this.#history.length - 1 - at) * (WIDTH / (MOST - 1));
      return `${x.toFixed(1)},${yOf(value).toFixed(1)}`;
    });
    byId("meter-path").setAttribute("points", points.join(" "));
    const [first] = points;
    const area = first ? `M${first.split(",")[0]},${HEIGHT} L${points.join(" L")} L${WIDTH},${HEIGHT} Z` : "";
    byId("meter-area").setAttribute("d", area);
    for (const end of ["y1", "y2"]) byId("meter-line").setAttribute(end, yOf(threshold()).toFixed(1));
    byId("threshold-value").textContent = threshold().toFixed(2);
    const { length } = this.#history;
    byId("meter-history").setAttribute(
      "aria-label",
      length
        ? `Probability of yes over the last ${length} checks: from ${Math.min(...this.#history).toFixed(2)} to ` +
            `${Math.max(...this.#history).toFixed(2)}, now ${this.#history[length - 1].toFixed(2)}`
        : "History of the probability of yes, empty",
    );
  }
}

/** @returns {number} */
function threshold() {
  return Number(byId("threshold").value);
}

/** @param {number} value A probability. */
function yOf(value) {
  return 3 + (1 - value) * (HEIGHT - 6);
}
