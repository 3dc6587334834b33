"""Another package's backend is found and passes the protocol suite; a wrong one fails it.

The package is `examples/numpy_backend`, installed as pip does it: modules on the path, entry points in a `dist-info`
folder.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.tiny import HIDDEN, change_manifest, tiny_bundle

from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import ENTRY_POINT_GROUP, find_backend
from edge_interleave.errors import BackendError, BundleError

PACKAGE = ROOT / "examples" / "numpy_backend"
NAME = "numpy-example"
FORGETFUL = """
from edge_interleave_numpy.backend import NumpyBackend, NumpyDecoder

class Forgetful(NumpyDecoder):
    def evict(self, start, end):
        if end >= self.position:
            super().evict(start, end)

class Backend(NumpyBackend):
    name = "forgetful"
    def open(self, bundle, options):
        return Forgetful(bundle, options)

BACKEND = Backend()
"""


def install(folder: Path, name: str, entry_points: dict[str, str]) -> None:
    """Write the metadata that pip writes for a package."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"{point} = {where}" for point, where in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the package's metadata."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, project["name"], project["entry-points"][ENTRY_POINT_GROUP])
    return folder


@pytest.fixture
def visible(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the package on this process's path."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(PACKAGE))


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def suite(site: Path, backend: str, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """Run the suite as CONTRIBUTING says. Returns the run, and how many tests passed, failed, were skipped."""
    done = python(site, "-m", "pytest", "tests/decoding/test_decoder_protocol.py", "--backend", backend, *options)
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout.splitlines()[-1] if done.stdout else "")
    return done, {kind: int(count) for count, kind in counts}


def test_info_lists_it(site: Path) -> None:
    done = python(site, "-m", "edge_interleave", "info", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backends"][NAME] == "ready"


def test_it_passes_the_suite_in_the_precision_that_it_has(site: Path) -> None:
    done, counts = suite(site, NAME)
    assert done.returncode == 0, done.stdout
    assert counts["passed"] > 50
    reasons = {line.split(": ", 1)[1] for line in done.stdout.splitlines() if line.startswith("SKIPPED")}
    counted = f"rows that {NAME} computes cannot be counted"
    assert reasons == {f"{NAME} has no q8_0", f"{NAME} has no q4_0", counted}


def test_the_suite_fails_a_backend_that_does_not_evict(site: Path) -> None:
    (site / "forgetful.py").write_text(FORGETFUL)
    install(site, "forgetful-engine", {"forgetful": "forgetful:BACKEND"})
    done, _ = suite(site, "forgetful", "-k", "evict")
    assert done.returncode == 1, done.stdout
    for test in ("evict_leaves_a_gap", "what_was_evicted_is_not_attended_to"):
        assert re.search(rf"^FAILED .*{test}", done.stdout, re.MULTILINE), done.stdout


def test_the_suite_fails_for_a_backend_that_is_not_installed(site: Path) -> None:
    done, counts = suite(site, "no-such-engine", "-k", "one_append_equals_many and f16")
    assert done.returncode == 1, done.stdout
    assert "passed" not in counts
    assert "no backend named 'no-such-engine'" in done.stdout


@pytest.mark.usefixtures("visible")
def test_it_takes_no_more_memory_than_predicted(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny", context_length=4096)
    options = DecoderOptions(context=4096)
    backend = find_backend(NAME)
    promised = backend.memory(bundle, options)
    rows = np.random.default_rng(0).standard_normal((4000, HIDDEN)).astype(np.float32)
    tracemalloc.start()
    decoder = backend.open(bundle, options)
    decoder.append_embeddings(rows)
    decoder.evict(0, 1000)
    decoder.append_embeddings(rows[:50])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    decoder.close()
    total = promised.weights + promised.cache + promised.compute
    assert total / 3 < peak < total


@pytest.mark.usefixtures("visible")
@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "layers", "kv_heads"])
def test_a_decoder_that_differs_from_the_manifest_is_refused(tmp_path: Path, field: str) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    change_manifest(bundle.folder, "decoder", **{field: 1})
    with pytest.raises(BundleError, match=r"tensor .*convert it"):
        find_backend(NAME).open(open_bundle(bundle.folder), DecoderOptions())


@pytest.mark.usefixtures("visible")
def test_a_precision_it_does_not_have_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"q4_0; use f16"):
        find_backend(NAME).open(tiny_bundle(tmp_path / "tiny"), DecoderOptions(kv_precision="q4_0"))
