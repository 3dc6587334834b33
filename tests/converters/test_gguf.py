"""GGUF files: llama.cpp loads them as text models, with tokenizer.json's tokens and transformers' logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.safetensors_edit import rewrite

from edge_interleave.backends.llama_cpp.weights import model_params
from edge_interleave.converters.checkpoint.config import ModelConfig, RopeScaling
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles, read_tokenizer
from edge_interleave.converters.convert import convert as convert_to_bundle
from edge_interleave.converters.gguf.decoder import GgufSummary, write_gguf
from edge_interleave.converters.precisions import GGUF_QUANTIZATIONS
from edge_interleave.errors import BackendError, CheckpointError, UsageError
from edge_interleave.prompt.tokenizer import IMAGE, TextTokenizer

CORPUS = (
    "Hello world, what's up? I'll say it's OK; they've GONE and WE'RE late.",
    "图片中有什么？请描述第一张图片和第二张图片之间的区别。",
    "ما الفرق بين الصورة الأولى والصورة الثانية؟",
    "ภาพนี้มีอะไรบ้าง ช่วยอธิบายความแตกต่าง",
    "हिन्दी में नमस्ते, தமிழ், ქართული, Ελληνικά, עברית",
    "👩‍👩‍👧‍👦 family, 👍🏽 skin, 🇫🇷 flag, 🏳️‍🌈",
    "def main(args):\n    for i in range(10):\n\t\tprint(f'{i}: {args[i]}')  # ok\n\n\n    return {'a': [1, 2]}\n",
    "1234567890 3.14159 1,000,000 2024-01-31 0x1F ½ ٣٤٥ x² Ⅷ",
    "   leading\t\ttabs \n\n  \n trailing   ",
    "x\r\ny\r\n\r\nz\x00\x7f",
    "Größe, naïve, señor, Привет мир, 日本語のテキスト, 한국어 문장",
    "no\u00a0break, ideographic\u3000space, zero\u200bwidth, \ufeffmark, \ufffd, \U000e0041",
    "<|im_start|>user\n<image>\n<image>What changed?<|im_end|>\n<|im_start|>assistant\n",
    "text<|im_end|>text <|im_end|> text<|endoftext|>",
    "<|im_start <image <|IM_END|> </s>",
    " ",
    "\n",
    "",
)


@pytest.fixture(autouse=True)
def plain_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's high-level interface, without the AMX kernels that crash (`backends.llama_cpp.weights`)."""
    params = model_params()
    monkeypatch.setattr(
        llama_cpp.llama_cpp, "llama_model_default_params", lambda: type(params).from_buffer_copy(params)
    )


def make(folder: Path, config: ModelConfig | None = None, **options: Any) -> Path:
    return write_random_checkpoint(folder, config or model_config(), Options(**options))


def decoder(kind: str, **fields: Any) -> ModelConfig:
    base = model_config("tiny", kind)
    return replace(base, decoder=replace(base.decoder, **fields))


def convert(folder: Path, out: Path, quantization: str = "f16") -> GgufSummary:
    with open_checkpoint(folder) as checkpoint:
        return write_gguf(checkpoint, out, quantization)


def tokenizer_of(folder: Path) -> TokenizerFiles:
    with open_checkpoint(folder) as checkpoint:
        return read_tokenizer(checkpoint)


@pytest.mark.parametrize(
    ("kind", "tokenizer", "generation"),
    [
        ("qwen2", "qwen2", "hf-2024"),
        ("qwen2", "qwen2", "original"),
        ("llama", "llama3", "hf-5"),
        ("llama", "llama2", "hf-2024"),
    ],
)
def test_llama_cpp_tokenizes_every_script_as_the_tokenizer_does(
    tmp_path: Path, kind: str, tokenizer: str, generation: str
) -> None:
    folder = make(tmp_path / "c", decoder(kind), generation=generation, tokenizer=tokenizer)
    convert(folder, tmp_path / "d.gguf")
    files = tokenizer_of(folder)
    model = llama_cpp.Llama(str(tmp_path / "d.gguf"), vocab_only=True, verbose=False)
    assert files.adds_bos is (tokenizer != "qwen2")
    for text in CORPUS:
        ids = files.tokenizer.encode(text).ids
        assert model.tokenize(text.encode(), add_bos=files.adds_bos, special=True) == ids, text
        back = model.detokenize(ids, special=True).decode().removeprefix(files.bos_token or "")
        # SentencePiece's kind puts a space before each piece of text between special tokens.
        assert back == text if tokenizer != "llama2" else back.replace(" ", "") == text.replace(" ", "")
    assert model.n_vocab() == 640
    assert model.token_eos() == files.eos_token_ids[0]
    assert files.tokenizer.id_to_token(files.image_token_id) == "<image>"


