"""Conversion is atomic, resumes after an interruption, and never overwrites other files."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from random_checkpoint import GENERATIONS, Options, file_name, model_config, write_random_checkpoint
from tokenizers import Tokenizer

from edge_interleave import load
from edge_interleave.bundle.manifest import Bundle, open_bundle, verify
from edge_interleave.bundle.writer import partial_folder
from edge_interleave.converters.checkpoint.weight_names import expected_shapes
from edge_interleave.converters.convert import convert
from edge_interleave.errors import CheckpointError, InputError, ResourceError, UsageError


@pytest.fixture
def checkpoint(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))


class Heard:
    """A progress callback that records the stages and raises KeyboardInterrupt in one of them."""

    def __init__(self, interrupt_at: str | None = None) -> None:
        self.stages: list[str] = []
        self.interrupt_at = interrupt_at

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        if stage not in self.stages:
            self.stages.append(stage)
        if stage == self.interrupt_at:
            raise KeyboardInterrupt


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None deletes one."""
    raw = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    raw = {key: value for key, value in {**raw, **changes}.items() if value is not None}
    path.write_text(json.dumps(raw), "utf-8")


def hidden_beside(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(".")]


def test_the_manifest_describes_the_checkpoint(converted: Bundle) -> None:
    verify(converted)
    manifest = converted.manifest
    assert sorted(manifest.files) == ["decoder.gguf", "tokenizer.json", "vision.onnx"]
    assert manifest.precisions == {"decoder.gguf": "q4_k_m", "vision.onnx": "int8"}
    assert (manifest.name, manifest.source) == ("random", "random")
    assert (manifest.decoder.hidden_size, manifest.decoder.layers, manifest.decoder.context_length) == (64, 2, 512)
    shapes = expected_shapes(model_config())
    decoder = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("decoder."))
    assert manifest.decoder.parameters == decoder - 640 * 64  # the head is the embedding matrix
    assert (manifest.vision.image_size, manifest.vision.tokens, manifest.vision.resize) == (28, 16, "squash")
    assert manifest.created_by.startswith("edge-interleave ")
    assert hidden_beside(converted.folder) == []
    assert sorted(path.name for path in converted.folder.iterdir()) == ["bundle.json", *sorted(manifest.files)]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_layout_gives_a_bundle_that_answers(generation: str, tmp_path: Path) -> None:
    source = write_random_checkpoint(tmp_path / "checkpoint", model_config(), Options(generation))
    bundle = convert(source, tmp_path / "bundle", quantization="q8_0", vision_precision="fp32")
    with load(bundle.folder) as model:
        answer = model.ask(["What is it?", b_w_picture(tmp_path)], max_tokens=4)
    assert answer.stats.visual_tokens == 16


def b_w_picture(folder: Path) -> Path:
    from PIL import Image

    Image.linear_gradient("L").save(folder / "gradient.png")
    return folder / "gradient.png"


@pytest.mark.parametrize(("decoder", "vision"), [("llama", "clip"), ("qwen2", "clip")])
def test_other_architectures(decoder: str, vision: str, tmp_path: Path) -> None:
    source = write_random_checkpoint(
        tmp_path / "checkpoint",
        model_config(decoder=decoder, vision=vision),
        Options(tokenizer="llama3" if decoder == "llama" else "qwen2"),
    )
    manifest = convert(source, tmp_path / "bundle", quantization="f16", vision_precision="fp16").manifest
    assert (manifest.decoder.type, manifest.vision.type, manifest.vision.resize) == (decoder, vision, "crop")
    assert manifest.vision.mean[0] == pytest.approx(0.48145466)
    assert manifest.precisions == {"decoder.gguf": "f16", "vision.onnx": "fp16"}


def test_original_checkpoints_get_a_tokenizer_file_and_the_prompt_they_were_evaluated_with(tmp_path: Path) -> None:
    source = write_random_checkpoint(tmp_path / "checkpoint", model_config(), Options("original"))
    assert not (source / "tokenizer.json").exists()
    bundle = convert(source, tmp_path / "bundle")
    tokenizer = Tokenizer.from_file(str(bundle.file("tokenizer.json")))
    prompt = bundle.manifest.prompt
    assert tokenizer.encode("a<image>b").tokens == ["a", "<image>", "b"]
    assert prompt.image_token == "<image>"
    assert "You are a helpful assistant." in prompt.chat_template
    assert prompt.bos_token is None
    assert tokenizer.token_to_id("<|im_end|>") in prompt.eos_token_ids


