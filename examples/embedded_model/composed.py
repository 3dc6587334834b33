"""Composes pictures of things anywhere on the training device, as many as the first stage takes.

`drawing.py` draws a hundred a second on a CPU core; here, things drawn once are placed on backgrounds in batches, eight
thousand a second beside the training on one H200. The pictures lack signs, JPEG and effects, so drawn ones of the pool
go with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pool import CENTRES, CLEAR, DOUBT, EFFECTS, EMPTY, FINE, GRID, IMAGE_SIDE, ITEMS, PATCH, SEEN
from precision import DEVICE
from stored_pictures import Shown
from torch import Tensor

from edge_interleave.world.drawing import draw
from edge_interleave.world.scene import CROWD_MAX, SIZE_LEAST, TONES, Item, Look, Scene
from edge_interleave.world.sprites import sprite
from edge_interleave.world.vocabulary import COLOURS, NATURAL, SHAPES, THINGS, TRAIN

REAL = torch.float32 if DEVICE.type == "cpu" else torch.float16
"""bf16 would be too coarse for places in a texture."""
TEXTURE = 96
"""Side of a thing's texture in texels."""
INSIDE = 72
"""Side of the thing within its texture; an edge may reach beyond it."""
LEVELS = (72, 48, 30, 20, 13)
"""Each texture was reduced to these sides and enlarged again: what is left of the thing in a small size."""
SHAPE_STYLES = {"filled": 0.46, "edged": 0.10, "inked": 0.14, "outline": 0.15, "line": 0.15}
"""Styles of shapes and their shares, as in `scene.free_scene`."""
TRIES = 20
"""Places tried for a thing before it is left out."""
SHARP = 110
"""Least difference of a tone from its background, over all channels, as in `scene.standing_out`."""


@dataclass(frozen=True)
class Layout:
    """Where the things of n pictures lie and what they are: (n, CROWD_MAX) each, unless it says otherwise."""

    wide: Tensor
    """(n, 2): the picture's width and height, the shorter one 1."""
    there: Tensor
    """Bool: whether there is such a thing."""
    x: Tensor
    """Of the centre, in the units of `wide`."""
    y: Tensor
    size: Tensor
    kind: Tensor
    """Index into SHAPES + THINGS."""
    colour: Tensor
    """Index into COLOURS; -1 for a thing in its own colours."""
    style: Tensor
    """Index among the kind's textures."""
    tone: Tensor
    """(n, CROWD_MAX, 3): RGB, 0 to 1."""