def test_the_vocabulary_of_a_real_size_tokenizes_alike(tmp_path: Path) -> None:
    # The weights of 152000 rows of 64: the tokenizer is the size of Qwen's.
    folder = make(tmp_path / "c", decoder("qwen2", vocab_size=152000), vocabulary="full")
    convert(folder, tmp_path / "d.gguf", "q8_0")
    files = tokenizer_of(folder)
    assert (files.eos_token_ids, files.image_token_id) == ((151645,), 151646)
    model = llama_cpp.Llama(str(tmp_path / "d.gguf"), vocab_only=True, verbose=False)
    for text in CORPUS:
        assert model.tokenize(text.encode(), add_bos=False, special=True) == files.tokenizer.encode(text).ids, text


@pytest.mark.parametrize("quantization", GGUF_QUANTIZATIONS)
@pytest.mark.parametrize("width", [64, 256])
def test_the_high_level_api_loads_and_chats_with_every_quantization(
    tmp_path: Path, quantization: str, width: int
) -> None:
    # Rows of 64 fit no K-quant block: llama.cpp takes another type for them, and the summary says how many.
    folder = make(tmp_path / "c", decoder("qwen2", hidden_size=width, head_dim=width // 4, intermediate_size=256))
    path = tmp_path / "d.gguf"
    summary = convert(folder, path, quantization)
    assert summary.quantization == quantization
    assert summary.bytes == path.stat().st_size
    assert (summary.fallbacks > 0) is (width == 64 and quantization not in ("q8_0", "f16"))
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["d.gguf"]
    model = llama_cpp.Llama(str(path), n_ctx=256, verbose=False)
    # Random weights may answer in broken UTF-8, which that API does not stop at: so it is made to say "a".
    (letter,) = model.tokenize(b"a", add_bos=False)
    answer: Any = model.create_chat_completion(
        [{"role": "user", "content": "Hello"}], max_tokens=4, temperature=0, logit_bias={letter: 1000.0}
    )
    assert answer["choices"][0]["message"]["content"] == "aaaa"
    assert model.metadata["general.architecture"] == "qwen2"
    assert model.metadata["general.name"] == "c"
    assert model.metadata["qwen2.context_length"] == "512"
    types = {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_norm.weight"] == types["blk.0.attn_q.bias"] == "f32"
    if width == 256:
        assert types["blk.0.attn_q.weight"] == {"q4_k_m": "q4_k", "q5_k_m": "q5_k"}.get(quantization, quantization)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_the_tensors_are_those_of_the_checkpoint(tmp_path: Path, dtype: str) -> None:
    folder = make(tmp_path / "c", dtype=dtype)
    convert(folder, tmp_path / "d.gguf", "f32")
    written = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "d.gguf").tensors}
    with open_checkpoint(folder) as checkpoint:
        for ours, theirs in (
            ("embed_tokens.weight", "token_embd.weight"),
            ("layers.1.self_attn.k_proj.weight", "blk.1.attn_k.weight"),
            ("layers.1.self_attn.k_proj.bias", "blk.1.attn_k.bias"),
            ("layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
            ("norm.weight", "output_norm.weight"),
        ):
            np.testing.assert_array_equal(written[theirs], checkpoint.tensor(f"decoder.{ours}"))
    assert "output.weight" not in written


@pytest.mark.parametrize(("dtype", "kept"), [("bf16", "BF16"), ("f32", "F32")])
def test_values_beyond_f16_keep_their_type(tmp_path: Path, dtype: str, kept: str) -> None:
    folder = make(tmp_path / "c", dtype=dtype)
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    huge = np.full((96, 64), 131072.0, "<f4")
    raw = huge.tobytes() if dtype == "f32" else (huge.view(np.uint32) >> 16).astype("<u2").tobytes()
    rewrite(folder / "model.safetensors", lambda t: t.update({name: (dtype.upper(), [96, 64], raw)}))
    convert(folder, tmp_path / "f16.gguf", "f16")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "f16.gguf").tensors}
    assert types["blk.1.ffn_up.weight"] == kept
    assert types["blk.1.ffn_gate.weight"] == "F16"
    convert(folder, tmp_path / "q.gguf", "q8_0")
    up = next(t for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors if t.name == "blk.1.ffn_up.weight")
    assert np.isfinite(gguf.dequantize(up.data, up.tensor_type)).all()


