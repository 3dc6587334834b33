"""`edge-interleave models`: lists the stored models (`list`), removes one (`remove`, or `rm`)."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from edge_interleave.bundle import store
from edge_interleave.cli import output
from edge_interleave.cli.options import complete_model, json_option


@click.group(invoke_without_command=True)
@json_option()
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the stored models with their sizes; `models remove NAME` deletes one."""
    if ctx.invoked_subcommand is None:
        _list(as_json)
    elif as_json:
        raise click.UsageError(f"give --json after the command: models {ctx.invoked_subcommand} --json")


@models.command("list")
@json_option()
def list_(as_json: bool) -> None:
    """List the stored models, as `models` alone does."""
    _list(as_json)


def _list(as_json: bool) -> None:
    found = store.list_models()
    folder = store.known_models_folder()
    if as_json:
        output.print_json(
            {"folder": None if folder is None else str(folder), "models": [_as_json(model) for model in found]}
        )
        return
    rows = [
        (
            model.name,
            output.size(model.bytes),
            ", ".join(sorted(set(model.precisions.values()))),
            f"DAMAGED: {model.problem}" if model.problem else model.source,
        )
        for model in found
    ]
    output.out().print(output.table(("name", "size", "precision", "made from"), rows, right=("size",)))
    where = f"are stored in {folder}" if folder else f"need a home folder; set {store.HOME_VARIABLE} to a folder"
    output.note(f"\npulled models {where}")


def _complete_pulled(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [item for item in complete_model(ctx, parameter, incomplete) if item.value != store.EMBEDDED]


@models.command()
@click.argument("name", shell_complete=_complete_pulled)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option("Print one JSON object; needs --yes.")
def remove(name: str, yes: bool, as_json: bool) -> None:
    """Delete a pulled model and the files of an interrupted pull of it."""
    if as_json and not yes:
        raise click.UsageError("--json cannot ask for confirmation; add --yes to delete")
    held = store.removable_bytes(name)
    if not yes:
        size = f" ({output.size(held)})" if held else ""
        click.confirm(f"Delete {name}{size} from {store.models_folder()}?", abort=True, err=True)
    freed = store.remove(name)
    if as_json:
        output.print_json({"removed": name, "bytes": freed})
    else:
        output.note(f"removed {name}, {output.size(freed)}")


models.add_command(remove, "rm")


def _as_json(model: store.StoredModel) -> dict[str, object]:
    return {
        "name": model.name,
        "folder": str(model.folder),
        "bytes": model.bytes,
        "source": model.source,
        "precisions": model.precisions,
        "problem": model.problem,
    }
