/** A conversation with pictures between its turns. */

import { complete } from "./api.js";
import { byId, make } from "./dom.js";
import { counted, duration, rate } from "./format.js";
import { calm, say, Told, warn, warnOf } from "./notices.js";

/** Pictures are sent no larger than this: more than any tower sees, even in tiles. */
const LONGEST = 1536;
const QUALITY = 0.92;
const MOST_PICTURES = 64;

/**
 * @typedef {{blob: Blob, url: string, name: string}} Picture
 * @typedef {{role: "user" | "assistant", content: any}} Message
 */

export class Conversation {
  /** @type {Picture[]} */
  #attached = [];
  /** @type {Message[]} */
  #messages = [];
  /** Pictures sent so far. */
  #count = 0;
  /** @type {AbortController | null} */
  #running = null;
  /** The model's name, if another than the server's first was chosen. @type {string | undefined} */
  model;

  constructor() {
    byId("compose").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#send();
    });
    byId("message").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    byId("add-pictures").addEventListener("click", () => byId("picture-file").click());
    byId("picture-file").addEventListener("change", () => {
      this.attach([...byId("picture-file").files]);
      byId("picture-file").value = "";
    });
    byId("stop-turn").addEventListener("click", () => this.#running?.abort());
    byId("new-conversation").addEventListener("click", () => this.#clear());
  }

  /** @param {File[]} files Pictures for the next message. */
  async attach(files) {
    calm();
    for (const file of files) {
      if (this.#count + this.#attached.length >= MOST_PICTURES) {
        warn(`A conversation holds at most ${MOST_PICTURES} pictures. Start a new conversation.`);
        break;
      }
      const blob = await shrunk(file);
      if (!blob) {
        warn(`${file.name} is not a picture that this browser can read. Save it as JPEG or PNG, then add it again.`);
        continue;
      }
      this.#attached.push({ blob, url: URL.createObjectURL(blob), name: file.name });
    }
    this.#showAttached();
    say(`${counted(this.#attached.length, "picture")} to send.`);
  }

  #showAttached() {
    byId("attached").hidden = !this.#attached.length;
    byId("attached").replaceChildren(
      ...this.#attached.map((picture, at) => {
        const label = `image ${this.#count + at + 1}`;
        const remove = make("button", { type: "button", "aria-label": `Remove ${label}, ${picture.name}` }, "Remove");
        remove.addEventListener("click", () => {
          this.#attached = this.#attached.filter((other) => other !== picture);
          URL.revokeObjectURL(picture.url);
          this.#showAttached();
          byId("message").focus();
        });
        const image = make("img", { src: picture.url, alt: picture.name });
        return make("li", {}, image, make("span", {}, label), remove);
      }),
    );
  }

  async #send() {
    const field = byId("message");
    const text = field.value.trim();
    if (this.#running) return;
    if (!text) return field.focus();
    calm();
    const pictures = this.#attached;
    const parts = await Promise.all(
      pictures.map(async ({ blob }) => ({
        type: "image_url",
        image_url: { url: await dataUrl(blob), detail: byId("detail").value },
      })),
    );
    const asked = this.#showAsked(text, pictures);
    const message = /** @type {Message} */ ({ role: "user", content: [...parts, { type: "text", text }] });
    const turn = new AnswerTurn();
    this.#attached = [];
    this.#count += pictures.length;
    this.#showAttached();
    field.value = "";
    this.#running = new AbortController();
    byId("stop-turn").hidden = false;
    byId("send").disabled = true;
    const body = { model: this.model, messages: [...this.#messages, message], max_tokens: 512 };
    try {
      const { usage, timings } = await complete(body, (piece) => turn.add(piece), this.#running.signal);
      turn.end(usage, timings);
      this.#messages.push(message, { role: "assistant", content: turn.text });
      say(turn.text);
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError" && turn.text) {
        turn.stopped();
        this.#messages.push(message, { role: "assistant", content: turn.text });
      } else {
        // Nothing was answered: the message goes back into the field, to be sent again.
        turn.remove();
        asked.remove();
        this.#attached = pictures;
        this.#count -= pictures.length;
        this.#showAttached();
        field.value = text;
        if (!(error instanceof DOMException)) warnOf(error instanceof Error ? error : new Told(`${error}`));
      }
    } finally {
      this.#running = null;
      byId("stop-turn").hidden = true;
      byId("send").disabled = false;
      byId("pictures-empty").hidden = byId("turns").children.length > 0;
      field.focus();
    }
  }

  /** @param {string} text @param {Picture[]} pictures */
  #showAsked(text, pictures) {
    byId("pictures-empty").hidden = true;
    const item = make("li", { class: "turn user" }, make("h3", { class: "hidden" }, "You"));
    if (pictures.length) {
      const shots = pictures.map(({ url, name }, at) =>
        make("figure", {}, make("img", { src: url, alt: name }), `image ${this.#count + at + 1}`),
      );
      item.append(make("div", { class: "shots" }, ...shots));
    }
    item.append(make("p", { class: "text" }, text));
    byId("turns").append(item);
    item.scrollIntoView({ block: "nearest" });
    return item;
  }

  #clear() {
    this.#running?.abort();
    for (const image of byId("turns").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.#messages = [];
    this.#count = 0;
    byId("turns").replaceChildren();
    byId("pictures-empty").hidden = false;
    this.#showAttached();
    say("New conversation.");
    byId("message").focus();
  }
}

class AnswerTurn {
  #text = make("p", { class: "text" });
  #item = make("li", { class: "turn assistant running" }, make("h3", { class: "hidden" }, "Model"), this.#text);

  constructor() {
    byId("turns").append(this.#item);
  }

  get text() {
    return this.#text.textContent ?? "";
  }

  /** @param {string} piece */
  add(piece) {
    this.#text.append(piece);
    this.#item.scrollIntoView({ block: "nearest" });
  }

  /** @param {any} usage @param {any} timings */
  end(usage, timings) {
    const details = usage.prompt_tokens_details;
    const spent = timings.encode_ms + timings.prompt_ms + timings.predicted_ms;
    const kept = details.cached_tokens ? `, ${details.cached_tokens} of them kept` : "";
    this.#meta(
      `${duration(spent)} · ${usage.prompt_tokens} tokens${kept} · ${details.visual_tokens} visual · ` +
        `${rate(timings.predicted_per_second)} tokens/s`,
    );
  }

  stopped() {
    this.#meta("Stopped.");
  }

  remove() {
    this.#item.remove();
  }

  /** @param {string} text */
  #meta(text) {
    this.#item.classList.remove("running");
    this.#item.append(make("p", { class: "meta" }, text));
  }
}

/** @param {File} file @returns {Promise<Blob | null>} The picture upright as JPEG; null if it cannot be read. */
async function shrunk(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // as the server shows transparent pictures to the model
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
}

/** @param {Blob} blob @returns {Promise<string>} */
function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(/** @type {string} */ (reader.result)));
    reader.addEventListener("error", () => failed(reader.error));
    reader.readAsDataURL(blob);
  });
}