class Composer:
    """Draws batches of new pictures with the targets of the pool's."""

    def __init__(self) -> None:
        kinds = (*SHAPES, *THINGS)
        first: list[int] = []
        textures: list[Tensor] = []
        for kind in kinds:
            first.append(len(textures))
            styles = SHAPE_STYLES if kind in SHAPES else TRAIN.styles
            textures += [_texture(kind, style) for style in styles]
        # (textures * levels, 5, side, side): red, green, blue and the tone's share, weighted by the fifth, the cover.
        self._textures = torch.cat([_levels(texture) for texture in textures]).to(DEVICE, REAL)
        self._first_of = torch.tensor(first, device=DEVICE)
        self._natural = torch.tensor([kind in NATURAL for kind in kinds], device=DEVICE)
        allowed = [[colour in TRAIN.colours(kind) for colour in COLOURS] for kind in kinds]
        self._allowed = torch.tensor(allowed, device=DEVICE)
        most = max(map(len, TONES.values()))
        tones = [[TONES[colour][i % len(TONES[colour])] for i in range(most)] for colour in COLOURS]
        self._tones = torch.tensor(tones, device=DEVICE) / 255
        self._style_ends = torch.tensor(list(SHAPE_STYLES.values()), device=DEVICE).cumsum(0)[:-1]
        self._sides = torch.tensor(LEVELS, device=DEVICE).log()
        kernel = torch.tensor([1.0, 2.0, 1.0], device=DEVICE)
        self._kernel = (kernel[:, None] * kernel / 16).to(REAL).expand(3, 1, 3, 3)
        middles = (torch.arange(IMAGE_SIDE, device=DEVICE) + 0.5) / IMAGE_SIDE
        self._pixels = torch.stack([middles.repeat(IMAGE_SIDE), middles.repeat_interleave(IMAGE_SIDE)], -1)

    @torch.no_grad()
    def draw(self, n: int) -> Shown:
        """n new pictures. They differ from call to call as PyTorch's random numbers do."""
        ground, other = self._backgrounds(n)
        layout = self._laid_out(n, (ground + other) / 2)
        pixels, covered = self._painted(layout, ground, other)
        labels = _labels(layout, covered)
        kind = torch.where(layout.there, layout.kind, -1)
        items = torch.stack([kind, torch.where(layout.there, layout.colour, -1)], -1)[:, :ITEMS]
        effects = torch.zeros(n, EFFECTS, device=DEVICE)
        return Shown(pixels, labels, items, effects)

    def _backgrounds(self, n: int) -> tuple[Tensor, Tensor]:
        """The colours of both ends of each picture's background: (n, 3) each, 0 to 1."""
        base = torch.where(_chance(n, 0.8), _between(n, 195, 255), _between(n, 25, 95))[:, None]
        tint = torch.where(_chance(n, 0.6), 22.0, 0.0)[:, None]
        ground = base + tint * _between((n, 3), -1, 1)
        ground = torch.where(_chance(n, 0.38)[:, None], 255.0, ground)
        ground = torch.where(_chance(n, 0.13)[:, None], _between((n, 3), 0, 255), ground)
        drift = torch.where(_chance(n, 0.22)[:, None], 26.0, 0.0)
        other = ground + drift * _between((n, 3), -1, 1)
        return ground.clamp(0, 255) / 255, other.clamp(0, 255) / 255

    def _laid_out(self, n: int, ground: Tensor) -> Layout:
        """Things that are new, or like one before: in its kind, often in its colour, often in its style."""
        aspect = torch.where(_chance(n, 0.4), 1.0, 2 ** _between(n, -1, 1))
        wide = torch.stack([aspect.clamp(min=1), 1 / aspect.clamp(max=1)], -1)
        crowd = _chance(n, 0.6)
        wanted = torch.where(crowd, _whole(n, 5, CROWD_MAX), _whole(n, 1, 8))
        x, y, size, there = self._scattered(n, wide, crowd, wanted)
        # In a quarter of the pictures, all things are new.
        new = _chance((n, CROWD_MAX), 0.5) | _chance((n, 1), 0.25)
        same_colour, same_style = _chance((n, CROWD_MAX), 0.6), _chance(n, 0.6)
        kinds: list[Tensor] = []
        colours: list[Tensor] = []
        styles: list[Tensor] = []
        for number in range(CROWD_MAX):
            shape, thing = _whole(n, 0, len(SHAPES) - 1), len(SHAPES) + _whole(n, 0, len(THINGS) - 1)
            kind = torch.where(_chance(n, 0.42), shape, thing)
            if number:
                model = _whole(n, 0, number - 1)[:, None]
                before = [torch.cat(each, 1).gather(1, model)[:, 0] for each in (kinds, colours, styles)]
                kind = torch.where(new[:, number], kind, before[0])
            colour, style = self._coloured(kind, ground), self._styled(kind)
            if number:
                colour = torch.where(new[:, number] | ~same_colour[:, number], colour, before[1])
                style = torch.where(new[:, number] | ~same_style, style, before[2])
            kinds.append(kind[:, None])
            colours.append(colour[:, None])
            styles.append(style[:, None])
        kind, colour, style = (torch.cat(each, 1) for each in (kinds, colours, styles))
        return Layout(wide, there, x, y, size, kind, colour, style, self._toned(colour, ground))

    def _scattered(self, n: int, wide: Tensor, crowd: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        """Centres and sizes of things that hardly overlap, and which found room: (n, CROWD_MAX) each."""
        largest = torch.minimum(torch.where(crowd, 0.22, 0.5), 0.95 / wanted.sqrt())[:, None]
        low = math.log(SIZE_LEAST)
        shared = (low + (largest.log() - low) * _between((n, 1), 0, 1)).exp()
        alike = _chance((n, 1), 0.4)
        apart = 0.52 * torch.where(_chance((n, 1, 1), 0.2), 0.78, 1.0)
        shrink = 1 - torch.arange(TRIES, device=DEVICE) / (TRIES * 1.4)
        places: list[tuple[Tensor, ...]] = []
        for number in range(CROWD_MAX):
            size = (low + (largest.log() - low) * _between((n, TRIES), 0, 1)).exp()
            size = torch.where(alike, (shared * _between((n, TRIES), 0.8, 1.25)).clamp(max=largest), size)
            size = (size * shrink).clamp(min=SIZE_LEAST)
            x, y = (size / 2 + (wide[:, axis, None] - size) * _between((n, TRIES), 0, 1) for axis in range(2))
            room = (number < wanted)[:, None].expand(n, TRIES)
            if places:
                ox, oy, of, there = (torch.stack(each, 1)[:, None] for each in zip(*places, strict=True))
                far = torch.hypot(x[..., None] - ox, y[..., None] - oy) > apart * (size[..., None] + of)
                room = room & (far | ~there).all(-1)
            first = room.float().argmax(1, keepdim=True)
            taken = [each.gather(1, first)[:, 0] for each in (x, y, size, room)]
            places.append(tuple(taken))
        x, y, size, there = (torch.stack(each, 1) for each in zip(*places, strict=True))
        return x, y, size, there

    def _styled(self, kind: Tensor) -> Tensor:
        """A style of each kind: (n,)."""
        of_shapes = torch.bucketize(torch.rand(len(kind), device=DEVICE), self._style_ends)
        return torch.where(kind < len(SHAPES), of_shapes, _whole(len(kind), 0, len(TRAIN.styles) - 1))

    def _coloured(self, kind: Tensor, ground: Tensor) -> Tensor:
        """A colour of each kind that stands out, if one does: (n,), -1 for things in their own colours."""
        stands = self._standing(ground).any(-1)
        score = torch.rand(stands.shape, device=DEVICE) + 2 * stands
        colour = score.masked_fill(~self._allowed[kind], -1).argmax(1)
        return torch.where(self._natural[kind], -1, colour)

    def _toned(self, colour: Tensor, ground: Tensor) -> Tensor:
        """A tone of each colour that stands out, if one does: (n, CROWD_MAX, 3)."""
        rows = torch.arange(len(ground), device=DEVICE)[:, None]
        stands = self._standing(ground)[rows, colour.clamp(min=0)]
        chosen = (torch.rand(stands.shape, device=DEVICE) + 2 * stands).argmax(-1)
        tone = self._tones[colour.clamp(min=0), chosen]
        return (tone + _between(tone.shape, -20, 20) / 255).clamp(0, 1)

    def _standing(self, ground: Tensor) -> Tensor:
        """Which tones stand out from a background, (n, 3): (n, COLOURS, tones)."""
        return (self._tones - ground[:, None, None]).abs().sum(-1) > SHARP / 255

    def _painted(self, layout: Layout, ground: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures, (n, side, side, 3) uint8, and what covers each pixel: (n, side, side), a thing's number + 1."""
        n = len(ground)
        ramp = self._pixels.T[_whole(n, 0, 1)][:, None]
        canvas = ground[:, :, None] * (1 - ramp) + other[:, :, None] * ramp
        grain = torch.where(_chance(n, 0.12), 7 / 255, 0.0)[:, None, None]
        canvas = (canvas + grain * torch.randn(n, 1, IMAGE_SIDE**2, device=DEVICE)).to(REAL)
        covered = torch.zeros(n, IMAGE_SIDE**2, dtype=torch.uint8, device=DEVICE)
        points = self._pixels * layout.wide[:, None]
        side = IMAGE_SIDE / layout.wide.prod(1).sqrt()
        for number in range(CROWD_MAX):
            kind, size = layout.kind[:, number], layout.size[:, number]
            thing = kind >= len(SHAPES)
            angle = torch.where(_chance(n, 0.5), _between(n, -25, 25), 0.0).deg2rad()
            cos, sin = angle.cos()[:, None], angle.sin()[:, None]
            # A turned thing is shrunk to fit, as `sprites.sprite` does.
            fits = torch.where(thing, 1 / (cos + sin.abs())[:, 0], 1.0)
            half = (size / 2 * fits * TEXTURE / INSIDE)[:, None]
            dx, dy = points[..., 0] - layout.x[:, number, None], points[..., 1] - layout.y[:, number, None]
            across, down = (dx * cos + dy * sin) / half, (dy * cos - dx * sin) / half
            stretch = torch.where(thing & _chance(n, 0.4), _between(n, 0.85, 1.18), 1.0)[:, None]
            turned = torch.where(thing & _chance(n, 0.5), -1.0, 1.0)[:, None]
            at = torch.stack([across * turned * stretch, down], -1).view(n, IMAGE_SIDE, IMAGE_SIDE, 2)
            level = self._level(size * side * _between(n, 0.8, 1.3))
            texture = (self._first_of[kind] + layout.style[:, number]) * len(LEVELS) + level
            paint = F.grid_sample(self._textures[texture], at.to(REAL), align_corners=False).flatten(2)
            own = self._recoloured(paint[:, :3], n)
            cover = paint[:, 4:] * layout.there[:, number, None, None]
            tone = layout.tone[:, number, :, None].to(REAL)
            coloured = own + paint[:, 3:4] * tone
            canvas = canvas * (1 - cover) + coloured * layout.there[:, number, None, None]
            covered = torch.where(cover[:, 0] > 0.38, number + 1, covered)
        pixels = self._blurred(canvas.view(n, 3, IMAGE_SIDE, IMAGE_SIDE))
        pixels = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return pixels, covered.view(n, IMAGE_SIDE, IMAGE_SIDE)

    def _blurred(self, canvas: Tensor) -> Tensor:
        """The pictures, (n, 3, side, side), the first third of them blurred."""
        count = len(canvas) // 3
        if not count:
            return canvas
        some = F.conv2d(F.pad(canvas[:count], (1, 1, 1, 1), mode="replicate"), self._kernel, groups=3)
        share = torch.rand((count, 1, 1, 1), device=DEVICE).to(REAL)
        return torch.cat([canvas[:count] * (1 - share) + some * share, canvas[count:]])

    def _level(self, pixels: Tensor) -> Tensor:
        """The level of LEVELS nearest to a size in pixels."""
        return (pixels.log()[:, None] - self._sides).abs().argmin(1)

    def _recoloured(self, own: Tensor, n: int) -> Tensor:
        """Things in their own colours, (n, 3, pixels), half of them paler, richer or tinged, as emoji sets differ."""
        changed = _chance((n, 1, 1), 0.5)
        pale = torch.where(changed, _between((n, 1, 1), 0.6, 1.35), 1.0).to(REAL)
        tinge = torch.where(changed, _between((n, 3, 1), 0.85, 1.15), 1.0).to(REAL)
        grey = own.mean(1, keepdim=True)
        return (grey + (own - grey) * pale) * tinge


def _labels(layout: Layout, covered: Tensor) -> Tensor:
    """The targets of each patch, as `pool.patch_labels`: (n, grid, grid, 6) int64."""
    n = len(covered)
    cells = covered.view(n, GRID, PATCH, GRID, PATCH).transpose(2, 3).reshape(n, GRID * GRID, PATCH * PATCH)
    counts = torch.stack([(cells == number + 1).sum(-1) for number in range(CROWD_MAX)], -1)
    most, best = counts.max(-1)
    home = counts.argmax(1).gather(1, best)
    patch = torch.arange(GRID * GRID, device=DEVICE)
    seen = most > SEEN * PATCH * PATCH
    doubt = seen & (most < CLEAR * PATCH * PATCH) & (home != patch)
    known = seen & ~doubt
    x, y = (layout.x / layout.wide[:, :1], layout.y / layout.wide[:, 1:])
    kind, colour, px, py, size = (each.gather(1, best) for each in (layout.kind, layout.colour, x, y, layout.size))
    colour = torch.where(colour < 0, DOUBT, colour)
    what = [torch.where(known, each, torch.where(doubt, DOUBT, EMPTY)) for each in (kind, colour)]
    row, column = patch // GRID, patch % GRID
    where = [px * GRID - column - 0.5, py * GRID - row - 0.5, size * GRID]
    fine = [torch.where(known, (each * FINE).round().clamp(-127, 127), 0.0).long() for each in where]
    at = (y * GRID).long().clamp(0, GRID - 1) * GRID + (x * GRID).long().clamp(0, GRID - 1)
    centres = torch.zeros(n, GRID * GRID, dtype=torch.int64, device=DEVICE)
    centres.scatter_add_(1, at, layout.there.long())
    return torch.stack([*what, centres.clamp(max=CENTRES - 1), *fine], -1).view(n, GRID, GRID, 6)


def _texture(kind: str, style: str) -> Tensor:
    """A thing as (5, TEXTURE, TEXTURE), 0 to 1: its own red, green and blue, the tone's share, the cover."""
    red = (255, 0, 0)
    if kind in SHAPES:
        # On blue, a red shape with black or dark red edges shows the tone's share as red, the cover as lack of blue.
        blue = (0, 0, 255)
        look = Look(TEXTURE * 4, "plain", blue, blue, 0.0, 0, edges="hard")
        item = Item(kind, "red", 0.5, 0.5, INSIDE / TEXTURE, red, style=style)
        drawn = draw(Scene((item,), look)).resize((TEXTURE, TEXTURE), Image.Resampling.BOX)
        pixels = np.asarray(drawn, np.float32) / 255
        nothing = np.zeros_like(pixels[..., 0])
        return torch.from_numpy(np.stack([nothing, nothing, nothing, pixels[..., 0], 1 - pixels[..., 2]]))
    tone = None if kind in NATURAL else red
    pixels = np.asarray(sprite(kind, style, INSIDE, tone=tone), np.float32) / 255
    cover = pixels[..., 3]
    if kind in NATURAL:
        parts = [*np.moveaxis(pixels[..., :3], -1, 0), np.zeros_like(cover)]
    else:
        # Painted red, its green is the shine, which no tone changes (`sprites.sprite`).
        shine = pixels[..., 1]
        parts = [shine, shine, shine, pixels[..., 0] - shine]
    edge = (TEXTURE - INSIDE) // 2
    return F.pad(torch.from_numpy(np.stack([*(part * cover for part in parts), cover])), (edge,) * 4)


def _levels(texture: Tensor) -> Tensor:
    """A texture at each of LEVELS: (levels, 5, TEXTURE, TEXTURE)."""
    made = []
    for side in LEVELS:
        small = (round(TEXTURE * side / INSIDE),) * 2
        reduced = F.interpolate(texture[None], small, mode="bilinear", antialias=True, align_corners=False)
        made.append(F.interpolate(reduced, (TEXTURE, TEXTURE), mode="bicubic", align_corners=False).clamp(0, 1))
    return torch.cat(made)


def _chance(shape: int | tuple[int, ...], share: float) -> Tensor:
    return torch.rand(shape, device=DEVICE) < share


def _between(shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, device=DEVICE) * (high - low) + low


def _whole(n: int, low: int, high: int) -> Tensor:
    """n whole numbers from low to high, both included."""
    return torch.randint(low, high + 1, (n,), device=DEVICE)