@pytest.mark.parametrize("vision", ["siglip", "clip"])
@pytest.mark.parametrize(
    ("ratio", "siglip", "clip"), [("anyres", "squash", "squash"), ("pad", "pad", "pad"), (None, "squash", "crop")]
)
def test_an_original_checkpoints_config_sets_the_resize(
    tmp_path: Path, vision: str, ratio: str | None, siglip: str, clip: str
) -> None:
    source = write_random_checkpoint(tmp_path / "c", model_config(vision=vision), Options("original"))
    edit(source / "config.json", image_aspect_ratio=ratio)
    for folder in ("with", "without"):  # the processor's own config, which the original repositories lack
        bundle = convert(source, tmp_path / folder)
        assert bundle.manifest.vision.resize == (siglip if vision == "siglip" else clip)
        (source / "preprocessor_config.json").unlink(missing_ok=True)


def test_padding_to_a_square_is_read_from_a_hugging_face_processor(checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint / "preprocessor_config.json", do_pad=True, image_processor_type="LlavaImageProcessorFast")
    assert convert(checkpoint, tmp_path / "bundle").manifest.vision.resize == "pad"
    # LLaVA-NeXT's fills a batch of tiles.
    edit(checkpoint / "preprocessor_config.json", image_processor_type="LlavaNextImageProcessor")
    with pytest.raises(CheckpointError, match="do_pad"):
        convert(checkpoint, tmp_path / "other")


TURNS = {
    "Llama 3": (
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "Gemma": (
        "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}\n<|eot_id|>\n{% endfor %}"
    ),
    "parts": (
        "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] if part['type'] == 'text' %}"
        "{{ part['text'] }} {% endfor %}<|eot_id|>{% endfor %}"
    ),
    "between turns only": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if not loop.last %}<|eot_id|>{% endif %}"
        "{% endfor %}"
    ),
    "of alternating roles": (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}<|eot_id|>{% endfor %}"
    ),
}


@pytest.mark.parametrize(
    ("turns", "generation"),
    [*((turns, "a number") for turns in TURNS), ("Llama 3", "a list"), ("Llama 3", "null")],
)
def test_the_templates_turn_end_ends_an_answer(checkpoint: Path, tmp_path: Path, turns: str, generation: str) -> None:
    """Even if the configs name another end: a Llama 3 whose `eos_token_id` ends a text only would never stop."""
    for path in checkpoint.glob("*.json"):
        path.write_text(path.read_text().replace("<|im_end|>", "<|eot_id|>").replace("<|im_start|>", "<|other|>"))
    (checkpoint / "chat_template.jinja").write_text(TURNS[turns])
    (checkpoint / "chat_template.json").unlink(missing_ok=True)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    text_end, turn_end = (tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|eot_id|>"))
    edit(checkpoint / "tokenizer_config.json", eos_token="<|endoftext|>", chat_template=None)
    raw = json.loads((checkpoint / "config.json").read_text())
    raw["text_config"]["eos_token_id"] = text_end
    edit(checkpoint / "config.json", text_config=raw["text_config"])
    said = {"a number": text_end, "a list": [text_end], "null": None}[generation]
    edit(checkpoint / "generation_config.json", eos_token_id=said)
    bundle = convert(checkpoint, tmp_path / "bundle", backends=["llama-cpp", "mlx"])
    assert {text_end, turn_end} <= set(bundle.manifest.prompt.eos_token_ids)
    mlx = json.loads(bundle.file("decoder-mlx/config.json").read_text())
    assert mlx["eos_token_id"] == list(bundle.manifest.prompt.eos_token_ids)
    fields = GGUFReader(bundle.file("decoder.gguf")).fields
    ends = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot")]
    assert ends == [text_end, turn_end]


def test_an_end_token_of_a_second_config_counts_if_it_is_special(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    end, plain = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("a")
    edit(checkpoint / "config.json", eos_token_id=[plain, end])
    ends = convert(checkpoint, tmp_path / "bundle").manifest.prompt.eos_token_ids
    assert end in ends
    assert plain not in ends, "a stale number must not cut answers short"


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "processor_config.json"])
def test_the_chat_template_is_found_wherever_it_lies(name: str, checkpoint: Path, tmp_path: Path) -> None:
    for other in ("chat_template.jinja", "chat_template.json"):
        (checkpoint / other).unlink(missing_ok=True)
    template = "{% for m in messages %}{{ '<image>' + m['role'] }}{% endfor %}"
    if name.endswith(".jinja"):
        (checkpoint / name).write_text(template)
    else:
        edit(checkpoint / name, chat_template=template)
    assert convert(checkpoint, tmp_path / "bundle").manifest.prompt.chat_template == template


def test_a_broken_chat_template_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{% for m in messages %}")
    with pytest.raises(CheckpointError, match="chat template"):
        convert(checkpoint, tmp_path / "bundle")


