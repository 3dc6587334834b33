"""Options that several commands share, as decorators: the model, its images and videos, how it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from edge_interleave.errors import InputError, UsageError

if TYPE_CHECKING:
    import threading

    from edge_interleave.cli.status_line import StatusLine
    from edge_interleave.decoding.sampling import SamplingOptions
    from edge_interleave.model import Model
    from edge_interleave.options import AskOptions, MediaOptions
    from edge_interleave.remote.model import RemoteModel

_F = TypeVar("_F", bound=Callable[..., Any])
# Copied from `decoder` and `sampling`, whose import would load NumPy; a test compares them.
KV_PRECISIONS = ("f16", "q8_0", "q4_0")
SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"
)  # fmt: skip
_CHOSEN = ("max_tokens", "stop", "frames", "pool", "tiles", "schema")
_SCHEMA_BYTES_MAX = 1 << 18


@dataclass(frozen=True)
class AnswerSettings:
    """The options of an answer, in the library's types."""

    sampling: SamplingOptions
    max_tokens: int
    stop: tuple[str, ...]
    frames: int
    pool: int
    tiles: bool
    schema: dict[str, Any] | None

    def media_options(self) -> MediaOptions:
        """The keyword arguments for images and videos."""
        return {"frames": self.frames, "pool": self.pool, "tiles": self.tiles}

    def ask_options(self, cancel: threading.Event | None = None) -> AskOptions:
        """All keyword arguments of `ask` and `stream`. `cancel`: ends the answer when set."""
        return {
            **self.media_options(),
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "sampling": self.sampling,
            "schema": self.schema,
            "cancel": cancel,
        }


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of `load`."""

    model: str | None
    backend: str | None
    context: int | None
    threads: int | None
    kv_precision: str
    url: str | None = None
    api_key_env: str | None = None

    def open(self, status: StatusLine | None = None) -> Model | RemoteModel:
        """Load the model, or reach the server. `status` shows the loading, and later a question's progress."""
        from edge_interleave.model import load

        here = {"--context": self.context, "--threads": self.threads}
        given = [name for name, value in here.items() if value is not None]
        given += ["--kv-precision"] if self.kv_precision != KV_PRECISIONS[0] else []
        if self.url is not None and given:
            raise UsageError(f"{given[0]} is for a model on this machine; leave it out with --url")
        if status is not None:
            status.show("loading the model" if self.url is None else "asking the server")
        arguments = asdict(self)
        variable, key = arguments.pop("api_key_env"), None
        if variable is not None:
            if self.url is None:
                raise UsageError("--api-key-env belongs to --url; give both")
            key = os.environ.get(variable)
            if not key:
                raise UsageError(f"--api-key-env {variable}: the environment has no such variable; set it to the key")
        found: Model | RemoteModel = load(**arguments, api_key=key, progress=status)
        return found


class Count(click.ParamType[int]):
    """A whole number of at least 1."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number. Fails with the option's name for anything else."""
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value} is not a whole number of at least 1", param, ctx)
        return number


COUNT = Count()


def strides(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Callback of a click option: a pooling stride, or a pattern of them. Raises BadParameter for other texts."""
    try:
        found = None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        found = (0,)
    if found is not None and min(found) < 1:
        raise click.BadParameter(f"{value!r} is not a pooling stride; give a number like 2, or a pattern like 1,4,4,4")
    return found


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the command line gives this parameter."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_given(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """Raise UsageError if the command line gives one of these parameters, which would be silently ignored.

    `why`: follows the option's name in the message.
    """
    for parameter in ctx.command.params:
        if parameter.name in names and is_given(ctx, parameter.name):
            raise UsageError(f"{parameter.opts[-1]} {why}")


def complete_model(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion: stored models, else folders."""
    from edge_interleave.bundle.store import model_names

    names = [CompletionItem(name) for name in model_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="dir")]


