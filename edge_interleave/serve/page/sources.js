/** The browser's sources: its cameras, the screen, a video file. Each plays in the page's video element. */

import { Told } from "./notices.js";

const HTTPS =
  "Browsers let a page use the camera and the screen only over https, or on the machine itself. Start the server with " +
  "`--tls-self-signed` and open its https address, or open the page on the server's machine at `http://127.0.0.1`.";
/** How long to wait for the browser to announce a new frame, which it does not do for a page in the background. */
const QUIET_MS = 1000;

/**
 * @typedef {object} BrowserSource
 * @property {string} name
 * @property {string} [device] The camera's id.
 * @property {MediaStream} [stream]
 * @property {string} [url] A video file's object URL.
 */

/**
 * Open a camera. Throws Told.
 * @param {string} [device] Its id; otherwise the one that looks away from the user, where there is one.
 * @returns {Promise<BrowserSource>}
 */
export async function openCamera(device) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Told(HTTPS);
  const which = device ? { deviceId: { exact: device } } : { facingMode: { ideal: "environment" } };
  const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...which, ...size } });
    const [track] = stream.getVideoTracks();
    return { name: "Camera", device: track.getSettings().deviceId, stream };
  } catch (error) {
    throw new Told(cameraSentence(error));
  }
}

/** @returns {Promise<MediaDeviceInfo[]>} The cameras that the browser names. */
export async function cameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter((device) => device.kind === "videoinput" && device.deviceId);
}

/** Share the screen. Throws Told. @returns {Promise<BrowserSource>} */
export async function openScreen() {
  if (!window.isSecureContext) throw new Told(HTTPS);
  if (!navigator.mediaDevices?.getDisplayMedia) {
    throw new Told("This browser cannot share its screen, as is usual on phones. Choose the camera or a video.");
  }
  try {
    const stream = await navigator.mediaDevices.getDisplayMedia({ audio: false, video: { frameRate: { ideal: 10 } } });
    return { name: "Screen", stream };
  } catch (error) {
    if (/** @type {DOMException} */ (error).name === "NotAllowedError") {
      throw new Told("The screen was not shared. Press Screen again, then choose a window or a screen and allow it.");
    }
    throw new Told(`The screen could not be shared (${/** @type {Error} */ (error).message}). Try another window.`);
  }
}

/** @param {File} file A video. @returns {BrowserSource} */
export function openVideo(file) {
  return { name: file.name, url: URL.createObjectURL(file) };
}

/**
 * Play a source in a video element. Throws Told if it cannot be played.
 * @param {HTMLVideoElement} video
 * @param {BrowserSource} source
 */
export async function play(video, source) {
  video.loop = false;
  if (source.stream) video.srcObject = source.stream;
  else video.src = /** @type {string} */ (source.url);
  try {
    await video.play();
  } catch (error) {
    if (/** @type {DOMException} */ (error).name === "AbortError") return;
    throw new Told(
      source.url
        ? `This browser cannot play ${source.name}. Convert it to MP4 with H.264, or to WebM, then drop it again.`
        : "The picture did not start. Press the source's button again.",
    );
  }
}

/** @param {HTMLVideoElement} video @param {BrowserSource} source */
export function end(video, source) {
  for (const track of source.stream?.getTracks() ?? []) track.stop();
  video.pause();
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
  if (source.url) URL.revokeObjectURL(source.url);
}

/**
 * Wait for a frame that was not shown yet.
 * @param {HTMLVideoElement} video
 * @returns {Promise<number>} How many frames were presented so far; 0 if the browser does not count them.
 */
export function nextFrame(video) {
  return new Promise((done) => {
    const timer = setTimeout(() => done(0), QUIET_MS);
    if (!video.requestVideoFrameCallback) return;
    video.requestVideoFrameCallback((_, { presentedFrames }) => {
      clearTimeout(timer);
      done(presentedFrames);
    });
  });
}

/** @param {unknown} error */
function cameraSentence(error) {
  switch (/** @type {DOMException} */ (error).name) {
    case "NotAllowedError":
    case "SecurityError":
      return (
        "The browser does not let this page use the camera. Allow the camera in the settings beside the address, " +
        "then press Camera again."
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera was found. Plug one in and press Camera again, or choose the screen or a file.";
    case "NotReadableError":
    case "AbortError":
      return "The camera does not start; another program may be using it. Close that program, then press Camera again.";
    default:
      return `The camera could not be opened (${/** @type {Error} */ (error).message}). Choose another source.`;
  }
}
