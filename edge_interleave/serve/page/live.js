/** Watches a source: frames go to the server as fast as it takes them, and questions are asked about them. */

import { Answers } from "./answers.js";
import { Asker } from "./asker.js";
import { capture, greyOf } from "./capture.js";
import { Connection, Lost, Stopped } from "./connection.js";
import { byId, make } from "./dom.js";
import { Figures } from "./figures.js";
import { rate } from "./format.js";
import { Meter } from "./meter.js";
import { calm, say, status, Told, warn, warnOf } from "./notices.js";
import { cameras, end, nextFrame, openCamera, openScreen, openVideo, play } from "./sources.js";
import { WindowSettings } from "./window_settings.js";
import { WindowStrip } from "./window_strip.js";

/** How long an answer stays on the picture. */
const CAPTION_MS = 6000;

/** @typedef {import("./sources.js").BrowserSource} BrowserSource */

export class Live {
  #answers = new Answers();
  #figures = new Figures();
  #meter = new Meter();
  #strip = new WindowStrip();
  #settings = new WindowSettings(() => this.#reopen());
  #asker = new Asker((question) => this.#ask(question));
  /** @type {Connection | null} */
  #connection = null;
  /** @type {BrowserSource | null} */
  #source = null;
  /** The name of the server's source that is watched. @type {string | null} */
  #watched = null;
  /** Counts the sources, so that what belongs to an earlier one ends. */
  #turn = 0;
  #side = 384;
  #checking = false;
  /** Whether the source has ended. */
  #isOver = false;
  /** Whether the server refused the window, which the notice says. */
  #refused = false;
  #dropped = 0;
  #presented = 0;
  #captionTimer = 0;
  #onLost;
  /** @type {Blob[]} */
  #refill = [];
  /** @type {Blob | null} */
  #preview = null;
  /** @type {HTMLVideoElement} */
  #video = byId("video");

