"""Users without a home folder or with a read-only one, as services and containers have."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import error_line

from edge_interleave.bundle import store
from edge_interleave.cli.demo import tour_folder
from edge_interleave.errors import InputError, UsageError

# The user has no entry in the system's list, as a number that a container was started with has none.
PROGRAM = """
import pwd
def nobody(*_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
from edge_interleave.cli import main
main()
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def homeless(tmp_path: Path) -> Run:
    """Runs the program without HOME, in an empty folder."""
    kept = ("PATH", "LANG", "LD_PRELOAD", "OMP_NUM_THREADS", "PYTHONPATH")
    bare = {name: os.environ[name] for name in kept if name in os.environ}
    folder = tmp_path / "current"
    folder.mkdir()

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        done = subprocess.run(
            command, env={**bare, **more}, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert list(folder.iterdir()) == [], "left in the current folder"
        return done

    return run


class TestWithoutAHomeFolder:
    def test_models_lists_the_embedded_one_and_names_the_variable_to_set(self, homeless: Run) -> None:
        done = homeless("models")
        assert done.returncode == 0, done.stderr
        assert "embedded" in done.stdout
        assert "set EDGE_INTERLEAVE_HOME to a folder" in done.stderr
        assert json.loads(homeless("models", "--json").stdout)["folder"] is None

    def test_info_and_the_embedded_model_work(self, homeless: Run) -> None:
        done = homeless("info")
        assert done.returncode == 0, done.stderr
        assert "EDGE_INTERLEAVE_HOME" in done.stdout
        picture = tour_folder() / "card-1.png"
        done = homeless("ask", "Describe the image.", "--image", picture, "--threads", "1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (("pull", "acme/tiny"), 2, "no home folder to keep models in; set EDGE_INTERLEAVE_HOME to a folder"),
            (("models", "remove", "tiny", "--yes"), 2, "set EDGE_INTERLEAVE_HOME to a folder"),
            (("ask", "Q", "--model", "tiny"), 3, "no model or folder named 'tiny' (models: embedded)"),
            (("ask", "Q", "--model", "acme/tiny"), 3, "not a folder and not a pulled model"),
            (("ask", "Q", "--model", "~/tiny"), 2, "~/tiny: its home folder is not known; give the full path"),
            (("info", "~someone/tiny"), 2, "~someone/tiny: its home folder is not known"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_commands_that_need_a_home_folder_say_so(
        self, homeless: Run, arguments: tuple[str, ...], code: int, said: str
    ) -> None:
        assert said in error_line(homeless(*arguments), code)

    def test_a_variable_that_begins_with_a_tilde_is_refused(self, homeless: Run) -> None:
        line = error_line(homeless("pull", "acme/tiny", EDGE_INTERLEAVE_HOME="~/models"), 2)
        assert "~/models: its home folder is not known" in line

    def test_the_hubs_cache_needs_a_folder_too(self, homeless: Run, tmp_path: Path) -> None:
        models = str(tmp_path / "models")
        line = error_line(homeless("pull", "acme/tiny", EDGE_INTERLEAVE_HOME=models, HF_HUB_OFFLINE="1"), 3)
        assert "no home folder for the Hub's cache; set HF_HOME to a folder" in line
        with_cache = {"EDGE_INTERLEAVE_HOME": models, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
        assert "not in the local cache" in error_line(homeless("pull", "acme/tiny", **with_cache), 3)


@pytest.mark.parametrize("what", ["a file", "read only"])
def test_a_home_that_cannot_be_written_names_the_variable(
    what: str, homeless: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    if what == "a file":
        home.touch()
        line = error_line(homeless("pull", "acme/tiny", HOME=str(home)), 3)
        assert f"{home}/.local/share/edge-interleave/models: cannot be created" in line
    else:
        home.mkdir()
        monkeypatch.setenv("EDGE_INTERLEAVE_HOME", str(home))
        monkeypatch.setattr(os, "access", lambda *_: False)  # a user who may do everything runs tests, too
        with pytest.raises(InputError) as error:
            store.make_models_folder()
        line = str(error.value)
        assert line.startswith(f"{home}: cannot be written")
    assert "set EDGE_INTERLEAVE_HOME to a folder that can be written" in line


def test_a_path_in_an_unknown_users_home_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="give the full path"):
        store.expand_home("~no-such-user-anywhere/pictures")
    assert store.expand_home("plain") == Path("plain")
