"""Options that `ask` and `chat` share: the model, what it is shown, and how its answer is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from ..messages import Image, Media, Video
from ..sampling import SamplingOptions

_F = TypeVar("_F", bound=Callable[..., Any])
_MEDIA = "edge_interleave.media"
_SAMPLING = tuple(field.name for field in fields(SamplingOptions))
_CHOSEN = ("max_tokens", "stop", "frames", "pool", "tiles")


@dataclass(frozen=True)
class Choices:
    """What was chosen, as the library takes it."""

    sampling: SamplingOptions
    max_tokens: int
    stop: tuple[str, ...]
    frames: int
    pool: int
    tiles: bool


class MediaCommand(click.Command):
    """A command whose `--image` and `--video` keep the order in which they are given together."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does, noting which of the two options came when."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_MEDIA] = [parameter.name for parameter in order if parameter.name in ("image", "video")]
        return super().parse_args(ctx, args)


def media_in_order(ctx: click.Context, image: tuple[Path, ...], video: tuple[Path, ...]) -> list[Media]:
    """The images and videos of the call, in the order given."""
    images, videos = iter(image), iter(video)
    return [Image(next(images)) if kind == "image" else Video(next(videos)) for kind in ctx.meta[_MEDIA]]


def strides(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """A pooling stride, or a pattern of them."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no pooling stride; give one like 2, or a pattern like 1,4,4,4"
        ) from None


def model_options(command: _F) -> _F:
    """Which model, and how it is opened."""
    return _decorated(
        command,
        click.option("--model", metavar="NAME_OR_FOLDER", help="A pulled model or a bundle (default: the embedded)."),
        click.option("--backend", help="What runs the decoder (default: the first that can)."),
        click.option("--context", type=int, help="Tokens that fit, answer included (default: as many as needed)."),
        click.option("--threads", type=int, help="CPU threads (default: one a core)."),
    )


def media_options(command: _F) -> _F:
    """What the model is shown."""
    path = click.Path(path_type=Path)
    return _decorated(
        command,
        click.option("--image", type=path, multiple=True, help="An image; as often as you like."),
        click.option("--video", type=path, multiple=True, help="A video, an animation or a folder of pictures."),
        click.option("--frames", type=int, default=8, show_default=True, help="Frames taken of each video."),
        click.option("--pool", type=int, default=1, show_default=True, help="Pooling stride: 2 for a quarter."),
        click.option("--tiles", is_flag=True, help="A large image as overview plus tiles."),
    )


def answer_options(command: _F) -> _F:
    """How the answer is drawn, and when it ends; with what `media_options` says it reaches the command as `chosen`."""

    @wraps(command)
    def packed(*arguments: Any, **values: Any) -> Any:
        sampling = SamplingOptions(**{name: values.pop(name) for name in _SAMPLING})
        values["chosen"] = Choices(sampling, **{name: values.pop(name) for name in _CHOSEN})
        return command(*arguments, **values)

    return _decorated(
        cast(_F, packed),
        click.option("--max-tokens", type=int, default=256, show_default=True, help="Length of the answer at most."),
        click.option("--stop", multiple=True, help="End the answer before this text."),
        click.option("--temperature", type=float, default=0.0, show_default=True, help="0: the likeliest answer."),
        click.option("--top-p", type=float, default=1.0, help="Draw from the likeliest tokens that sum to this."),
        click.option("--top-k", type=int, default=0, help="Draw from so many tokens; 0: from all."),
        click.option("--min-p", type=float, default=0.0, help="Draw from tokens this likely beside the likeliest."),
        click.option(
            "--repetition-penalty",
            type=float,
            default=1.0,
            help="Above 1: tokens that stand in the prompt or in the answer so far become less likely.",
        ),
        click.option("--seed", type=int, help="The same seed, the same answer."),
    )


def _decorated(command: _F, *options: Callable[[_F], _F]) -> _F:
    for option in reversed(options):
        command = option(command)
    return command
