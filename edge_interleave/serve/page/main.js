/** Wires the page: asks for the key if the server wants one, then offers its sources and models. */

import { list, Unauthorized } from "./api.js";
import { Conversation } from "./conversation.js";
import { byId, make } from "./dom.js";
import { takeFiles } from "./files.js";
import { askForKey } from "./key.js";
import { Live } from "./live.js";
import { status, warnOf } from "./notices.js";
import { choose, setUpTabs } from "./tabs.js";

const EMBEDDED = "embedded";
/** Questions that the embedded model knows; the first is one for yes or no. */
const EXAMPLES = ["Is there a red circle?", "Describe the image.", "Where is the circle?", "What changed?"];

const live = new Live(() => allow().catch(() => {}));
const conversation = new Conversation();
setUpTabs();
takeFiles(
  (video) => {
    choose("live");
    live.watchFile(video);
  },
  (pictures) => {
    choose("pictures");
    conversation.attach(pictures);
    byId("message").focus();
  },
);
start().catch((error) => {
  status("lost", "Not connected");
  warnOf(error);
});

async function start() {
  await allow();
  live.offer(await list("/v1/live/sources"));
  offerModels((await list("/v1/models")).map((model) => model.id));
  status("ready", "Ready");
}

/** Ask for the key, if the server wants another one than the tab has. Throws Told if the server does not answer. */
async function allow() {
  const accepted = async () => {
    try {
      await list("/v1/models");
      return true;
    } catch (error) {
      if (error instanceof Unauthorized) return false;
      throw error;
    }
  };
  if (!(await accepted())) await askForKey(accepted);
}

/** @param {string[]} names */
function offerModels(names) {
  const field = byId("model");
  field.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  field.hidden = names.length < 2;
  const show = () => {
    byId("knows").hidden = field.value !== EMBEDDED;
    if (field.value === EMBEDDED) live.suggest(EXAMPLES);
    else byId("examples").hidden = true;
  };
  field.addEventListener("change", () => {
    live.model = conversation.model = field.value;
    show();
  });
  show();
}