def test_progress_grows_to_the_end_and_llama_cpp_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int, int]] = []
    with open_checkpoint(make(tmp_path / "c")) as checkpoint:
        write_gguf(checkpoint, tmp_path / "d.gguf", "q4_k_m", lambda *step: seen.append(step))
    assert capfd.readouterr() == ("", "")
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["decoder", "quantize"]
    for stage in ("decoder", "quantize"):
        done = [(d, total) for s, d, total in seen if s == stage]
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out" / "d.gguf"
    path.parent.mkdir()
    path.write_bytes(b"the old one")
    # The intermediate file is damaged while llama.cpp is about to read it: its own words come back.
    from edge_interleave.converters.gguf import decoder as module

    def damaged(source: Path, *rest: Any) -> int:
        source.write_bytes(source.read_bytes()[:5000])
        return real(source, *rest)

    real = module.quantize
    monkeypatch.setattr(module, "quantize", damaged)
    with open_checkpoint(make(tmp_path / "c")) as checkpoint, pytest.raises(BackendError) as caught:
        write_gguf(checkpoint, path)
    assert f"{path}: llama.cpp did not quantize the decoder (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"the old one"
    assert list(path.parent.iterdir()) == [path]


def test_an_interruption_ends_the_work_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def interrupted(stage: str, done: int, total: int) -> None:
        if stage == "quantize":
            raise KeyboardInterrupt

    with open_checkpoint(make(tmp_path / "c")) as checkpoint, pytest.raises(KeyboardInterrupt):
        write_gguf(checkpoint, tmp_path / "out" / "d.gguf", "q8_0", interrupted)
    assert not list((tmp_path / "out").iterdir())


def test_an_unknown_quantization_is_a_usage_error(tmp_path: Path) -> None:
    with open_checkpoint(make(tmp_path / "c")) as checkpoint, pytest.raises(UsageError, match="q4_k_m, q4_0"):
        write_gguf(checkpoint, tmp_path / "d.gguf", "q3_k_s")


# --- The tokenizer's files


