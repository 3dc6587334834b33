/** Errors, which stay until they are dismissed or solved, and what a screen reader should say. */

import { byId, make } from "./dom.js";

/**
 * An error whose message is a sentence for people that says what to do.
 */
export class Told extends Error {}

/** @param {string} text A sentence that says what is wrong and what to do; `code` in backticks. */
export function warn(text) {
  const place = byId("notice");
  const line = make("p", {}, ...text.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part)));
  const dismiss = make("button", { type: "button" }, "Dismiss");
  dismiss.addEventListener("click", calm);
  place.replaceChildren(line, dismiss);
  place.classList.add("shown");
}

/** Remove the error. */
export function calm() {
  const place = byId("notice");
  if (!place.classList.contains("shown")) return;
  place.classList.remove("shown");
  place.replaceChildren();
}

/** @param {unknown} error */
export function warnOf(error) {
  if (error instanceof Told) return warn(error.message);
  console.error(error);
  return warn(`The page made a mistake (${error instanceof Error ? error.message : error}). Reload it to go on.`);
}

/** @param {string} text What a screen reader says next. */
export function say(text) {
  byId("spoken").textContent = text;
}

/** @param {"ready" | "lost" | "busy"} state @param {string} text */
export function status(state, text) {
  const place = byId("status");
  if (place.dataset.state === state && byId("status-text").textContent === text) return;
  place.dataset.state = state;
  byId("status-text").textContent = text;
}
