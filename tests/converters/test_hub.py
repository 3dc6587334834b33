"""`pull` against a Hub on this machine, with the real `huggingface_hub` client."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.command_line import PROGRAM, environment, error_line, run
from support.hub_server import COMMIT, Hub, serve_hub

from edge_interleave.bundle.manifest import MANIFEST_NAME, Bundle, open_bundle, verify

REPOSITORY = "llava-hf/llava-interleave-qwen-tiny-hf"
NAME = "llava-interleave-qwen-tiny"

CHUNK = 10 << 20
"""The client's chunk size: only complete chunks of an interrupted download are kept."""


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
    assert "already exists" in error_line(run("pull", REPOSITORY, env=env), 3)
    offline = run("pull", REPOSITORY, "--force", env={**env, "HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0, offline.stderr
    assert run("models", "remove", NAME, "--yes", env=env).returncode == 0
    assert not stored(env).exists()


def test_an_interrupted_download_resumes(hub: Hub, env: dict[str, str], large: Path) -> None:
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


def test_a_sharded_checkpoint_of_a_revision_under_a_given_name(hub: Hub, env: dict[str, str], tmp_path: Path) -> None:
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
    refused = error_line(run("pull", "someone/bundle", "--backend", "mlx", env=env), 3)
    assert "edge-interleave pull random --backend mlx" in refused
    assert not hub.downloads("decoder.gguf")
    assert not stored(env, "bundle").exists()


def test_a_repository_that_is_a_bundle_is_stored_unconverted(hub: Hub, env: dict[str, str], converted: Bundle) -> None:
    hub.repositories["someone/bundle"] = converted.folder
    pulled = run("pull", "someone/bundle", env=env)
    assert pulled.returncode == 0, pulled.stderr
    bundle = open_bundle(stored(env, "bundle"))
    verify(bundle)
    assert bundle.manifest == converted.manifest


@pytest.mark.parametrize("wrong", ["digest", "path", "missing"])
def test_a_bundle_that_differs_from_its_manifest_is_refused(
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
    what = {"digest": "tokenizer.json does not match", "path": "leads out of", "missing": "more.bin"}[wrong]
    assert what in error_line(run("pull", "someone/bundle", env=env), 3)
    assert not stored(env, "bundle").exists()
    assert [path for path in tmp_path.rglob("*.partial") if path.is_dir()] == []
    assert list(tmp_path.rglob("escaped")) == []


class TestACacheWithoutAHub:
    """The cache holds what was downloaded before the Hub became unreachable."""

    FETCH = "import sys; from huggingface_hub import hf_hub_download as d; [d(sys.argv[1], n) for n in sys.argv[2:]]"
    OLD_CLIENT = (
        "import huggingface_hub._snapshot_download as s; s.write_tree_cache = s.read_tree_cache = lambda *_: None; "
        "from edge_interleave.cli import main; main()"
    )
    """A client that keeps no list of a repository's files."""

    @pytest.fixture
    def offline(self, env: dict[str, str]) -> dict[str, str]:
        return {**env, "HF_HUB_OFFLINE": "1"}

    @pytest.fixture
    def cache(self, env: dict[str, str]) -> Path:
        return Path(env["HF_HOME"], "hub", f"models--{REPOSITORY.replace('/', '--')}")

    @pytest.mark.parametrize(
        "left_out",
        [
            {"chat_template.json", "processor_config.json"},
            {"preprocessor_config.json"},
            {"model.safetensors"},
            set(),
        ],
        ids=lambda names: " and ".join(sorted(names)) or "nothing",
    )
    def test_that_was_filled_file_by_file_makes_no_bundle(
        self, hub: Hub, env: dict[str, str], offline: dict[str, str], random_checkpoint: Path, left_out: set[str]
    ) -> None:
        hub.repositories[REPOSITORY] = random_checkpoint
        names = sorted({path.name for path in random_checkpoint.iterdir()} - left_out)
        subprocess.run([sys.executable, "-c", self.FETCH, REPOSITORY, *names], env=env, check=True)
        for unreachable in (offline, {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}):
            line = error_line(run("pull", REPOSITORY, env=unreachable), 3)
            assert "may be incomplete" in line
            assert "run again when it can" in line
        assert "may be incomplete" in error_line(run("convert", REPOSITORY, stored(env), env=offline), 3)
        assert not stored(env).exists()

    def test_that_lost_a_shard_or_whose_weights_are_cut_off_makes_none(
        self, hub: Hub, env: dict[str, str], offline: dict[str, str], cache: Path, tmp_path: Path
    ) -> None:
        folder = write_random_checkpoint(tmp_path / "checkpoint", model_config(), Options(shard_bytes=100_000))
        hub.repositories[REPOSITORY] = folder
        assert run("pull", REPOSITORY, env=env).returncode == 0
        shard = max((cache / "snapshots" / COMMIT).glob("*.safetensors"))
        blob = shard.resolve()
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-100])
        line = error_line(run("pull", REPOSITORY, "--force", env=offline), 3)
        assert f"{len(whole) - 100} bytes where the Hub has {len(whole)}; delete {blob}" in line
        blob.unlink()
        assert "may be incomplete" in error_line(run("pull", REPOSITORY, "--force", env=offline), 3)
        shard.unlink()
        assert "may be incomplete" in error_line(run("pull", REPOSITORY, "--force", env=offline), 3)
        assert run("pull", REPOSITORY, "--force", env=env).returncode == 0

    def test_without_a_list_of_files_makes_a_bundle_if_it_is_complete(
        self, hub: Hub, env: dict[str, str], offline: dict[str, str], cache: Path, random_checkpoint: Path
    ) -> None:
        hub.repositories[REPOSITORY] = random_checkpoint

        def pull(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", self.OLD_CLIENT, "pull", REPOSITORY, "--force"]
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

        assert pull(env).returncode == 0
        assert not (cache / "trees").exists()
        assert pull(offline).returncode == 0
        (cache / "snapshots" / COMMIT / "chat_template.json").unlink()
        assert "chat_template.json is missing" in error_line(pull(offline), 3)


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    hub: Hub, env: dict[str, str], random_checkpoint: Path, tmp_path: Path
) -> None:
    hub.repositories[REPOSITORY] = random_checkpoint
    (tmp_path / "file").touch()
    line = error_line(run("pull", REPOSITORY, env={**env, "HF_HOME": str(tmp_path / "file" / "hub")}), 3)
    assert f"{tmp_path / 'file'}" in line
    assert "set HF_HOME to a folder that can be written" in line


def test_the_hubs_refusals_are_one_line(hub: Hub, env: dict[str, str], random_checkpoint: Path) -> None:
    hub.repositories["someone/gated"] = hub.repositories["someone/model"] = random_checkpoint
    hub.gated.add("someone/gated")
    assert "no such repository" in error_line(run("pull", "someone/nothing", env=env), 3)
    assert "HF_TOKEN" in error_line(run("pull", "someone/gated", env=env), 3)
    assert "no revision 'v9'" in error_line(run("pull", "someone/model", "--revision", "v9", env=env), 3)
    assert json.loads(run("pull", "someone/nothing", "--json", env=env).stdout)["exit_code"] == 3
    assert list(Path(env["EDGE_INTERLEAVE_HOME"]).glob("*")) == []


def test_without_a_hub_the_error_says_so(env: dict[str, str]) -> None:
    assert "cannot be reached" in error_line(run("pull", REPOSITORY, env={**env, "HF_HUB_OFFLINE": "1"}), 3)
    assert "cannot be reached" in error_line(
        run("pull", REPOSITORY, env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"}), 3
    )


@pytest.mark.parametrize("repository", ["just-a-name", "../etc", "a/b/c", "/tmp"])
def test_an_invalid_repository_id_is_a_usage_error(repository: str, env: dict[str, str], hub: Hub) -> None:
    assert "not a Hub repository" in error_line(run("pull", repository, env=env), 2)
    assert hub.requests == []


def test_a_repository_of_pickles_leaves_nothing(
    hub: Hub, env: dict[str, str], random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "pickles"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.repositories["someone/pickles"] = folder
    line = error_line(run("pull", "someone/pickles", env=env), 3)
    assert "safetensors" in line
    assert hub.downloads("pytorch_model.bin") == []
    assert list(Path(env["EDGE_INTERLEAVE_HOME"]).glob("*")) == []
