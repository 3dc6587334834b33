"""Make the held-out and the training pictures that the embedded model should not know: emoji and photographs.

npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0    # unpacked as for make_sprites.py
pip download --no-deps scikit-image==0.26.0    # unzipped; its folder skimage/data
python examples/embedded_model/make_unknown.py noto twemoji skimage/data edge_interleave/world/unknown \\
    examples/embedded_model/unknown

The first of the last two folders gets what is held out for `edge-interleave eval --world`, the second what training
shows. Training reads its photographs from scikit-image directly (`unknown_pictures.py`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

from PIL import Image

from edge_interleave.world.unknown_pictures import CELL, COLUMNS, HELD_OUT_PHOTOGRAPHS

CATEGORIES = ("Smileys & Emotion", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
KNOWN = (
    "dog|cat|rabbit|bird|parrot|chick|duck|fish|dolphin|shark|whale|frog|turtle|butterfl|apple|tomato|banana|pizza|"
    "house|home|build|hotel|bank|hut|tree|clock|watch|key|lock|bicycle|bike|car|taxi|bus|van|truck|train|rail|tram|"
    "umbrella|parasol|hat|cap|book|note|diary|ledger|balloon|cup|tea|coffee|glass|beverage|mug|flower|blossom|rose|"
    "tulip|hibiscus|lotus|heart|star|moon|sun|circle|square|diamond|cross|triangle|ball|globe|symbol|planet|comet|"
    "wolf|fox|raccoon|rat|mouse|hamster|bear|panda|crocodile|lizard|eagle|owl|dove|peacock|swan|plant|leaf|scooter|"
    "penguin|rooster|turkey|dodo|goose|phoenix|moth|herb|wreath|money|envelope|button|sign|phase|cyclone|sunset|"
    "letter|number|keycap|input"
)
"""Names of emoji that look too much like something the model knows."""
TRAINED, HELD_OUT = 180, 48
SETS = ("google", "twitter")


def main(noto: Path, twemoji: Path, photographs: Path, held_out: Path, trained: Path) -> None:
    """Write the emoji sheets into both folders, and the held-out photographs."""
    folders = {"google": noto, "twitter": twemoji}
    chosen = []
    for emoji in json.loads((noto / "emoji.json").read_text()):
        name = str(emoji["name"] or emoji["short_name"]).lower()
        everywhere = all((folders[s] / f"img/{s}/64" / emoji["image"]).exists() for s in SETS)
        if everywhere and emoji["category"] in CATEGORIES and not re.search(KNOWN, f"{name} {emoji['short_name']}"):
            chosen.append(emoji["image"])
    random.Random(19).shuffle(chosen)
    for folder, names in ((held_out, chosen[:HELD_OUT]), (trained, chosen[HELD_OUT : HELD_OUT + TRAINED])):
        folder.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(SETS):
            # The held-out sheets ship with the package, so each shows half of the emoji.
            some = names[number::2] if folder == held_out else names
            rows = -(-len(some) // COLUMNS)
            sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
            for index, name in enumerate(some):
                with Image.open(folders[each] / f"img/{each}/64" / name) as picture:
                    cell = picture.convert("RGBA").resize((CELL, CELL), Image.Resampling.LANCZOS)
                sheet.paste(cell, (index % COLUMNS * CELL, index // COLUMNS * CELL))
            sheet.quantize(200, dither=Image.Dither.NONE).save(folder / f"emoji-{each}.png", optimize=True)
    for name in HELD_OUT_PHOTOGRAPHS:
        with Image.open(next(photographs.glob(f"{name}.*"))) as picture:
            picture.convert("RGB").resize((320, round(320 * picture.height / picture.width))).save(
                held_out / f"{name}.jpg", quality=80
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for folder in ("noto", "twemoji", "photographs", "held_out", "trained"):
        parser.add_argument(folder, type=Path)
    main(**vars(parser.parse_args()))