def test_the_chat_template_is_one_for_texts_and_the_processors_one_is_kept_apart(tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    files = tokenizer_of(folder)
    assert files.prompt_template is not None
    assert "selectattr" in files.prompt_template
    assert files.text_template is not None
    assert "selectattr" not in files.text_template
    # Where the tokenizer has none that takes plain strings, ChatML stands in, and not the processor's.
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": files.prompt_template}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    again = tokenizer_of(folder)
    assert again.text_template is not None
    assert "selectattr" not in again.text_template
    assert "<|im_start|>" in again.text_template


def test_slow_files_make_the_tokenizer_that_the_fast_file_holds(tmp_path: Path) -> None:
    fast = tokenizer_of(make(tmp_path / "hf"))
    slow = tokenizer_of(make(tmp_path / "original", generation="original"))
    assert slow.image_token_id == fast.image_token_id
    for text in CORPUS:
        assert slow.tokenizer.encode(text).ids == fast.tokenizer.encode(text).ids


@pytest.mark.parametrize("listed", ["tokenizer_config.json", "added_tokens.json"])
def test_added_tokens_of_slow_files_that_are_not_special_stay_in_the_text(tmp_path: Path, listed: str) -> None:
    folder = make(tmp_path / "c", generation="original")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = config.pop("added_tokens_decoder")
    new = max(map(int, tokens)) + 1
    tokens |= {str(new): {"content": "<think>", "special": False}, str(new + 1): {"content": "<pad>", "special": True}}
    if listed == "tokenizer_config.json":
        config["added_tokens_decoder"] = tokens
    else:
        # Which are special, the config's fields say.
        config["additional_special_tokens"] = ["<|im_start|>", "<pad>"]
        (folder / listed).write_text(json.dumps({token["content"]: int(i) for i, token in tokens.items()}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = tokenizer_of(folder).tokenizer
    ids = tokenizer.encode("<|im_start|>a<think>b<pad>c<|im_end|>").ids
    assert ids[2] == new
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<think>bc"


FLAGS: list[tuple[str, dict[str, bool], dict[str, bool] | None]] = [
    ("<image>", {}, None),
    ("<image>", {}, {"rstrip": True}),
    ("<image>", {"rstrip": True}, {"rstrip": False}),
    ("<|im_end|>", {}, {"lstrip": True, "rstrip": True}),
    ("<|im_end|>", {"rstrip": True}, None),
    ("<|im_end|>", {}, {"special": False}),
    ("<|im_start|>", {}, {"special": False}),
    ("<|im_start|>", {"special": False}, {"special": True}),
    ("<|im_start|>", {}, {"single_word": True}),
]
FLAGGED = ("user\n <image> \nDescribe <|im_end|>\n", "<|im_start|>user\n\nHi<|im_end|> \nx", "x<|im_start|>y <image>z")


def flagged(folder: Path, token: str, inside: dict[str, bool], listed: dict[str, bool] | None) -> Path:
    """A checkpoint with these flags of a token in tokenizer.json and tokenizer_config.json."""

    def change(tokenizer: Any) -> None:
        for added in tokenizer["added_tokens"]:
            added.update(inside if added["content"] == token else {})

    make(folder)
    edit("tokenizer.json", change)(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("added_tokens_decoder", None)
    if listed is not None:
        added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        config["added_tokens_decoder"] = {
            str(each.pop("id")): each | (listed if each["content"] == token else {}) for each in added
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.oracle
@pytest.mark.parametrize(("token", "inside", "listed"), FLAGS, ids=str)
def test_added_tokens_have_the_flags_that_transformers_gives_them(
    tmp_path: Path, token: str, inside: dict[str, bool], listed: dict[str, bool] | None
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = flagged(tmp_path / "c", token, inside, listed)
    ours, theirs = tokenizer_of(folder).tokenizer, transformers.AutoTokenizer.from_pretrained(folder)
    for text in FLAGGED:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == theirs.backend_tokenizer.decode(ids)


def test_flags_in_tokenizer_config_have_priority_over_tokenizer_json(tmp_path: Path) -> None:
    plain = tokenizer_of(make(tmp_path / "plain")).tokenizer
    stripping = tokenizer_of(flagged(tmp_path / "strips", "<|im_end|>", {}, {"rstrip": True})).tokenizer
    keeping = tokenizer_of(flagged(tmp_path / "keeps", "<|im_end|>", {"rstrip": True}, {"rstrip": False})).tokenizer
    text = "x<|im_end|>\ny"
    assert keeping.encode(text).ids == plain.encode(text).ids
    assert stripping.encode(text).ids == plain.encode(text.replace("\n", "")).ids


def test_token_flags_that_gguf_cannot_store_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert(make(tmp_path / "plain"), tmp_path / "plain.gguf")
    assert not caplog.text
    convert(flagged(tmp_path / "c", "<|im_end|>", {}, {"rstrip": True, "single_word": True}), tmp_path / "d.gguf")
    assert "decoder.gguf: cannot store that <|im_end|> takes the white space after it" in caplog.text
    assert "<|im_end|> is found between words only" in caplog.text


@pytest.mark.parametrize("tokenizer", ["qwen2", "llama3"])
def test_a_tokenizer_as_large_as_the_embedding_matrix_needs_no_row_for_the_image_marker(
    tmp_path: Path, tokenizer: str
) -> None:
    """Like Llama 3's in an original checkpoint: the marker is found in the text, as in the original code."""
    kind = "qwen2" if tokenizer == "qwen2" else "llama"
    roomy = make(tmp_path / "roomy", decoder(kind), generation="original", tokenizer=tokenizer)
    files = tokenizer_of(roomy)
    assert files.image_token_id is not None
    full = decoder(kind, vocab_size=files.image_token_id)
    folder = make(tmp_path / "full", full, generation="original", tokenizer=tokenizer)
    assert tokenizer_of(folder).image_token_id is None
    bundle = convert_to_bundle(folder, tmp_path / "bundle", quantization="f16")
    text = TextTokenizer.open(bundle)
    assert text.encode("a<image>b") == [*text.encode_plain("a"), IMAGE, *text.encode_plain("b")]


def edit(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return damage


def _other_split(tokenizer: Any) -> None:
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s+|\w+"}


TOKENIZER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "tokenizer.json").unlink(), "neither tokenizer.json nor vocab.json"),
    "not JSON": (lambda f: (f / "tokenizer.json").write_bytes(b"\xff{"), "not a tokenizer"),
    "another JSON": (lambda f: (f / "tokenizer.json").write_text("{}"), "not a tokenizer"),
    "splits otherwise": (edit("tokenizer.json", _other_split), "no tokenizer that splits text"),
    "of another kind": (
        edit("tokenizer.json", lambda t: t["model"].update(type="WordLevel", unk_token="a", merges=None)),
        "'WordLevel' is not supported",
    ),
    "added token without a text": (
        edit("tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"513": "<x>"})),
        "has the id '513'",
    ),
    "added token under no number": (
        edit("tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"first": {"content": "<x>"}})),
        "has the id 'first'",
    ),
    "image token elsewhere": (edit("config.json", lambda c: c.update(image_token_index=600)), "image token 600"),
    "image token is a letter": (edit("config.json", lambda c: c.update(image_token_index=0)), "which is the text '!'"),
    "no end": (
        lambda f: [edit("tokenizer_config.json", lambda c: c.pop("eos_token"))(f), *_without_ends(f)],
        "no eos_token",
    ),
}


def _without_ends(folder: Path) -> tuple[()]:
    (folder / "generation_config.json").unlink()
    edit("config.json", lambda c: c["text_config"].pop("eos_token_id"))(folder)
    return ()


@pytest.mark.parametrize("name", TOKENIZER_DAMAGES)
def test_a_damaged_tokenizer_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    damage, expected = TOKENIZER_DAMAGES[name]
    folder = make(tmp_path / "c")
    damage(folder)
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError) as caught:
        write_gguf(checkpoint, tmp_path / "d.gguf")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.gguf*"))


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "c", decoder("qwen2", vocab_size=510))
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError, match=r"516 tokens, .* 510 rows"):
        write_gguf(checkpoint, tmp_path / "d.gguf")


# --- Against transformers


_ORACLES = {
    "qwen2 tied": (decoder("qwen2"), "qwen2"),
    "qwen2 untied": (decoder("qwen2", tie_word_embeddings=False), "qwen2"),
    "llama": (decoder("llama"), "llama2"),
    "llama with biases": (decoder("llama", attention_bias=True, mlp_bias=True), "llama3"),
    "llama 3 scaling": (decoder("llama", rope_scaling=RopeScaling("llama3", 8, 1, 4, 32)), "llama3"),
    "linear scaling": (decoder("llama", rope_scaling=RopeScaling("linear", 4)), "llama3"),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", _ORACLES)
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_logits_are_those_of_transformers(tmp_path: Path, name: str, precision: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    config, tokenizer = _ORACLES[name]
    folder = make(tmp_path / "c", config, tokenizer=tokenizer, dtype="f32")
    convert(folder, tmp_path / "d.gguf", precision)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    engine = llama_cpp.Llama(str(tmp_path / "d.gguf"), n_ctx=256, logits_all=True, n_threads=1, verbose=False)
    ids = np.random.default_rng(1).integers(0, 500, 200).tolist()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    engine.eval(ids)
    got = engine.scores[: len(ids)]
    cosine = (wanted * got).sum(-1) / np.linalg.norm(wanted, axis=-1) / np.linalg.norm(got, axis=-1)
    assert cosine.min() > 0.9999
    # In fp32 not only the direction: the positions late in the text would show a wrong rotation first.
    if precision == "f32":
        np.testing.assert_allclose(got, wanted, atol=2e-2 * wanted.std())
        assert (got.argmax(-1) == wanted.argmax(-1)).mean() > 0.99
