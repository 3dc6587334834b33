"""An installation contains every package of the repository."""

import tomllib

from support.paths import ROOT


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = set()
    for name, folder in settings["package-dir"].items():
        for file in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *file.parent.relative_to(ROOT / folder).parts]))
    assert set(settings["packages"]) == found


def test_backends_and_converters_have_their_import_path_in_the_tree() -> None:
    """Symbolic links let type checkers and editors find `edge_interleave.backends` where Python finds it."""
    for name in ("backends", "converters"):
        assert (ROOT / "edge_interleave" / name).resolve() == ROOT / name
