"""The command line: the list of commands. Each command's module is imported when the command is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

# Name -> the command's module and attribute, and its line in `edge-interleave --help`, which needs no import.
COMMANDS = {
    "demo": ("edge_interleave.cli.demo:demo", "Take a short tour with the embedded model: several images, a video."),
    "ask": ("edge_interleave.cli.ask:ask", "Ask one question about images and videos."),
    "chat": ("edge_interleave.cli.chat:chat", "Talk about images and videos over several turns."),
    "watch": ("edge_interleave.cli.watch:watch", "Watch a camera, a video or a stream: ask repeatedly, raise alerts."),
    "serve": ("edge_interleave.cli.serve:serve", "Serve the OpenAI interface over HTTP, for other apps."),
    "pull": ("edge_interleave.cli.pull:pull", "Download a model from the Hugging Face Hub and convert it."),
    "convert": ("edge_interleave.cli.convert:convert", "Convert a downloaded checkpoint into a bundle that can run."),
    "models": ("edge_interleave.cli.models:models", "List the stored models, or remove one."),
    "plan": ("edge_interleave.cli.plan:plan", "Plan a live window: what fits in memory, and what it costs."),
    "eval": ("edge_interleave.cli.evaluate:evaluate", "Score a model on a benchmark file or on drawn pictures."),
    "info": ("edge_interleave.cli.info:info", "Show what a model consists of, or what is installed."),
}


class LazyGroup(click.Group):
    """A command group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without an import."""
        found = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help's list of commands without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as Click does. An unknown command fails with the nearest name, or with the list of commands."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the commands are: {', '.join(COMMANDS)}"
            ctx.fail(f"No such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"edge-interleave {version('edge-interleave')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Ask a local LLaVA-NeXT-Interleave model about several images, a video or a live camera.

    Start with: edge-interleave demo
    """


def main(args: Sequence[str] | None = None) -> Any:
    """Run the `edge-interleave` program, and exit with the command's exit code."""
    from edge_interleave.cli.errors import run

    sys.exit(run(cli, list(sys.argv[1:] if args is None else args)))
