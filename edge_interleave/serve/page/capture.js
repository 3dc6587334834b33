/** Turns what a video element shows into a small JPEG, no larger than what the vision tower sees. */

const QUALITY = 0.92;
const LONGEST = 4;
/** Width and height of the grey picture that changes are measured on, as `watch --change` does. */
const SIDE = 32;

/**
 * @typedef {object} Captured
 * @property {Blob} picture JPEG
 * @property {Uint8ClampedArray} grey SIDE x SIDE grey levels
 */

const picture = document.createElement("canvas");
const small = document.createElement("canvas");
small.width = small.height = SIDE;

/**
 * @param {HTMLVideoElement | HTMLImageElement | ImageBitmap} source
 * @param {number} side The tower's side in pixels; the shorter side of the JPEG has as many, if the source has.
 * @returns {Promise<Captured>}
 */
export async function capture(source, side) {
  const [width, height] = sizeOf(source);
  const long = Math.max(width, height);
  const scale = Math.min(1, Math.max(side / Math.min(width, height), 1 / long), (side * LONGEST) / long);
  picture.width = Math.max(1, Math.round(width * scale));
  picture.height = Math.max(1, Math.round(height * scale));
  const context = /** @type {CanvasRenderingContext2D} */ (picture.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // transparent pictures
  context.fillRect(0, 0, picture.width, picture.height);
  context.drawImage(source, 0, 0, picture.width, picture.height);
  const grey = greyOf(picture);
  const blob = await new Promise((done) => picture.toBlob(done, "image/jpeg", QUALITY));
  return { picture: blob, grey };
}

/**
 * The mean difference of two grey pictures, 0 to 255.
 * @param {Uint8ClampedArray} one
 * @param {Uint8ClampedArray} other
 */
export function difference(one, other) {
  let sum = 0;
  for (let at = 0; at < one.length; at++) sum += Math.abs(one[at] - other[at]);
  return sum / one.length;
}

/** @param {CanvasImageSource} source @returns {Uint8ClampedArray} */
export function greyOf(source) {
  const context = /** @type {CanvasRenderingContext2D} */ (small.getContext("2d", { willReadFrequently: true }));
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, SIDE, SIDE);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  const grey = new Uint8ClampedArray(SIDE * SIDE);
  for (let at = 0; at < grey.length; at++) {
    grey[at] = 0.299 * data[4 * at] + 0.587 * data[4 * at + 1] + 0.114 * data[4 * at + 2];
  }
  return grey;
}

/** @param {any} source @returns {[number, number]} */
function sizeOf(source) {
  return [
    source.videoWidth ?? source.naturalWidth ?? source.width,
    source.videoHeight ?? source.naturalHeight ?? source.height,
  ];
}
