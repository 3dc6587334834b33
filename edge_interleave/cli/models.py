"""`edge-interleave models`: list the models that are here, and remove one."""

from __future__ import annotations

import click

from .. import store
from . import output


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the models that are here, with their sizes; `models remove NAME` deletes one."""
    if ctx.invoked_subcommand is not None:
        return
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
    output.out().print(output.table(("name", "size", "precision", "made of"), rows, right=("size",)))
    where = f"live in {folder}" if folder else f"have no home folder to live in; set {store.HOME_VARIABLE} to a folder"
    output.note(f"\npulled models {where}")


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; asks nothing, so it needs --yes.")
def remove(name: str, yes: bool, as_json: bool) -> None:
    """Delete a pulled model, and what an interrupted pull of it left."""
    if as_json and not yes:
        raise click.UsageError("--json asks nothing; add --yes to delete")
    if not yes:
        known = {model.name: model for model in store.list_models()}
        held = f" ({output.size(known[name].bytes)})" if name in known else ""
        click.confirm(f"Delete {name}{held} from {store.models_folder()}?", abort=True, err=True)
    freed = store.remove(name)
    if as_json:
        output.print_json({"removed": name, "bytes": freed})
    else:
        output.note(f"removed {name}, {output.size(freed)}")


def _as_json(model: store.StoredModel) -> dict[str, object]:
    return {
        "name": model.name,
        "folder": str(model.folder),
        "bytes": model.bytes,
        "source": model.source,
        "precisions": model.precisions,
        "problem": model.problem,
    }
