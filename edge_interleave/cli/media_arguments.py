"""Reads the names of images and videos on the command line and in a chat: files, patterns, stdin.

Files are looked up before a model is loaded, so a wrong path is reported at once.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.prompt.messages import Image, Media, Video
from edge_interleave.util.natural_order import natural_order

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

STDIN = "-"
IMAGE, VIDEO = "image", "video"
_ORDER = "edge_interleave.media"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class MediaCommand(click.Command):
    """A command that keeps the common order of its `--image` and `--video` options.

    Files after the value of such an option belong to it too, because a shell expands `--image *.png` to
    `--image a.png b.png`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as Click does, and record the order of the two options."""
        if not ctx.resilient_parsing:
            args = self._with_repeated_options(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ORDER] = [parameter.name for parameter in order if parameter.name in (IMAGE, VIDEO)]
        return super().parse_args(ctx, args)

    def _with_repeated_options(self, ctx: click.Context, args: Sequence[str]) -> list[str]:
        """Repeat `--image` or `--video` before each further file after its value. Fails for surplus arguments."""
        options = {
            name: parameter
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        expanded: list[str] = []
        positionals: list[str] = []
        media: str | None = None
        tokens = iter(args)
        for token in tokens:
            if token == "--":
                rest = list(tokens)
                expanded += [token, *rest]
                positionals += rest
            elif token.startswith("-") and token != STDIN:
                name, _, attached = token.partition("=") if token.startswith("--") else (token[:2], "", token[2:])
                option = options.get(name)
                expanded += [token, *islice(tokens, int(option is not None and not attached))]
                media = name if option is not None and option.name in (IMAGE, VIDEO) else None
            elif media is not None and os.path.lexists(token):
                expanded += [media, token]
            else:
                expanded.append(token)
                positionals.append(token)
        expected = sum(isinstance(parameter, click.Argument) for parameter in self.params)
        if len(positionals) > expected:
            what = "put the question in quotes" if expected else "type the questions, or pipe them in"
            surplus = " ".join(map(repr, positionals[expected:]))
            ctx.fail(f"unexpected {surplus}; {what}, and repeat --image for each picture")
        return expanded


def media_in_order(
    ctx: click.Context, image: Sequence[str], video: Sequence[str], *, stdin_is: str | None = None
) -> list[Media]:
    """The images and videos of the call, in the order given. Raises UsageError, MediaError.

    `stdin_is`: what stdin holds, for the message that it cannot be a picture too; None: stdin is free.
    """
    given = {IMAGE: iter(image), VIDEO: iter(video)}
    pictures = sum(path == STDIN for path in image)
    if pictures and stdin_is is not None:
        raise UsageError(f"stdin is {stdin_is} and cannot be a picture too; save the picture to a file")
    if pictures > 1:
        raise UsageError("stdin holds one picture; give --image - once")
    return [media for kind in ctx.meta[_ORDER] for media in named_media(kind, next(given[kind]))]


def named_media(kind: str, name: str) -> Iterator[Media]:
    """The images or videos (`kind`) that a name means: a file, `-` for stdin, or a pattern such as `pics/*.png`.

    Raises MediaError for a missing file and for an address: addresses are not fetched.
    """
    if name == STDIN:
        if kind == VIDEO:
            raise UsageError("a video cannot be read from stdin; save it to a file")
        yield Image(_picture_from_stdin())
        return
    if not name:
        raise UsageError(f"--{kind} has an empty value; give a file")
    if _ADDRESS.match(name):
        raise MediaError(f"{name}: is an address, and nothing is fetched; download it and give the file")
    make = Image if kind == IMAGE else Video
    exists = os.path.lexists(name) or not glob.has_magic(name)
    paths = [name] if exists else sorted(glob.glob(name), key=natural_order)
    if not paths:
        raise MediaError(f"{name}: no file matches this pattern; check the path")
    for path in paths:
        if not os.path.lexists(path):
            raise MediaError(f"{path}: no such file; check the path")
        if kind == IMAGE and os.path.isdir(path):
            raise MediaError(f"{path}: is a folder; give its pictures ('{path}/*.png'), or show it as a video")
        yield make(Path(path))


def check_readable(media: Media) -> None:
    """Open an image, or the first frame of a video. Raises MediaError if it cannot be read."""
    if isinstance(media, Image):
        from edge_interleave.media.pictures.image import open_image

        open_image(media.source)
    else:
        from edge_interleave.media.clip import sample_clip

        sample_clip(media.path, 1)


def _picture_from_stdin() -> Picture:
    from edge_interleave.media.pictures.image import MAX_FILE_BYTES, open_image

    if sys.stdin.isatty():
        raise UsageError("--image - reads a picture from stdin, but stdin is a terminal; pipe a picture in")
    content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    try:
        return open_image(content)
    except MediaError as error:
        raise MediaError(f"stdin: {error}") from error
