"""`pull` against a Hub on this machine, with the real `huggingface_hub` client."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import PROGRAM, environment, run, told
from hub_server import COMMIT, Hub, serve_hub
from random_checkpoint import Options, model_config, write_random_checkpoint

from edge_interleave.bundle import MANIFEST_NAME, Bundle, open_bundle, verify

REPOSITORY = "llava-hf/llava-interleave-qwen-tiny-hf"
NAME = "llava-interleave-qwen-tiny"

CHUNK = 10 << 20
"""What the client writes at a time: only whole ones are kept of a download that breaks off."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of more than two chunks."""
    config = model_config()
    config = replace(config, decoder=replace(config.decoder, intermediate_size=16384))
    return write_random_checkpoint(tmp_path_factory.mktemp("large") / "large", config, Options(dtype="f32"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, HF_ENDPOINT=hub.url)


def stored(env: dict[str, str], name: str = NAME) -> Path:
    return Path(env["EDGE_INTERLEAVE_HOME"]) / name


def test_a_checkpoint_is_pulled_converted_stored_and_asked(
    hub: Hub, env: dict[str, str], random_checkpoint: Path, converted: Bundle
) -> None:
    hub.repositories[REPOSITORY] = random_checkpoint
    pulled = run("pull", REPOSITORY, "--json", env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads(pulled.stdout)["model"] == NAME
    bundle = open_bundle(stored(env))
    verify(bundle)
    assert bundle.manifest.source == REPOSITORY
    assert bundle.manifest.decoder == converted.manifest.decoder
    assert bundle.manifest.prompt == converted.manifest.prompt
    listed = json.loads(run("models", "--json", env=env).stdout)["models"]
    assert [model["source"] for model in listed if model["name"] == NAME] == [REPOSITORY]
    answer = run("ask", "What is it?", "--model", NAME, "--max-tokens", "2", "--json", env=env)
    assert json.loads(answer.stdout)["finish_reason"] in ("stop", "length"), answer.stderr
    assert "exists already" in told(run("pull", REPOSITORY, env=env), 3)
    offline = run("pull", REPOSITORY, "--force", env={**env, "HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0, offline.stderr
    assert run("models", "remove", NAME, "--yes", env=env).returncode == 0
    assert not stored(env).exists()


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(hub: Hub, env: dict[str, str], large: Path) -> None:
    hub.repositories[REPOSITORY] = large
    hub.cut_after["model.safetensors"] = CHUNK + CHUNK // 2
    pulled = run("pull", REPOSITORY, env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert hub.downloads("model.safetensors") == [None, f"bytes={CHUNK}-"]
    verify(open_bundle(stored(env)))


def test_a_pull_that_was_killed_fetches_no_finished_file_again(hub: Hub, env: dict[str, str], tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", model_config(), Options(shard_bytes=100_000))
    *finished, stalled = sorted(path.name for path in folder.glob("*.safetensors"))
    hub.repositories[REPOSITORY] = folder
    hub.stall_after[stalled] = 1000
    snapshot = Path(env["HF_HOME"], "hub", f"models--{REPOSITORY.replace('/', '--')}", "snapshots", COMMIT)
    with subprocess.Popen([*PROGRAM, "pull", REPOSITORY], env=env, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not all((snapshot / name).is_file() for name in finished) or not hub.downloads(stalled):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    assert not stored(env).exists()
    pulled = run("pull", REPOSITORY, env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert [len(hub.downloads(name)) for name in (*finished, stalled)] == [1] * len(finished) + [2]
    verify(open_bundle(stored(env)))


def test_a_sharded_checkpoint_of_a_revision_under_a_name_of_ones_own(
    hub: Hub, env: dict[str, str], tmp_path: Path
) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", model_config(), Options("hf-5", shard_bytes=50_000))
    hub.repositories["someone/tiny"] = folder
    options = ("--name", "mine", "--revision", COMMIT, "--quantization", "q8_0", "--vision-precision", "fp32")
    pulled = run("pull", "someone/tiny", *options, env=env)
    assert pulled.returncode == 0, pulled.stderr
    manifest = open_bundle(stored(env, "mine")).manifest
    assert manifest.name == "mine"
    assert manifest.precisions == {"decoder.gguf": "q8_0", "vision.onnx": "fp32"}


def test_a_bundle_without_the_decoder_that_is_asked_for_is_refused(
    hub: Hub, env: dict[str, str], converted: Bundle
) -> None:
    hub.repositories["someone/bundle"] = converted.folder
    refused = told(run("pull", "someone/bundle", "--backend", "mlx", env=env), 3)
    assert "edge-interleave pull random --backend mlx" in refused
    assert not hub.downloads("decoder.gguf")
    assert not stored(env, "bundle").exists()


def test_a_repository_that_is_a_bundle_is_taken_as_it_is(hub: Hub, env: dict[str, str], converted: Bundle) -> None:
    hub.repositories["someone/bundle"] = converted.folder
    pulled = run("pull", "someone/bundle", env=env)
    assert pulled.returncode == 0, pulled.stderr
    bundle = open_bundle(stored(env, "bundle"))
    verify(bundle)
    assert bundle.manifest == converted.manifest


@pytest.mark.parametrize("wrong", ["digest", "path", "missing"])
def test_a_bundle_that_is_not_what_it_says_is_refused(
    wrong: str, hub: Hub, env: dict[str, str], converted: Bundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(converted.folder, tmp_path / "bundle"))
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    if wrong == "digest":
        manifest["files"]["tokenizer.json"]["sha256"] = "0" * 64
    elif wrong == "path":
        manifest["files"]["../../escaped"] = manifest["files"]["tokenizer.json"]
    else:
        manifest["files"]["more.bin"] = manifest["files"]["tokenizer.json"]
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    hub.repositories["someone/bundle"] = folder
    what = {"digest": "tokenizer.json is not what", "path": "leads out of", "missing": "more.bin"}[wrong]
    assert what in told(run("pull", "someone/bundle", env=env), 3)
    assert not stored(env, "bundle").exists()
    assert [path for path in tmp_path.rglob("*.partial") if path.is_dir()] == []
    assert list(tmp_path.rglob("escaped")) == []


def test_what_the_hub_refuses_is_told_in_one_line(hub: Hub, env: dict[str, str], random_checkpoint: Path) -> None:
    hub.repositories["someone/gated"] = hub.repositories["someone/model"] = random_checkpoint
    hub.gated.add("someone/gated")
    assert "no such repository" in told(run("pull", "someone/nothing", env=env), 3)
    assert "HF_TOKEN" in told(run("pull", "someone/gated", env=env), 3)
    assert "no revision 'v9'" in told(run("pull", "someone/model", "--revision", "v9", env=env), 3)
    assert json.loads(run("pull", "someone/nothing", "--json", env=env).stdout)["exit_code"] == 3
    assert list(Path(env["EDGE_INTERLEAVE_HOME"]).glob("*")) == []


def test_without_a_hub_the_error_says_so(env: dict[str, str]) -> None:
    assert "cannot be reached" in told(run("pull", REPOSITORY, env={**env, "HF_HUB_OFFLINE": "1"}), 3)
    assert "cannot be reached" in told(run("pull", REPOSITORY, env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"}), 3)


@pytest.mark.parametrize("repository", ["just-a-name", "../etc", "a/b/c", "/tmp"])
def test_what_is_no_repository_is_a_wrong_call(repository: str, env: dict[str, str], hub: Hub) -> None:
    assert "not a Hub repository" in told(run("pull", repository, env=env), 2)
    assert hub.requests == []


def test_a_repository_of_pickles_leaves_nothing(
    hub: Hub, env: dict[str, str], random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "pickles"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.repositories["someone/pickles"] = folder
    line = told(run("pull", "someone/pickles", env=env), 3)
    assert "safetensors" in line
    assert hub.downloads("pytorch_model.bin") == []
    assert list(Path(env["EDGE_INTERLEAVE_HOME"]).glob("*")) == []
