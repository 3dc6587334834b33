"""Makes the sheets of `edge_interleave/world/sprites/` from three openly licensed emoji sets.

npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 @iconify-json/fluent-emoji-flat@1.2.6
mkdir noto twemoji fluent
tar -xzf emoji-datasource-google-16.0.0.tgz -C noto --strip-components 1
tar -xzf emoji-datasource-twitter-16.0.0.tgz -C twemoji --strip-components 1
tar -xzf iconify-json-fluent-emoji-flat-1.2.6.tgz -C fluent --strip-components 1
pip install cairosvg==2.9.1
python examples/embedded_model/make_sprites.py noto twemoji fluent edge_interleave/world/sprites

The repository holds only the sheets and the notice of their sources, not the packages.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import cairosvg
import numpy as np
from PIL import Image

from edge_interleave.world.sprites import CELL, COLUMNS, THINGS

MARGIN = 2
VECTOR_SIDE = 288
"""Side in pixels at which vector pictures are rendered before cropping."""

CODE_POINTS = {
    "dog": "1f436",
    "cat": "1f431",
    "rabbit": "1f430",
    "bird": "1f99c",
    "fish": "1f41f",
    "frog": "1f438",
    "turtle": "1f422",
    "butterfly": "1f98b",
    "apple": "1f34e",
    "banana": "1f34c",
    "pizza": "1f355",
    "house": "1f3e0",
    "tree": "1f333",
    "clock": "23f0",
    "key": "1f511",
    "bicycle": "1f6b2",
    "car": "1f697",
    "bus": "1f68d",  # from the front: from the side it is too much like Fluent's car
    "umbrella": "2602-fe0f",
    "hat": "1f3a9",
    "book": "1f4d5",
    "balloon": "1f388",
    "cup": "2615",
    "flower": "1f33b",
}
# Fluent's hot beverage is seen from above, a plain disc; its tea is a cup from the side, as the others' coffee is.
FLUENT_CODE_POINTS = CODE_POINTS | {"cup": "1f375"}

NOTICE = """# Where the pictures come from

The sheets in this folder are pictures of three emoji sets, chosen, cropped, resized and put together by
`examples/embedded_model/make_sprites.py`; when drawn they may be repainted in another colour, mirrored or turned.
The licences below are those of the pictures.

| Sheet | Set | Taken from (npm) | Licence |
|---|---|---|---|
| `noto.png` | Noto Emoji | `emoji-datasource-google` 16.0.0 | Apache-2.0 |
| `twemoji.png` | Twemoji | `emoji-datasource-twitter` 16.0.0 | CC-BY-4.0 |
| `fluent.png` | Fluent Emoji, flat | `@iconify-json/fluent-emoji-flat` 1.2.6 | MIT |

## Noto Emoji

<https://github.com/googlefonts/noto-emoji>

Copyright Google LLC. Licensed under the Apache License, Version 2.0, <https://www.apache.org/licenses/LICENSE-2.0>,
the text of which comes with this package. The pictures have been changed as said above.

## Twemoji

<https://github.com/jdecked/twemoji>

Copyright Twitter, Inc. and other contributors. The graphics are licensed under the Creative Commons Attribution 4.0
International licence (CC-BY 4.0), <https://creativecommons.org/licenses/by/4.0/>, and come without warranties.
The pictures have been changed as said above.

## Fluent Emoji

<https://github.com/microsoft/fluentui-emoji>

MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

Source = Callable[[str], Image.Image]


def main(noto: Path, twemoji: Path, fluent: Path, out: Path) -> None:
    """Write one sheet for each style, and the licences."""
    out.mkdir(parents=True, exist_ok=True)
    write_sheet(out / "noto.png", lambda thing: _bitmap(noto / "img/google/64", CODE_POINTS[thing]))
    write_sheet(out / "twemoji.png", lambda thing: _bitmap(twemoji / "img/twitter/64", CODE_POINTS[thing]))
    write_sheet(out / "fluent.png", _fluent(fluent))
    (out / "LICENSES.md").write_text(NOTICE)


def write_sheet(path: Path, source: Source) -> None:
    """Write the things in rows of COLUMNS cells, in the order of THINGS."""
    rows = -(-len(THINGS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for number, thing in enumerate(THINGS):
        row, column = divmod(number, COLUMNS)
        sheet.paste(_fitted(source(thing)), (column * CELL, row * CELL))
    _coarser(sheet).save(path, optimize=True)


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture's opaque part, scaled to the cell and centred."""
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    if box is None:
        raise SystemExit("A picture is empty.")
    left, top, right, bottom = box
    picture = picture.crop((left - 1, top - 1, right + 1, bottom + 1))  # the soft edge stays
    scale = (CELL - 2 * MARGIN) / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((CELL - width) // 2, (CELL - height) // 2))
    return cell


def _coarser(sheet: Image.Image) -> Image.Image:
    """Round colours to steps of 4 and alpha to steps of 8: invisible, and the PNG is a third smaller."""
    steps = np.array([4, 4, 4, 8])
    pixels = np.minimum((np.asarray(sheet).astype(int) + steps // 2) // steps * steps, 255)
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels.astype(np.uint8))


def _bitmap(folder: Path, code_point: str) -> Image.Image:
    with Image.open(folder / f"{code_point}.png") as picture:
        return picture.convert("RGBA")


def _fluent(folder: Path) -> Source:
    icons = json.loads((folder / "icons.json").read_text())
    names = json.loads((folder / "chars.json").read_text())

    def source(thing: str) -> Image.Image:
        icon = icons["icons"][names[FLUENT_CODE_POINTS[thing].removesuffix("-fe0f")]]
        width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        png = cairosvg.svg2png(svg.encode(), output_width=VECTOR_SIDE, output_height=VECTOR_SIDE)
        return Image.open(io.BytesIO(png)).convert("RGBA")

    return source


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for folder in ("noto", "twemoji", "fluent", "out"):
        parser.add_argument(folder, type=Path)
    main(**vars(parser.parse_args()))