def test_preprocessing_is_read_from_both_generations_of_transformers(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "preprocessor_config.json").unlink()
    processor = {"size": {"height": 28, "width": 28}, "image_mean": [0.1, 0.2, 0.3], "resample": 2}
    edit(checkpoint / "processor_config.json", image_processor=processor)
    vision = convert(checkpoint, tmp_path / "new").manifest.vision
    assert (vision.mean, vision.std, vision.resample) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), "bilinear")
    edit(checkpoint / "preprocessor_config.json", do_normalize=False)
    vision = convert(checkpoint, tmp_path / "old").manifest.vision
    assert (vision.mean, vision.std, vision.resample) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 384, "width": 384}},
        {"size": {"shortest_edge": 28}},
        {"size": "large"},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_pad": True},
        {"resample": 4},
        {"resample": "bicubic"},
        {"rescale_factor": 1.0},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_std": ["a", "b", "c"]},
    ],
    ids=str,
)
def test_unsupported_preprocessing_is_refused(changes: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        convert(checkpoint, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert hidden_beside(tmp_path / "bundle") == []


def test_an_interrupted_conversion_is_taken_up(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, quantization="q4_k_m", progress=Heard(interrupt_at="quantize"))
    assert not out.exists()
    assert sorted(path.name for path in partial_folder(out).iterdir()) == [
        ".build.json",
        "tokenizer.json",
        "vision.onnx",
    ]
    heard = Heard()
    verify(convert(checkpoint, out, quantization="q4_k_m", progress=heard))
    assert heard.stages == ["decoder", "quantize"]
    assert hidden_beside(out) == []


@pytest.mark.parametrize("change", ["options", "checkpoint"])
def test_a_conversion_of_something_else_starts_over(change: str, checkpoint: Path, tmp_path: Path) -> None:
    out, precision = tmp_path / "bundle", "int8"
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, quantization="q4_k_m", progress=Heard(interrupt_at="decoder"))
    if change == "options":
        precision = "fp32"
    else:
        write_random_checkpoint(checkpoint, model_config(), Options(seed=1))
    heard = Heard()
    bundle = convert(checkpoint, out, quantization="q4_k_m", vision_precision=precision, progress=heard)
    assert heard.stages[:2] == (["vision", "decoder"] if precision == "fp32" else ["probe", "vision"])
    fresh = convert(checkpoint, tmp_path / "fresh", quantization="q4_k_m", vision_precision=precision)
    assert bundle.manifest.files == fresh.manifest.files


def test_nothing_is_replaced_without_force_and_nothing_is_read_before(converted: Bundle, tmp_path: Path) -> None:
    out = Path(shutil.copytree(converted.folder, tmp_path / "bundle"))
    with pytest.raises(InputError, match="--force"):
        convert(tmp_path / "no such checkpoint", out, backends=["llama-cpp"])
    verify(open_bundle(out))


def test_force_replaces_a_bundle(random_checkpoint: Path, converted: Bundle, tmp_path: Path) -> None:
    out = Path(shutil.copytree(converted.folder, tmp_path / "bundle"))
    bundle = convert(random_checkpoint, out, quantization="q8_0", force=True)
    assert open_bundle(out).manifest.precisions["decoder.gguf"] == "q8_0"
    verify(bundle)
    assert hidden_beside(out) == []


def test_a_bad_checkpoint_leaves_the_old_bundle_and_nothing_else(
    checkpoint: Path, converted: Bundle, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(converted.folder, tmp_path / "bundle"))
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        convert(checkpoint, out, force=True)
    verify(open_bundle(out))
    assert hidden_beside(out) == []


def test_a_disk_without_room_is_refused_before_the_work(checkpoint: Path, tmp_path: Path) -> None:
    hidden, rows = 1 << 16, 1 << 22
    wide: dict[str, Any] = {"hidden_size": hidden, "vocab_size": rows, "head_dim": 1024}
    config = model_config()
    config = replace(config, decoder=replace(config.decoder, heads=64, kv_heads=64, **wide))
    if shutil.disk_usage(tmp_path).free > 5 * hidden * rows // 2:
        pytest.skip("this disk has room for a decoder of 275 billion parameters")
    write_hollow_weights(checkpoint / "model.safetensors", config)
    raw = json.loads((checkpoint / "config.json").read_text())
    wide |= {"num_attention_heads": 64, "num_key_value_heads": 64}
    edit(checkpoint / "config.json", text_config={**raw["text_config"], **wide})
    with pytest.raises(ResourceError, match="free where about"):
        convert(checkpoint, tmp_path / "bundle")
    assert hidden_beside(tmp_path / "bundle") == []


def write_hollow_weights(path: Path, config: Any) -> None:
    """A safetensors file with the right header and size, whose data are a hole that takes no disk space."""
    header, offset = {}, 0
    for name, shape in expected_shapes(config).items():
        if name != "decoder.lm_head.weight":
            end = offset + 2 * math.prod(shape)
            header[file_name(name, "hf-2024")] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


@pytest.mark.parametrize("wrong", [{"quantization": "q3"}, {"vision_precision": "int4"}])
def test_unknown_precisions_are_refused(wrong: dict[str, str], random_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose one of"):
        convert(random_checkpoint, tmp_path / "bundle", **wrong)  # type: ignore[arg-type]
