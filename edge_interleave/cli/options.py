"""Options that several commands share, one decorator each: the model, what it is shown, how its answer is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from edge_interleave.errors import UsageError

if TYPE_CHECKING:
    from edge_interleave.cli.waiting import Waiting
    from edge_interleave.decoding.sampling import SamplingOptions
    from edge_interleave.model import Model

_F = TypeVar("_F", bound=Callable[..., Any])
# As in `decoder` and `sampling`, whose import costs NumPy: tests hold them together.
KV_PRECISIONS = ("f16", "q8_0", "q4_0")
SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"
)  # fmt: skip
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


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is opened: the arguments of `load`."""

    model: str | None
    backend: str | None
    context: int | None
    threads: int | None
    kv_precision: str

    def open(self, waiting: Waiting | None = None) -> Model:
        """The model, loaded now. `waiting` shows that, and later how far its questions are."""
        from edge_interleave.model import load

        if waiting is not None:
            waiting.show("loading the model")
        return load(**asdict(self), progress=waiting)


class Count(click.ParamType[int]):
    """A whole number from 1."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Fails with the option's name where it is none."""
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value} is not a whole number from 1", param, ctx)
        return number


COUNT = Count()


def strides(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """A pooling stride, or a pattern of them."""
    try:
        found = None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        found = (0,)
    if found is not None and min(found) < 1:
        raise click.BadParameter(f"{value!r} is no pooling stride; give one like 2, or a pattern like 1,4,4,4")
    return found


def complete_model(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: the models that are here, then folders."""
    from edge_interleave.bundle.store import model_names

    names = [CompletionItem(name) for name in model_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="dir")]


def complete_path(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: files and folders."""
    return [CompletionItem(incomplete, type="file")]


def model_option(command: _F) -> _F:
    """`--model`."""
    return click.option(
        "-m",
        "--model",
        metavar="NAME_OR_FOLDER",
        shell_complete=complete_model,
        help="A pulled model or a bundle (default: the embedded).",
    )(command)


def backend_option(command: _F) -> _F:
    """`--backend`, of what runs a decoder."""
    return click.option("--backend", metavar="NAME", help="What runs the decoder (default: the first that can).")(
        command
    )


def threads_option(command: _F) -> _F:
    """`--threads`."""
    return click.option("--threads", type=COUNT, help="CPU threads (default: one a core).")(command)


def kv_precision_option(default: str | None = "f16") -> Callable[[_F], _F]:
    """`--kv-precision`; without a default the command chooses."""
    return click.option(
        "--kv-precision",
        type=click.Choice(KV_PRECISIONS, case_sensitive=False),
        default=default,
        show_default=default is not None,
        help="Of the KV cache; less takes less memory." if default else "Of the KV cache (default: what fits best).",
    )


def system_option(command: _F) -> _F:
    """`--system`."""
    return click.option("--system", metavar="TEXT", help="A message that goes before the conversation.")(command)


def max_tokens_option(default: int = 256) -> Callable[[_F], _F]:
    """`--max-tokens`."""
    return click.option(
        "--max-tokens", type=COUNT, default=default, show_default=True, help="Length of an answer at most."
    )


def window_option(default: int | None = None) -> Callable[[_F], _F]:
    """`--window`; without a default the command chooses."""
    return click.option(
        "--window",
        type=COUNT,
        default=default,
        show_default=default is not None,
        help="So many of the latest frames are seen.",
    )


def pool_option(command: _F) -> _F:
    """`--pool`, one stride for all."""
    return click.option(
        "--pool", type=COUNT, default=1, show_default=True, help="Pooling stride: 2 keeps a quarter of the tokens."
    )(command)


def frames_option(command: _F) -> _F:
    """`--frames`, of a video."""
    return click.option("--frames", type=COUNT, default=8, show_default=True, help="Frames taken of each video.")(
        command
    )


def json_option(help: str = "Print one JSON object.") -> Callable[[_F], _F]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def model_options(command: _F) -> _F:
    """Which model, and how it is opened; reaches the command as `opening`."""

    @wraps(command)
    def packed(*arguments: Any, **values: Any) -> Any:
        names = ("model", "backend", "context", "threads", "kv_precision")
        values["opening"] = ModelChoice(**{name: values.pop(name) for name in names})
        return command(*arguments, **values)

    return _decorated(
        cast(_F, packed),
        model_option,
        backend_option,
        click.option("--context", type=COUNT, help="Tokens that fit, answer included (default: as many as needed)."),
        threads_option,
        kv_precision_option(),
    )


def media_options(command: _F) -> _F:
    """What the model is shown."""
    path = click.Path(allow_dash=True)  # as text: `Path` would make one slash of an address's two
    return _decorated(
        command,
        click.option("-i", "--image", type=path, multiple=True, help="An image; repeat it for more."),
        click.option("--video", type=path, multiple=True, help="A video, an animation or a folder of pictures."),
        frames_option,
        pool_option,
        click.option("--tiles", is_flag=True, help="A large image as overview plus tiles."),
    )


def answer_options(command: _F) -> _F:
    """How the answer is drawn, and when it ends; with what `media_options` says it reaches the command as `chosen`."""

    @wraps(command)
    def packed(*arguments: Any, **values: Any) -> Any:
        from edge_interleave.decoding.sampling import SamplingOptions

        try:
            sampling = SamplingOptions(**{name: values.pop(name) for name in SAMPLING})
        except UsageError as error:
            # The library names its parameter first.
            name, _, why = str(error).partition(" ")
            raise UsageError(f"--{name.replace('_', '-')} {why}") from error
        values["chosen"] = Choices(sampling, **{name: values.pop(name) for name in _CHOSEN})
        return command(*arguments, **values)

    return _decorated(
        cast(_F, packed),
        max_tokens_option(),
        click.option("--stop", metavar="TEXT", multiple=True, help="End the answer before this text."),
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
        click.option("--presence-penalty", type=float, default=0.0, help="Off the logits of tokens said already."),
        click.option("--frequency-penalty", type=float, default=0.0, help="The same, for each time they were said."),
        click.option("--seed", type=int, help="The same seed, the same answer."),
    )


def _decorated(command: _F, *options: Callable[[_F], _F]) -> _F:
    for option in reversed(options):
        command = option(command)
    return command
