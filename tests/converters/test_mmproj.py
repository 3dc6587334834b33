"""Tower and projector as llama.cpp's mmproj: mtmd gives the same visual tokens as our tower."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mtmd import Mtmd
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.command_line import environment, error_line, run
from support.safetensors_edit import rewrite
from support.tiny_tower import cosines
from tokenizers import Tokenizer

from edge_interleave.bundle.manifest import Bundle, open_bundle, verify
from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.convert import convert
from edge_interleave.converters.gguf.decoder import write_gguf
from edge_interleave.converters.gguf.mmproj import write_mmproj
from edge_interleave.converters.onnx.vision import write_vision_onnx
from edge_interleave.converters.precisions import MMPROJ_PRECISIONS
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.inputs import as_inputs
from edge_interleave.decoding.registry import find_backend
from edge_interleave.decoding.session import Session
from edge_interleave.errors import CheckpointError, InputError, UsageError
from edge_interleave.prompt.builder import ImageSegment, PromptBuilder
from edge_interleave.prompt.messages import as_messages, media_of
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.vision.media_encoder import MediaEncoder
from edge_interleave.vision.preprocess import preprocess
from edge_interleave.vision.tower import VisionTower

TOWERS: dict[str, dict[str, Any]] = {
    "all blocks": {"layers": 5},
    "other sizes": {"image_size": 112, "patch_size": 14, "hidden_size": 96, "intermediate_size": 160, "heads": 3},
    "pixels left over at the edge": {"image_size": 62, "patch_size": 14, "hidden_size": 64, "heads": 4},
    "the last block left out": {"feature_layer": -2},
    "inner width is the outer width": {"intermediate_size": 32},
}


@pytest.fixture(scope="module")
def decoder(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model with the hidden size of the projectors, which mtmd needs."""
    path = tmp_path_factory.mktemp("decoder") / "decoder.gguf"
    with open_checkpoint(random_checkpoint) as checkpoint:
        write_gguf(checkpoint, path, "f16")
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text("utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), "utf-8")


def tower_checkpoint(folder: Path, **changes: Any) -> Path:
    config = model_config()
    return write_random_checkpoint(folder, replace(config, vision=replace(config.vision, **changes)))


def assert_mtmd_sees_what_we_see(source: Path, decoder: Path, precision: str, least: float) -> None:
    folder = source.parent
    with open_checkpoint(source) as checkpoint:
        info = read_vision_info(source, checkpoint.config, 0)
        write_vision_onnx(checkpoint, folder / "vision.onnx", "fp32")
        write_mmproj(checkpoint, folder / "mmproj.gguf", precision)
    noise = np.random.default_rng(3).integers(0, 256, (info.image_size, info.image_size, 3), dtype=np.uint8)
    ours = VisionTower(folder / "vision.onnx", info, threads=1).encode(preprocess(Image.fromarray(noise), info)[None])
    with Mtmd(decoder, folder / "mmproj.gguf", context=0) as theirs:
        tokens = theirs.encode(noise)
    assert tokens.shape == ours[0].shape == (info.tokens, 64)
    assert cosines(tokens, ours[0]).min() >= least


@pytest.mark.parametrize("name", TOWERS)
def test_mtmds_visual_tokens_equal_ours(name: str, decoder: Path, tmp_path: Path) -> None:
    source = tower_checkpoint(tmp_path / "checkpoint", **TOWERS[name])
    assert_mtmd_sees_what_we_see(source, decoder, "f16", least=0.9999)


def test_q8_0_is_nearly_as_good_and_half_the_size(decoder: Path, tmp_path: Path) -> None:
    source = tower_checkpoint(tmp_path / "checkpoint", hidden_size=96, intermediate_size=160, heads=3)
    assert_mtmd_sees_what_we_see(source, decoder, "q8_0", least=0.999)
    small = (tmp_path / "mmproj.gguf").stat().st_size
    with open_checkpoint(source) as checkpoint:
        write_mmproj(checkpoint, tmp_path / "mmproj.gguf", "f16")
    assert small < 0.65 * (tmp_path / "mmproj.gguf").stat().st_size


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_activations_that_mtmd_has(act: str, decoder: Path, tmp_path: Path) -> None:
    source = tower_checkpoint(tmp_path / "checkpoint")
    edit(source / "config.json", lambda raw: raw["vision_config"].update(hidden_act=act))
    assert_mtmd_sees_what_we_see(source, decoder, "f16", least=0.9999)


def test_a_projector_without_bias_gets_zeros(decoder: Path, tmp_path: Path) -> None:
    source = tower_checkpoint(tmp_path / "checkpoint")
    edit(source / "config.json", lambda raw: raw.update(multimodal_projector_bias=False))
    projector = "multi_modal_projector.linear_"
    rewrite(source / "model.safetensors", lambda tensors: [tensors.pop(f"{projector}{n}.bias") for n in (1, 2)])
    assert_mtmd_sees_what_we_see(source, decoder, "f16", least=0.9999)


def test_a_clip_tower_is_refused_in_one_line_before_anything_is_written(tmp_path: Path) -> None:
    source = write_random_checkpoint(tmp_path / "checkpoint", model_config(vision="clip"))
    with pytest.raises(CheckpointError, match=r"class token.*without --mmproj") as refused:
        convert(source, tmp_path / "bundle", mmproj="f16")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda raw: raw.update(projector_hidden_act="quick_gelu"), "projector"),
        (lambda raw: raw["vision_config"].update(hidden_act="relu"), "tower"),
        (lambda raw: raw.update(vision_feature_layer=0), "first block"),
    ],
)
def test_operators_that_mtmd_lacks_are_refused(change: Any, what: str, tmp_path: Path) -> None:
    source = tower_checkpoint(tmp_path / "checkpoint")
    edit(source / "config.json", change)
    with open_checkpoint(source) as checkpoint, pytest.raises(CheckpointError, match=what):
        write_mmproj(checkpoint, tmp_path / "mmproj.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_unknown_precision_is_refused(random_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="q8_0"):
        convert(random_checkpoint, tmp_path / "bundle", mmproj="q2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", MMPROJ_PRECISIONS)
def test_memory_stays_at_some_rows_of_a_tensor(precision: str, tmp_path: Path) -> None:
    source = tower_checkpoint(tmp_path / "checkpoint", layers=8, hidden_size=512, intermediate_size=2048, heads=8)
    weights = (source / "model.safetensors").stat().st_size
    with open_checkpoint(source) as checkpoint:
        tracemalloc.start()
        write_mmproj(checkpoint, tmp_path / "mmproj.gguf", precision)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A matrix of 2048 x 512, widened, with the copies that quantizing makes of it.
    assert peak < 8 * 2048 * 512 * 4 < weights


def test_an_interrupted_write_leaves_the_old_file(random_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mmproj.gguf").write_bytes(b"older")

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with open_checkpoint(random_checkpoint) as checkpoint, pytest.raises(KeyboardInterrupt):
        write_mmproj(checkpoint, tmp_path / "mmproj.gguf", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["mmproj.gguf"]
    assert (tmp_path / "mmproj.gguf").read_bytes() == b"older"


@pytest.fixture
def bundle(converted: Bundle, tmp_path: Path) -> Path:
    """A bundle without an mmproj, which a test may change."""
    return Path(shutil.copytree(converted.folder, tmp_path / "bundle"))


def test_a_new_bundle_contains_mmproj(random_checkpoint: Path, tmp_path: Path) -> None:
    made = convert(random_checkpoint, tmp_path / "bundle", mmproj="q8_0")
    verify(made)
    assert made.manifest.precisions["mmproj.gguf"] == "q8_0"
    with Mtmd(made.file("decoder.gguf"), made.file("mmproj.gguf"), context=256) as theirs:
        picture = np.zeros((28, 28, 3), np.uint8)
        prompt = f"{theirs.marker}{theirs.marker}\nWhat changed?"
        logits = theirs.first_logits(prompt, [picture, picture])
        rows = theirs.encode(picture)
        assert np.array_equal(theirs.first_logits_cached(prompt, [picture, picture], [rows, rows]), logits)
    assert logits.shape == (640,)
    assert np.isfinite(logits).all()


def test_llama_cpp_answers_about_two_pictures_as_we_do(random_checkpoint: Path, tmp_path: Path) -> None:
    """Compare llama.cpp's tokenizer, tower and prefill of whole prompts with ours, from the same bundle."""
    made = convert(random_checkpoint, tmp_path / "bundle", quantization="f16", vision_precision="fp32", mmproj="f16")
    pictures = [np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8) for seed in (1, 2)]
    messages = as_messages([*pictures, "What changed?"])
    tokenizer = TextTokenizer.open(made)
    encoded = MediaEncoder(made, 1).encode(media_of(messages), frames=1, stride=1, tiles=False)
    segments = PromptBuilder(made, tokenizer).build(messages, encoded.counts)
    session = Session(find_backend("llama-cpp").open(made, DecoderOptions(256, 1)), tokenizer, (0,))
    ours = session.prefill(as_inputs(segments, encoded.images))
    session.close()
    assert ours is not None
    spelt = Tokenizer.from_file(str(made.file("tokenizer.json")))
    with Mtmd(made.file("decoder.gguf"), made.file("mmproj.gguf"), context=256) as theirs:
        prompt = "".join(
            theirs.marker if isinstance(segment, ImageSegment) else spelt.decode(segment.ids, skip_special_tokens=False)
            for segment in segments
        )
        logits = theirs.first_logits(prompt, pictures)
        other = theirs.first_logits(prompt, pictures[::-1])
    assert cosines(logits, ours.logits) > 0.999 > cosines(other, ours.logits)


def test_the_same_command_adds_mmproj_to_an_existing_bundle(
    random_checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    before = open_bundle(bundle).manifest
    result = run("convert", random_checkpoint, bundle, "--mmproj", env=environment(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "llama-server --model" in result.stderr
    after = open_bundle(bundle)
    verify(after)
    added = after.manifest.files["mmproj.gguf"]
    assert after.manifest == replace(
        before,
        files={**before.files, "mmproj.gguf": added},
        precisions={**before.precisions, "mmproj.gguf": "f16"},
        parts={**before.parts, "mmproj.gguf": after.manifest.parts["mmproj.gguf"]},
    )
    with pytest.raises(InputError, match=r"already has .*mmproj\.gguf"):
        convert(random_checkpoint, bundle, mmproj="f16")


@pytest.mark.parametrize("given", [(), ("f16",), ("Q8_0",)], ids=" ".join)
def test_the_option_may_precede_the_source_and_keeps_the_bundles_precisions(
    given: tuple[str, ...], random_checkpoint: Path, tmp_path: Path
) -> None:
    convert(random_checkpoint, tmp_path / "bundle", quantization="q8_0", vision_precision="fp16")
    env = environment(tmp_path)
    result = run("convert", "--mmproj", *given, random_checkpoint, tmp_path / "bundle", env=env)
    assert result.returncode == 0, result.stderr
    assert open_bundle(tmp_path / "bundle").manifest.precisions == {
        "decoder.gguf": "q8_0",
        "vision.onnx": "fp16",
        "mmproj.gguf": "".join(given).lower() or "f16",
    }
    # What is given goes before what the bundle has, and does not fit.
    result = run("convert", random_checkpoint, tmp_path / "bundle", "--mmproj", "-q", "q4_0", env=env)
    assert "already has decoder.gguf" in error_line(result, 3)


def test_mmproj_is_only_added_to_a_bundle_of_the_same_conversion(
    random_checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    other = tower_checkpoint(tmp_path / "other")
    with pytest.raises(InputError, match="not a bundle of other"):
        convert(other, bundle, mmproj="f16")
    with pytest.raises(InputError, match="q4_k_m and int8, not q8_0 and int8"):
        convert(random_checkpoint, bundle, quantization="q8_0", mmproj="f16")
    assert "mmproj.gguf" not in open_bundle(bundle).manifest.files


def test_an_addition_that_was_cut_off_before_the_manifest_is_done_again(random_checkpoint: Path, bundle: Path) -> None:
    (bundle / "mmproj.gguf").write_bytes(b"of an earlier run")
    verify(open_bundle(bundle))  # the bundle as it was, with a file that it does not know
    verify(convert(random_checkpoint, bundle, mmproj="f16"))


def test_the_text_model_keeps_its_tokenizer_and_chat_template(decoder: Path, tmp_path: Path) -> None:
    """The files that llama-server and Ollama open."""
    import llama_cpp.llama_cpp as low

    params = low.llama_model_default_params()
    params.vocab_only = True
    model = low.llama_model_load_from_file(str(decoder).encode(), params)
    try:
        template = low.llama_model_chat_template(model, None).decode()
        assert "<|im_start|>" in template
        assert low.llama_vocab_n_tokens(low.llama_model_get_vocab(model)) == 640
    finally:
        low.llama_model_free(model)


def test_other_generations_of_names_give_the_same_file(tmp_path: Path) -> None:
    files = []
    for generation in ("original", "hf-5"):
        source = write_random_checkpoint(tmp_path / generation / "checkpoint", model_config(), Options(generation))
        with open_checkpoint(source) as checkpoint:
            write_mmproj(checkpoint, tmp_path / generation / "mmproj.gguf")
        files.append((tmp_path / generation / "mmproj.gguf").read_bytes())
    assert files[0] == files[1]