def complete_path(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion: files and folders."""
    return [CompletionItem(incomplete, type="file")]


def model_option(command: _F) -> _F:
    """`--model`."""
    return click.option(
        "-m",
        "--model",
        metavar="NAME_OR_FOLDER",
        shell_complete=complete_model,
        help="A stored model's name or a bundle's folder.  [default: the embedded model]",
    )(command)


def backend_option(command: _F) -> _F:
    """`--backend`."""
    return click.option(
        "--backend",
        metavar="NAME",
        help="Backend that runs the decoder: llama-cpp, mlx, ...  [default: the first one that can]",
    )(command)


def threads_option(command: _F) -> _F:
    """`--threads`."""
    return click.option("--threads", type=COUNT, help="Number of CPU threads.  [default: one per core]")(command)


def kv_precision_option(default: str | None = "f16") -> Callable[[_F], _F]:
    """`--kv-precision`; without a default the command chooses."""
    return click.option(
        "--kv-precision",
        type=click.Choice(KV_PRECISIONS, case_sensitive=False),
        default=default,
        show_default=default is not None,
        help="Precision of the KV cache; a lower one takes less memory."
        if default
        else "Precision of the KV cache.  [default: the best that fits]",
    )


def system_option(command: _F) -> _F:
    """`--system`."""
    return click.option("--system", metavar="TEXT", help="System message, placed before the conversation.")(command)


def max_tokens_option(default: int = 256) -> Callable[[_F], _F]:
    """`--max-tokens`."""
    return click.option(
        "--max-tokens", type=COUNT, default=default, show_default=True, help="Most tokens of an answer."
    )


def window_option(default: int | None = None) -> Callable[[_F], _F]:
    """`--window`; without a default the command chooses."""
    return click.option(
        "--window",
        type=COUNT,
        default=default,
        show_default=default is not None,
        help="Number of latest frames that the model sees.",
    )


def pool_option(command: _F) -> _F:
    """`--pool`: one stride for all images."""
    return click.option(
        "--pool",
        type=COUNT,
        default=1,
        show_default=True,
        help="Pooling stride: 2 keeps a quarter of the visual tokens.",
    )(command)


def frames_option(command: _F) -> _F:
    """`--frames`."""
    return click.option("--frames", type=COUNT, default=8, show_default=True, help="Frames sampled from each video.")(
        command
    )


def json_option(help: str = "Print one JSON object.") -> Callable[[_F], _F]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def model_options(command: _F) -> _F:
    """The options of `ModelChoice`; the command gets them as `model_choice`."""

    @wraps(command)
    def packed(*arguments: Any, **values: Any) -> Any:
        names = ("model", "backend", "context", "threads", "kv_precision", "url", "api_key_env")
        values["model_choice"] = ModelChoice(**{name: values.pop(name) for name in names})
        return command(*arguments, **values)

    return _with_options(
        cast(_F, packed),
        model_option,
        backend_option,
        click.option("--context", type=COUNT, help="Capacity in tokens, for prompt and answer.  [default: as needed]"),
        threads_option,
        kv_precision_option(),
        click.option("--url", metavar="URL", help="A server with OpenAI's interface that answers instead (vLLM, ...)."),
        click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the server's API key."),
    )


def schema_option(command: _F) -> _F:
    """`--schema`; the command gets the parsed schema."""
    return click.option(
        "--schema",
        metavar="FILE",
        callback=_schema,
        shell_complete=complete_path,
        help="Answer in JSON that this JSON Schema allows.",
    )(command)


def _schema(ctx: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    import json

    try:
        with open(value, encoding="utf-8") as file:
            found = json.loads(file.read(_SCHEMA_BYTES_MAX + 1))
    except OSError as error:
        raise InputError(f"{value}: {error.strerror}; give a file that holds a JSON Schema") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{value}: not JSON ({error}); give a file that holds a JSON Schema") from error
    if not isinstance(found, dict):
        raise InputError(f"{value}: not a JSON object; give a file that holds a JSON Schema")
    return found


def media_options(command: _F) -> _F:
    """`--image`, `--video`, `--frames`, `--pool` and `--tiles`."""
    # Kept as text: `Path` would collapse the two slashes of an address.
    path = click.Path(allow_dash=True)
    return _with_options(
        command,
        click.option("-i", "--image", type=path, multiple=True, help="An image; repeat the option for more."),
        click.option(
            "--video",
            type=path,
            multiple=True,
            help="A video, an animation or a folder of pictures; repeat the option for more.",
        ),
        frames_option,
        pool_option,
        click.option(
            "--tiles", is_flag=True, help="Show each large image as an overview plus tiles, for small details."
        ),
    )


def answer_options(command: _F) -> _F:
    """Length, stops, schema and sampling of the answer; with `media_options`, the command gets them as `settings`."""

    @wraps(command)
    def packed(*arguments: Any, **values: Any) -> Any:
        from edge_interleave.decoding.sampling import SamplingOptions

        try:
            sampling = SamplingOptions(**{name: values.pop(name) for name in SAMPLING})
        except UsageError as error:
            # The library's message starts with the parameter's name.
            name, _, why = str(error).partition(" ")
            raise UsageError(f"--{name.replace('_', '-')} {why}") from error
        values["settings"] = AnswerSettings(sampling, **{name: values.pop(name) for name in _CHOSEN})
        return command(*arguments, **values)

    return _with_options(
        cast(_F, packed),
        max_tokens_option(),
        click.option("--stop", metavar="TEXT", multiple=True, help="End the answer before this text."),
        click.option(
            "--temperature",
            type=float,
            default=0.0,
            show_default=True,
            help="Randomness of the answer; 0 always takes the likeliest token.",
        ),
        click.option(
            "--top-p",
            type=float,
            default=1.0,
            help="Sample only from the likeliest tokens with this total probability.",
        ),
        click.option("--top-k", type=int, default=0, help="Sample only from this many likeliest tokens; 0: from all."),
        click.option(
            "--min-p",
            type=float,
            default=0.0,
            help="Sample only from tokens at least this likely, relative to the likeliest.",
        ),
        click.option(
            "--repetition-penalty",
            type=float,
            default=1.0,
            help="Penalise tokens that occur in the prompt or the answer so far; 1 disables it.",
        ),
        schema_option,
        click.option(
            "--presence-penalty",
            type=float,
            default=0.0,
            help="Subtract this from the logit of every token already in the answer.",
        ),
        click.option(
            "--frequency-penalty", type=float, default=0.0, help="The same, times how often the token occurred."
        ),
        click.option("--seed", type=int, help="Seed of the sampling; the same seed gives the same answer."),
    )


def _with_options(command: _F, *options: Callable[[_F], _F]) -> _F:
    for option in reversed(options):
        command = option(command)
    return command
