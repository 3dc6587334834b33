/** The API key: entered once, kept in this tab's session storage, sent in headers and as a WebSocket subprotocol. */

import { byId } from "./dom.js";

const PLACE = "edge-interleave key";

/** @returns {string} The key, or "" */
export function key() {
  return sessionStorage.getItem(PLACE) ?? "";
}

/** @returns {Record<string, string>} Headers of a request, which hold Latin-1 only. */
export function headers() {
  return key() && !/[^\x00-\xff]/.test(key()) ? { Authorization: `Bearer ${key()}` } : {};
}

/** @returns {string[]} A WebSocket's subprotocols: unlike a URL they are kept in no history. */
export function subprotocols() {
  if (!key()) return ["edge-interleave"];
  const raw = String.fromCharCode(...new TextEncoder().encode(key()));
  const text = btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["edge-interleave", `edge-interleave.key.${text}`];
}

/**
 * Ask for the key until the server takes it.
 * @param {() => Promise<boolean>} accepted Whether the server takes the key that is kept now. May throw an error for people.
 */
export async function askForKey(accepted) {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  const form = byId("key-form");
  const field = byId("key");
  byId("key-error").textContent = "";
  dialog.addEventListener("cancel", keepOpen);
  dialog.showModal();
  await new Promise((done) => {
    form.onsubmit = async (/** @type {Event} */ event) => {
      event.preventDefault();
      sessionStorage.setItem(PLACE, field.value.trim());
      byId("key-error").textContent = "";
      const wrong = await accepted().then(
        (yes) => (yes ? "" : "The server does not take this key. Look it up where the server was started."),
        (error) => error.message,
      );
      if (!wrong) return done(undefined);
      sessionStorage.removeItem(PLACE);
      byId("key-error").textContent = wrong;
      field.select();
    };
  });
  dialog.close();
  field.value = "";
}

/** @param {Event} event */
function keepOpen(event) {
  event.preventDefault();
}
