/**
 * A live window over one WebSocket, opened again when it is lost.
 *
 * The server handles messages in their order, so each of its answers belongs to the oldest request that waits.
 *
 * Events: `opened` (detail: the window), `frames`, `picture` (a watched source's next picture, a Blob), `source` (a
 * watched source's state), `lost` (detail: seconds until the next try), `refused` (detail: a sentence).
 */

import { sentence } from "./api.js";
import { subprotocols } from "./key.js";
import { Told } from "./notices.js";

const FIRST_WAIT_S = 0.5;
const LAST_WAIT_S = 8;

/** The connection was lost before the answer was there. */
export class Lost extends Error {}

/** The answer was stopped. */
export class Stopped extends Error {}

/**
 * @typedef {{number: number, time_s: number, tokens: number}} WindowFrame
 * @typedef {{model?: string, window: number, pool: number}} Settings
 * @typedef {object} Pending
 * @property {"open" | "picture" | "question" | "check" | "watch"} kind
 * @property {(value: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(chunk: any) => void} [onChunk]
 */

export class Connection extends EventTarget {
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Pending[]} */
  #pending = [];
  #settings;
  #wait_s = FIRST_WAIT_S;
  #closed = false;
  #timer = 0;
  /** Whether a window is open. */
  open = false;
  /** Resolves when the first window is open. @type {Promise<unknown>} */
  ready;

  /** @param {Settings} settings */
  constructor(settings) {
    super();
    this.#settings = settings;
    this.ready = new Promise((done) => this.addEventListener("opened", done, { once: true }));
    this.#connect();
  }

  /** Close the window for good. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#drop();
  }

  /**
   * Add a picture to the window; resolves when it is in it. Throws Lost, Told.
   * @param {Blob} picture
   */
  add(picture) {
    return this.#request("picture", picture);
  }

  /**
   * Ask. Resolves with the last chunk of the answer. Throws Lost, Stopped, Told.
   * @param {string} question
   * @param {(chunk: any) => void} onChunk
   */
  ask(question, onChunk) {
    return this.#request("question", JSON.stringify({ question, max_tokens: 256 }), onChunk);
  }

  /**
   * How likely is the answer yes? Throws Lost, Told.
   * @param {string} question
   * @returns {Promise<{number: number, probability: number, certainty: number, ms: number}>}
   */
  check(question) {
    return this.#request("check", JSON.stringify({ check: question }));
  }

  /**
   * Replace the window by another one. Throws Lost, Told.
   * @param {Settings} settings
   */
  reopen(settings) {
    this.#settings = settings;
    return this.#request("open", JSON.stringify({ reopen: settings }));
  }

  /**
   * Watch a source of the server's own. Throws Lost, Told.
   * @param {string} name
   * @param {number | null} fps
   */
  watch(name, fps) {
    return this.#request("watch", JSON.stringify(fps ? { watch: name, fps } : { watch: name }));
  }

  /** End the running answer. */
  stop() {
    this.#socket?.send(JSON.stringify({ stop: true }));
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/v1/live/ws`, subprotocols());
    this.#socket = socket;
    socket.addEventListener("open", () => {
      this.#pending.push({ kind: "open", resolve: () => {}, reject: () => {} });
      socket.send(JSON.stringify(this.#settings));
    });
    socket.addEventListener("message", (event) => this.#receive(event.data));
    socket.addEventListener("close", () => this.#lost());
  }

  #lost() {
    this.open = false;
    this.#drop();
    if (this.#closed) return;
    this.#tell("lost", this.#wait_s);
    this.#timer = setTimeout(() => this.#connect(), this.#wait_s * 1000);
    this.#wait_s = Math.min(LAST_WAIT_S, this.#wait_s * 2);
  }

  #drop() {
    const waiting = this.#pending;
    this.#pending = [];
    for (const one of waiting) one.reject(new Lost());
  }

  /**
   * @param {Pending["kind"]} kind
   * @param {Blob | string} message
   * @param {(chunk: any) => void} [onChunk]
   * @returns {Promise<any>}
   */
  #request(kind, message, onChunk) {
    return new Promise((resolve, reject) => {
      if (!this.open) return reject(new Lost());
      this.#pending.push({ kind, resolve, reject, onChunk });
      this.#socket?.send(message);
    });
  }

  /** @param {any} data */
  #receive(data) {
    if (typeof data !== "string") return this.#tell("picture", data);
    const message = JSON.parse(data);
    switch (message.type) {
      case "live.opened":
        this.open = true;
        this.#wait_s = FIRST_WAIT_S;
        this.#tell("opened", message);
        return this.#answer("open", message);
      case "live.frames":
        this.#tell("frames", message);
        // A watched source's frames answer no request.
        return message.missed === undefined ? this.#answer("picture", message) : undefined;
      case "live.answer":
        if (this.#pending[0]?.kind === "question") this.#pending[0].onChunk?.(message);
        return message.usage ? this.#answer("question", message) : undefined;
      case "live.check":
        return this.#answer("check", message);
      case "live.source":
        this.#tell("source", message);
        return message.source === undefined ? undefined : this.#answer("watch", message);
      case "error":
        return this.#fail(message.error);
    }
  }

  /** @param {Pending["kind"]} kind @param {any} value */
  #answer(kind, value) {
    if (this.#pending[0]?.kind === kind) this.#pending.shift()?.resolve(value);
  }

  /** @param {{message: string, code: string | null, param: string | null}} error */
  #fail(error) {
    const first = this.#pending.shift();
    // The window is gone (idle for too long): the next connection opens another one.
    if (error.code === "not_found" && error.param === "id") {
      first?.reject(new Lost());
      return this.#socket?.close();
    }
    const told = error.code === "stopped" ? new Stopped() : new Told(sentence(error.message));
    first?.reject(told);
    if (!this.open) this.#tell("refused", sentence(error.message));
  }

  /** @param {string} name @param {any} detail */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
