/** Files that are dropped on the page or chosen: a video is watched, pictures are talked about. */

import { byId } from "./dom.js";
import { warn } from "./notices.js";

/**
 * @param {(video: File) => void} onVideo
 * @param {(pictures: File[]) => void} onPictures
 */
export function takeFiles(onVideo, onPictures) {
  /** @param {File[]} files */
  const take = (files) => {
    const video = files.find((file) => file.type.startsWith("video/"));
    const pictures = files.filter((file) => file.type.startsWith("image/"));
    if (video) onVideo(video);
    else if (pictures.length) onPictures(pictures);
    else if (files.length) {
      warn(`${files[0].name} is neither a video nor a picture that this browser knows. Drop MP4, WebM, JPEG or PNG.`);
    }
  };
  byId("file").addEventListener("change", () => {
    take([...byId("file").files]);
    byId("file").value = "";
  });
  let depth = 0;
  const veil = byId("drop");
  addEventListener("dragenter", (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    depth += 1;
    veil.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    veil.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    take([...(event.dataTransfer?.files ?? [])]);
  });
}
