/** The two tabs: arrow keys move between them, as the ARIA practices describe. */

import { byId } from "./dom.js";

const NAMES = ["live", "pictures"];

export function setUpTabs() {
  for (const [at, name] of NAMES.entries()) {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => choose(name));
    tab.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = NAMES[(at + step + NAMES.length) % NAMES.length];
      choose(next);
      byId(`tab-${next}`).focus();
    });
  }
}

/** @param {string} name `live` or `pictures` */
export function choose(name) {
  for (const other of NAMES) {
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", `${other === name}`);
    tab.tabIndex = other === name ? 0 : -1;
    byId(other).hidden = other !== name;
  }
}
