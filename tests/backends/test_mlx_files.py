"""A damaged `decoder-mlx/`: one line that names the file, no output, no code run, no memory taken first."""

from __future__ import annotations

import ast
import gc
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from support.bad_input.bundles import listed, settled
from support.bad_input.damage import fields
from support.bad_input.mlx_folders import CONFIG, FOLDER, PLAIN, QUANTIZED, WEIGHTS
from support.paths import ROOT
from support.tiny import tiny_bundle

from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import BackendError, BundleError

mx = pytest.importorskip("mlx.core")

TESTS = ROOT / "tests"
TEXT = [5, 17, 99, 42]
ALLOWED = 8 << 20
"""Bytes that a refusal may take. The decoders have 0.5 MB; damaged headers claim gigabytes."""


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle of float32 weights. Read only."""
    return tiny_bundle(tmp_path_factory.mktemp("plain") / "bundle").folder


@pytest.fixture(scope="session")
def quantized(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle in 4 bits, in groups of 32. Read only."""
    folder = tmp_path_factory.mktemp("quantized") / "bundle"
    shutil.copytree(plain, folder)
    arrays = {}
    for name, values in mx.load(str(folder / WEIGHTS)).items():
        if values.ndim == 1:
            arrays[name] = values
            continue
        parts = mx.quantize(values, group_size=32, bits=4)
        module = name.removesuffix(".weight")
        arrays |= {f"{module}.{part}": array for part, array in zip(("weight", "scales", "biases"), parts, strict=True)}
    mx.save_safetensors(str(folder / WEIGHTS), arrays)
    settled(fields(CONFIG, quantization={"group_size": 32, "bits": 4}))(folder)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A valid bundle that a test may damage."""
    return Path(shutil.copytree(plain, tmp_path / "bundle"))


def use(folder: Path) -> None:
    """Open the bundle and ask."""
    decoder = find_backend("mlx").open(open_bundle(folder), DecoderOptions(context=64))
    try:
        decoder.append_tokens(TEXT)
    finally:
        decoder.close()


def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The error's one line; nothing else is printed."""
    capfd.readouterr()
    with pytest.raises((BundleError, BackendError)) as caught:
        use(folder)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    assert str(folder) in said
    assert capfd.readouterr() == ("", "")
    return said


def test_a_valid_folder_opens_without_output(plain: Path, quantized: Path, capfd: pytest.CaptureFixture[str]) -> None:
    use(plain)
    use(quantized)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "name"), [("plain", n) for n in PLAIN] + [("quantized", n) for n in QUANTIZED])
def test_an_invalid_folder_is_refused(
    kind: str, name: str, plain: Path, quantized: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, file, says = (PLAIN if kind == "plain" else QUANTIZED)[name]
    folder = Path(shutil.copytree(plain if kind == "plain" else quantized, tmp_path / "bundle"))
    damage(folder)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    said = refused(folder, capfd)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(folder / file) in said
    assert says in said
    assert mx.get_peak_memory() - before + python < ALLOWED


def test_a_refusal_keeps_no_memory(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    PLAIN["weights of NaN"][0](folder)
    limit = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(limit)
    refused(folder, capfd)
    gc.collect()
    before = mx.get_active_memory()
    for _ in range(5):
        refused(folder, capfd)
    gc.collect()
    assert mx.get_active_memory() - before < 1 << 12, "the weights have 0.5 MB"
    assert mx.set_memory_limit(limit) == limit


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_flipped_bits_never_crash_the_process(name: str, folder: Path) -> None:
    """In a separate process, since MLX reads these files in C++."""
    paths = os.pathsep.join(path for path in (str(TESTS), os.environ.get("PYTHONPATH")) if path)
    command = [sys.executable, "-m", "support.bad_input.mlx_flips", folder, name, "200", "2024"]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    outcomes = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert len(outcomes) == 200, f"ended with {done.returncode} after {len(outcomes)}"
    kinds = {outcome.split(":")[0] for outcome in outcomes}
    assert kinds <= {"sound", "BundleError", "BackendError"}, outcomes
    assert kinds >= {"sound", "BundleError"}, "some must be refused and some not, or this test shows little"
    assert all(outcome.isprintable() for outcome in outcomes)


EVIL = "import pathlib\npathlib.Path(__file__).with_name('was-run').touch()\n"


@pytest.mark.parametrize("name", ["modeling.py", "qwen2.py", "__init__.py", "base.py", "sitecustomize.py"])
def test_python_files_in_the_folder_are_never_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx-lm runs the file in `model_file`, transformers the one in `auto_map`."""
    (folder / FOLDER / name).write_text(EVIL, "utf-8")
    listed(f"{FOLDER}/{name}")(folder)
    module = name.removesuffix(".py")
    auto_map = {"AutoConfig": f"{module}.Config", "AutoModelForCausalLM": f"{module}.Model"}
    settled(fields(CONFIG, model_file=name, auto_map=auto_map, trust_remote_code=True))(folder)
    monkeypatch.chdir(folder / FOLDER)
    use(folder)
    assert not list(folder.rglob("was-run"))
    assert not list(folder.rglob("__pycache__"))


def test_unknown_config_fields_have_no_effect(plain: Path, folder: Path) -> None:
    """Layer types, windows, other towers: fields that neither decoder has."""
    settled(
        fields(
            CONFIG,
            layer_types=["sliding_attention"] * 2,
            sliding_window=2,
            use_sliding_window=True,
            use_traditional_rope=True,
            rope_traditional=True,
            head_dim=3,
            max_position_embeddings=1 << 60,
            quantization_config={"bits": 99},
            architectures=["Evil"],
            torch_dtype="evil",
        )
    )(folder)
    answers = []
    for bundle in (plain, folder):
        decoder = find_backend("mlx").open(open_bundle(bundle), DecoderOptions(context=64))
        answers.append(decoder.append_tokens(TEXT))
        decoder.close()
    assert (answers[0] == answers[1]).all()


def test_weights_in_several_files_take_no_more_than_they_have(quantized: Path, tmp_path: Path) -> None:
    """A new model has random parameters. They must never be computed, whichever file is read first."""
    folder = Path(shutil.copytree(quantized, tmp_path / "bundle"))
    arrays = mx.load(str(folder / WEIGHTS))
    names = sorted(arrays)
    for number, part in enumerate((names[:2], names[2:20], names[20:])):
        name = f"{FOLDER}/model-{number}.safetensors"
        mx.save_safetensors(str(folder / name), {name: arrays[name] for name in part})
        listed(name)(folder)
    total = sum(array.nbytes for array in arrays.values())
    del arrays
    (folder / WEIGHTS).unlink()
    settled(fields("bundle.json", "files", **{WEIGHTS: ...}))(folder)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    decoder = find_backend("mlx").open(open_bundle(folder), DecoderOptions(context=64))
    assert mx.get_peak_memory() - before < 1.1 * total
    decoder.close()