  /** @param {() => void} onLost Called when the connection is lost: a server that was started anew may want a key. */
  constructor(onLost) {
    this.#onLost = onLost;
    byId("choose-camera").addEventListener("click", () => this.#open(() => openCamera()));
    byId("choose-screen").addEventListener("click", () => this.#open(openScreen));
    byId("choose-file").addEventListener("click", () => byId("file").click());
    byId("stop-source").addEventListener("click", () => this.stop("Source stopped."));
    byId("stop-answer").addEventListener("click", () => this.#connection?.stop());
    byId("camera").addEventListener("change", () => this.#open(() => openCamera(byId("camera").value)));
    byId("fps").addEventListener("change", () => this.#rewatch());
    for (const name of ["loadedmetadata", "resize"]) {
      this.#video.addEventListener(name, () => ratio(this.#video.videoWidth, this.#video.videoHeight));
    }
    byId("preview").addEventListener("load", () => ratio(byId("preview").naturalWidth, byId("preview").naturalHeight));
    this.#video.addEventListener("ended", () => this.#ended("The video is over."));
  }

  /** @param {string} [name] Of the model that new windows use. */
  set model(name) {
    this.#settings.model = name;
    if (this.#connection) this.#reopen();
  }

  /** @param {{id: string}[]} sources The server's. */
  offer(sources) {
    byId("server-sources").hidden = !sources.length;
    byId("server-sources").replaceChildren(
      ...sources.map(({ id }) => {
        const button = make("button", { type: "button" }, id);
        button.addEventListener("click", () => this.#watch(id));
        return button;
      }),
    );
  }

  /** @param {string[]} questions Examples; the first is for the meter. */
  suggest([check, ...questions]) {
    byId("meter-question").placeholder = check;
    byId("question").placeholder = questions[0];
    byId("examples").hidden = false;
    byId("examples").replaceChildren(
      ...questions.map((text) => {
        const button = make("button", { type: "button" }, text);
        button.addEventListener("click", () => {
          byId("question").value = text;
          byId("question").focus();
        });
        return button;
      }),
    );
  }

  /** @param {File} file A video. */
  async watchFile(file) {
    await this.#open(async () => openVideo(file));
  }

  /** @param {string} why */
  stop(why) {
    this.#turn += 1;
    this.#release();
    this.#connection?.close();
    this.#connection = null;
    this.#strip.clear();
    byId("stage").dataset.state = "empty";
    byId("chooser").hidden = false;
    for (const id of ["video", "preview", "pill", "caption", "controls"]) byId(id).hidden = true;
    byId("caption").textContent = "";
    status("ready", "Ready");
    say(why);
    byId("choose-camera").focus();
  }

  /** @param {() => Promise<BrowserSource>} open */
  async #open(open) {
    calm();
    const turn = ++this.#turn;
    try {
      // A camera that is in use cannot be opened a second time on some phones.
      if (this.#source?.device) this.#release();
      const source = await open();
      if (turn !== this.#turn) return end(this.#video, source);
      this.#release();
      this.#source = source;
      for (const track of source.stream?.getVideoTracks() ?? []) {
        track.addEventListener("ended", () => this.#source === source && this.#ended(`${source.name} has ended.`));
      }
      this.#show(source.name, this.#video);
      this.#connect();
      // A video waits for the window, so that none of it plays unseen.
      if (source.url) await this.#connection?.ready;
      if (turn !== this.#turn) return;
      await play(this.#video, source);
      await this.#listCameras();
      await this.#pump(turn);
    } catch (error) {
      if (turn !== this.#turn) return;
      this.stop("No source.");
      warnOf(error);
    }
  }

  /** @param {string} name Of one of the server's sources. */
  #watch(name) {
    calm();
    this.#turn += 1;
    this.#release();
    this.#watched = name;
    this.#show(name, byId("preview"));
    byId("preview").hidden = true;
    this.#connect();
  }

  async #rewatch() {
    if (this.#watched) await this.#quietly(this.#connection?.watch(this.#watched, fps()));
  }

  /** @param {string} name @param {HTMLElement} picture */
  #show(name, picture) {
    byId("stage").dataset.state = "running";
    byId("stage").setAttribute("aria-label", `Picture of ${name}`);
    byId("chooser").hidden = true;
    for (const id of ["video", "preview"]) byId(id).hidden = byId(id) !== picture;
    byId("pill-text").textContent = name;
    byId("pill").hidden = false;
    byId("controls").hidden = false;
    byId("camera-field").hidden = !this.#source?.device;
    this.#asker.reset();
    this.#meter.reset();
    this.#dropped = this.#presented = 0;
    this.#isOver = false;
    if (document.activeElement === document.body) byId("question").focus({ preventScroll: true });
    say(`${name} is shown.`);
  }

  #release() {
    if (this.#source) end(this.#video, this.#source);
    this.#source = this.#watched = null;
  }

  #connect() {
    this.#connection?.close();
    this.#strip.clear();
    this.#refill = [];
    status("busy", "Connecting");
    const connection = new Connection(this.#settings.value);
    this.#connection = connection;
    /** @param {string} name @param {(detail: any) => void} act */
    const on = (name, act) =>
      connection.addEventListener(name, (event) => {
        if (connection === this.#connection) act(/** @type {CustomEvent} */ (event).detail);
      });
    on("opened", (opened) => this.#opened(opened));
    on("frames", (frames) => this.#frames(frames));
    on("picture", (picture) => this.#previewed(picture));
    on("source", (message) => this.#sourceChanged(message));
    on("refused", (text) => {
      this.#refused = true;
      warn(text);
    });
    on("lost", (seconds) => {
      status("lost", `Connection lost, next try in ${seconds < 1 ? "a moment" : `${Math.round(seconds)} s`}`);
      this.#onLost();
    });
  }

  /** @param {any} opened */
  #opened(opened) {
    if (this.#refused) calm();
    this.#refused = false;
    status("ready", `Connected to ${opened.model}`);
    this.#side = opened.image_size;
    this.#settings.show(opened);
    // What the window held before a lost connection, or with other settings, goes into the new one. A source of the
    // server's own goes on by itself.
    const before = this.#watched ? [] : this.#strip.pictures.slice(-opened.window);
    this.#refill = before.length ? before : this.#refill;
    this.#strip.clear();
    if (this.#watched) this.#rewatch();
  }

  async #reopen() {
    await this.#quietly(this.#connection?.reopen(this.#settings.value));
  }

  /** @param {number} turn Send frames until another source is opened. */
  async #pump(turn) {
    const video = this.#video;
    while (turn === this.#turn) {
      const began = performance.now();
      try {
        const [old] = this.#refill;
        if (old && this.#connection?.open) {
          const { numbers } = await this.#add(old);
          this.#refill.shift();
          if (numbers) continue;
        }
        const presented = await nextFrame(video);
        if (turn !== this.#turn) return;
        if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) continue;
        if (!this.#connection?.open || this.#refill.length) {
          await pause(50);
          continue;
        }
        const { picture, grey } = await capture(video, this.#side);
        await this.#add(picture);
        this.#count(presented);
        this.#asker.frame(grey);
        const limit = fps();
        if (limit) await pause(1000 / limit - (performance.now() - began));
      } catch (error) {
        if (error instanceof Lost) await pause(200);
        else if (error instanceof Told) {
          warnOf(error);
          await pause(1000);
        } else throw error;
      }
    }
  }

  /** @param {Blob} picture */
  async #add(picture) {
    const connection = /** @type {Connection} */ (this.#connection);
    this.#preview = picture;
    return connection.add(picture);
  }

  /** @param {number} presented Frames that the browser has presented so far. */
  #count(presented) {
    if (!presented) return;
    if (this.#presented) this.#dropped += Math.max(0, presented - this.#presented - 1);
    this.#presented = presented;
  }

  /** @param {Blob} picture Of the server's source; the message with its number follows. */
  async #previewed(picture) {
    this.#preview = picture;
    const image = byId("preview");
    const before = image.src;
    image.src = URL.createObjectURL(picture);
    image.hidden = false;
    if (before) URL.revokeObjectURL(before);
  }

  /** @param {any} message A frame is in the window. */
  #frames(message) {
    const number = message.numbers.at(-1);
    if (this.#preview) this.#strip.keep(number, this.#preview);
    this.#strip.show(message.frames, this.#settings.value.window);
    this.#figures.frame(message, message.missed ?? this.#dropped);
    const name = this.#source?.name ?? this.#watched ?? "";
    const pace = message.frames_per_s ? ` · ${rate(message.frames_per_s)} frames/s` : "";
    // The last frame may arrive after the source's end has been said.
    if (!this.#isOver) byId("pill-text").textContent = `${name} · frame ${number}${pace}`;
    this.#check();
    if (this.#watched) this.#askAboutPreview();
  }

  async #askAboutPreview() {
    const bitmap = await createImageBitmap(/** @type {Blob} */ (this.#preview));
    this.#asker.frame(greyOf(bitmap));
    bitmap.close();
  }

  async #check() {
    const { question } = this.#meter;
    if (!question || this.#checking) return;
    this.#checking = true;
    const checked = await this.#quietly(this.#connection?.check(question));
    this.#checking = false;
    if (!checked || question !== this.#meter.question) return;
    this.#meter.show(checked);
    this.#figures.check(checked.ms);
  }

  /** @param {string} question */
  async #ask(question) {
    const connection = this.#connection;
    if (!connection?.open) {
      byId("ask-hint").textContent = connection
        ? "Not connected; the question can be asked once the connection is back."
        : "Choose a source first; the question is about its frames.";
      return;
    }
    const answer = this.#answers.begin(question);
    try {
      const last = await connection.ask(question, (chunk) => {
        answer.add(chunk, (number) => this.#strip.picture(number));
        byId("caption").textContent = answer.text;
        byId("caption").hidden = !answer.text || byId("stage").dataset.state !== "running";
        clearTimeout(this.#captionTimer);
      });
      // The picture goes on, so what was said about an earlier frame must not stay on it.
      this.#captionTimer = setTimeout(() => (byId("caption").hidden = true), CAPTION_MS);
      answer.end(last);
      this.#figures.answer(last.timings);
    } catch (error) {
      if (error instanceof Stopped) return answer.breakOff("Stopped.");
      answer.breakOff(error instanceof Lost ? "The connection was lost; ask again." : "No answer.");
      if (!(error instanceof Lost)) warnOf(error);
    }
  }

  /** @param {{state: string, line?: string}} message */
  #sourceChanged({ state, line }) {
    if (state === "ended") this.#ended(`${this.#watched} has ended.`);
    else if (state === "failed" && line) {
      this.stop("The source failed.");
      warn(line);
    } else if (line && ["back", "whole", "moving"].includes(state)) {
      calm();
      say(line);
    } else if (line) warn(line);
  }

  /** @param {string} why The source gives no more frames; the window stays, and questions about it can be asked. */
  #ended(why) {
    this.#turn += 1;
    this.#isOver = true;
    byId("pill-text").textContent = why;
    say(`${why} You can still ask about the window.`);
  }

  async #listCameras() {
    const found = await cameras();
    byId("camera-field").hidden = !this.#source?.device || found.length < 2;
    byId("camera").replaceChildren(
      ...found.map((one, at) => make("option", { value: one.deviceId }, one.label || `Camera ${at + 1}`)),
    );
    if (this.#source?.device) byId("camera").value = this.#source.device;
  }

  /**
   * The result; undefined if the connection was lost, which the status shows, or after a warning.
   * @template T
   * @param {Promise<T> | undefined} request
   */
  async #quietly(request) {
    try {
      return await request;
    } catch (error) {
      if (!(error instanceof Lost)) warnOf(error);
      return undefined;
    }
  }
}

/** @returns {number | null} Frames per second, at most. */
function fps() {
  return Number(byId("fps").value) || null;
}

/** Give the stage the picture's shape. @param {number} width @param {number} height */
function ratio(width, height) {
  if (width && height) byId("stage").style.setProperty("--ratio", `${width} / ${height}`);
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((done) => setTimeout(done, Math.max(0, ms)));
}
