"""The embedded model answers as transformers does: 230 held-out prompts with stored answers, without PyTorch."""

import itertools
import zlib
from collections import Counter
from dataclasses import replace

import golden_prompts
import parity
import pytest
from golden_prompts import Golden
from support.paths import EXAMPLES

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.converters.convert import convert
from edge_interleave.world.samples import TASKS

SOME = 11
"""Every SOME-th prompt is used: about one of each task, at both strides."""


@pytest.fixture(scope="module")
def golden() -> Golden:
    return golden_prompts.load()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint converted without loss: f16 as it is stored, fp32 tower."""
    folder = tmp_path_factory.mktemp("exact") / "bundle"
    backends = ["llama-cpp", "mlx", "onnx"]
    return convert(
        golden_prompts.CHECKPOINT,
        folder,
        backends=backends,
        quantization="f16",
        mlx_quantization="f16",
        onnx_precision="f32",
        vision_precision="fp32",
    )


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    return convert(golden_prompts.CHECKPOINT, folder, backends=["onnx"])


@pytest.fixture(scope="module", params=[SOME, pytest.param(1, marks=pytest.mark.slow)], ids=["21", "230"])
def some(request: pytest.FixtureRequest, golden: Golden) -> Golden:
    """A part of the prompts, for MLX, which is slow on Linux CPUs, and for ONNX Runtime."""
    return replace(golden, prompts=golden.prompts[:: request.param])


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(embedded_folder())


def test_the_prompts_are_of_all_kinds(golden: Golden) -> None:
    assert Counter(Counter(p.task for p in golden.prompts).values()) == {10: len(TASKS)}
    assert {len(p.pictures) for p in golden.prompts} == {1, 2, 3, 4, 5, 6}
    assert Counter(p.stride for p in golden.prompts) == {1: 184, 2: 46}
    assert len(golden.features) >= 8
    assert {golden.prompts[number].stride for number in golden.logits} == {1, 2}
    # Agreement says nothing where every answer is the same.
    assert len({p.answer for p in golden.prompts}) >= 120


def test_the_answers_are_of_the_checkpoint_in_the_repository(golden: Golden) -> None:
    assert golden.checkpoint == golden_prompts.fingerprint(golden_prompts.CHECKPOINT), (
        "run examples/embedded_model/make_golden.py"
    )


def test_the_bundle_that_ships_is_quantized_as_documented(shipped: Bundle) -> None:
    precisions = {"decoder.gguf": "q4_k_m", "decoder-mlx": "4bit", "decoder-onnx": "int4", "vision.onnx": "int8"}
    assert shipped.manifest.precisions == precisions


def test_the_package_is_at_most_16_mib_to_download() -> None:
    folders = [EXAMPLES.parent / name for name in ("edge_interleave", "converters", "backends")]
    files = itertools.chain.from_iterable(folder.rglob("*") for folder in folders)
    packed = [zlib.compress(f.read_bytes(), 1) for f in files if f.is_file() and "__pycache__" not in f.parts]
    assert 12 << 20 <= sum(map(len, packed)) <= 16 << 20


def test_the_fp32_tower_sees_what_transformers_sees(exact: Bundle, golden: Golden) -> None:
    assert min(parity.vision_cosines(exact, golden)) >= 0.99999


def test_the_int8_tower_sees_nearly_the_same(shipped: Bundle, golden: Golden) -> None:
    assert min(parity.vision_cosines(shipped, golden)) >= 0.999


def test_logits_of_the_f16_decoder_are_those_of_transformers(exact: Bundle, golden: Golden) -> None:
    assert min(parity.logits_cosines(exact, golden, "llama-cpp")) >= 0.9999


def test_f16_and_fp32_give_the_same_answers(exact: Bundle, some: Golden) -> None:
    different = parity.differing_answers(exact, some, "llama-cpp")
    assert len(different) <= 0.01 * len(some.prompts), "\n".join(different)


def test_the_bundle_that_ships_gives_nearly_always_the_same_answers(shipped: Bundle, some: Golden) -> None:
    different = parity.differing_answers(shipped, some, "llama-cpp")
    assert len(different) <= 0.05 * len(some.prompts), "\n".join(different)


def test_mlx_computes_what_transformers_does(exact: Bundle, golden: Golden) -> None:
    assert min(parity.logits_cosines(exact, golden, "mlx")) >= 0.9999


def test_mlx_unquantized_gives_the_same_answers(exact: Bundle, some: Golden) -> None:
    different = parity.differing_answers(exact, some, "mlx")
    assert len(different) <= 0.01 * len(some.prompts), "\n".join(different)


def test_mlx_at_4_bits_gives_nearly_always_the_same_answers(shipped: Bundle, some: Golden) -> None:
    different = parity.differing_answers(shipped, some, "mlx")
    assert len(different) <= 0.05 * len(some.prompts), "\n".join(different)


def test_onnx_runtime_computes_what_transformers_does(exact: Bundle, golden: Golden) -> None:
    assert min(parity.logits_cosines(exact, golden, "onnx")) >= 0.9999


def test_onnx_runtime_in_f32_gives_the_same_answers(exact: Bundle, some: Golden) -> None:
    assert not parity.differing_answers(exact, some, "onnx")


def test_onnx_runtime_in_int8_gives_nearly_always_the_same_answers(int8: Bundle, some: Golden) -> None:
    different = parity.differing_answers(int8, some, "onnx")
    assert len(different) <= 0.03 * len(some.prompts), "\n".join(different)


def test_onnx_runtime_in_int4_gives_nearly_always_the_same_answers(shipped: Bundle, some: Golden) -> None:
    different = parity.differing_answers(shipped, some, "onnx")
    assert len(different) <= 0.05 * len(some.prompts), "\n".join(different)
