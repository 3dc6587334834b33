"""The five things people do here: `nox -s test`, `lint`, `docs`, `benchmark`, `release`.

Sessions run in the active environment, since llama.cpp takes minutes to compile: install
`pip install -e ".[test,lint,docs]" nox build` there first. `nox --force-venv-backend venv` makes fresh environments.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "test"]

ROOT = Path(__file__).parent
# Commands in `benchmarks/`; the other files there are parts of them.
BENCHMARKS = ("ablation", "calibration", "convert", "live", "memory", "parity", "sliding", "soak", "tower")


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests on all cores; arguments go to pytest (`nox -s test -- tests/vision`)."""
    install(session, "-e", ".[test]")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, types, and who imports whom."""
    install(session, "-e", ".[test,lint]")
    for command in ("ruff check .", "ruff format --check .", "codespell", "mypy", "lint-imports"):
        session.run(*command.split())


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `site/`; `nox -s docs -- serve` shows it and follows changes."""
    install(session, "-e", ".[docs]")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def benchmark(session: nox.Session) -> None:
    """Run a benchmark by its name (`nox -s benchmark -- parity --quantizations f16`); without one, list them."""
    if not session.posargs or session.posargs[0] not in BENCHMARKS:
        session.error(f"give one of {', '.join(BENCHMARKS)}, then its options; docs/benchmarks.md shows their results")
    install(session, "-e", ".[oracle,test]")
    name, *options = session.posargs
    session.run("python", f"benchmarks/{name}.py", *options)


@nox.session
def release(session: nox.Session) -> None:
    """Build wheel and source archive of a version that CHANGELOG.md describes, and try the wheel."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        session.error(f"CHANGELOG.md has no section [{version}]; rename [Unreleased], or set the version")
    install(session, "build")
    session.run("python", "-m", "build", "--outdir", "dist")
    (wheel,) = (ROOT / "dist").glob(f"edge_interleave-{version}-*.whl")
    # The packages of the active environment serve as dependencies; the package itself comes from the wheel.
    trial = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(trial), str(wheel))
    session.chdir(trial)
    session.run("python", "-m", "edge_interleave", "demo", "--out", str(trial / "demo.png"))
    session.log(f"next: git tag v{version}, then upload dist/ (`twine upload dist/edge_interleave-{version}*`)")


def install(session: nox.Session, *packages: str) -> None:
    """Install packages in a session's own environment; the active one is left as it is."""
    if session.venv_backend != "none":
        session.install(*packages)
