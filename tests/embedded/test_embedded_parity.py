"""The embedded model compared with transformers running now, not with the answers stored in test_embedded_golden.py."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import golden_prompts
import parity
import pytest
from golden_prompts import MAX_TOKENS, Golden, Prompt
from PIL import Image

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.converters.convert import convert

if TYPE_CHECKING:
    from llava_oracle import Oracle

pytestmark = pytest.mark.oracle

SOME = 7
"""Every SOME-th prompt is used: one or two of each task, at both strides."""


@pytest.fixture(scope="module")
def oracle() -> "Oracle":
    pytest.importorskip("transformers")
    import torch
    from llava_oracle import Oracle

    torch.set_num_threads(1)
    return Oracle(golden_prompts.CHECKPOINT)


@pytest.fixture(scope="module")
def stored() -> Golden:
    return golden_prompts.load()


@pytest.fixture(scope="module", params=[SOME, pytest.param(1, marks=pytest.mark.slow)], ids=["33", "230"])
def live(request: pytest.FixtureRequest, oracle: "Oracle", stored: Golden) -> Golden:
    """The same prompts, answered by transformers now."""
    prompts, logits = [], {}
    for prompt in stored.prompts[:: request.param]:
        answer = oracle.answer(opened(stored, prompt.pictures), prompt.question, prompt.stride, MAX_TOKENS)
        logits[len(prompts)] = answer.logits
        prompts.append(replace(prompt, answer=answer.text, prompt_tokens=answer.prompt_tokens))
    features = {name: oracle.features(opened(stored, [name])[0]) for name in stored.features}
    return replace(stored, prompts=tuple(prompts), logits=logits, features=features)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("exact") / "bundle"
    return convert(golden_prompts.CHECKPOINT, folder, quantization="f16", vision_precision="fp32")


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(embedded_folder())


def opened(golden: Golden, names: Sequence[str]) -> list[Image.Image]:
    return [Image.open(BytesIO(golden.pictures[name])).convert("RGB") for name in names]


def test_what_is_stored_is_what_transformers_says(live: Golden, stored: Golden) -> None:
    known: dict[Prompt, Prompt] = {replace(p, answer="", prompt_tokens=0): p for p in stored.prompts}
    same = [known[replace(p, answer="", prompt_tokens=0)] == p for p in live.prompts]
    # Another PyTorch or another CPU may round a close call the other way.
    assert sum(same) >= 0.99 * len(same) - 1


def test_vision_features_are_those_of_transformers(live: Golden, exact: Bundle, shipped: Bundle) -> None:
    assert min(parity.vision_cosines(exact, live)) >= 0.99999
    assert min(parity.vision_cosines(shipped, live)) >= 0.999


def test_logits_are_those_of_transformers(live: Golden, exact: Bundle) -> None:
    assert min(parity.logits_cosines(exact, live)) >= 0.9999


def test_f16_answers_are_those_of_transformers(live: Golden, exact: Bundle) -> None:
    different = parity.differing_answers(exact, live)
    assert len(different) <= max(1, 0.01 * len(live.prompts)), "\n".join(different)


def test_shipped_answers_are_nearly_always_those_of_transformers(live: Golden, shipped: Bundle) -> None:
    different = parity.differing_answers(shipped, live)
    assert len(different) <= 0.05 * len(live.prompts), "\n".join(different)
