"""The command line: which commands there are. Each lies in a module of its own, imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

# Name -> where the command lies, and its line in `edge-interleave --help`, which so needs no import.
COMMANDS = {
    "demo": ("edge_interleave.cli.demo:demo", "A short tour with the embedded model: several images, a video."),
    "ask": ("edge_interleave.cli.ask:ask", "Ask one question about images and videos."),
    "chat": ("edge_interleave.cli.chat:chat", "Talk about images and videos, turn by turn."),
    "watch": ("edge_interleave.cli.watch:watch", "Watch a camera, a video or a stream: answers, and alerts."),
    "serve": ("edge_interleave.cli.serve:serve", "Serve the OpenAI interface over HTTP, for other apps."),
    "pull": ("edge_interleave.cli.pull:pull", "Download a model from the Hugging Face Hub, and convert it."),
    "convert": ("edge_interleave.cli.convert:convert", "Convert a checkpoint into a bundle's folder."),
    "models": ("edge_interleave.cli.models:models", "List the models that are here, or remove one."),
    "plan": ("edge_interleave.cli.plan:plan", "What a live window can hold in so much memory, and what it costs."),
    "eval": ("edge_interleave.cli.evaluate:evaluate", "Score a model on a benchmark's file, or on a drawn world."),
    "info": ("edge_interleave.cli.info:info", "What a model is made of, or what is installed."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and give its command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, from literals."""
        found = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's list of commands, from literals."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click does, but an unknown command is answered with the ones there are."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(COMMANDS)}"
            ctx.fail(f"No such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"edge-interleave {version('edge-interleave')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def cli() -> None:
    """LLaVA-NeXT-Interleave on the edge: ask about several images, a video or a live camera, locally.

    Begin with: edge-interleave demo
    """


def main(args: Sequence[str] | None = None) -> Any:
    """The `edge-interleave` program: run a command and exit with its code."""
    from edge_interleave.cli.errors import run

    sys.exit(run(cli, list(sys.argv[1:] if args is None else args)))
