"""The architecture of a checkpoint. `config_hf` and `config_original` read it from files."""

from __future__ import annotations

from dataclasses import dataclass

from edge_interleave.bundle.manifest import TilingInfo, VideoInfo


@dataclass(frozen=True)
class RopeScaling:
    """RoPE scaling beyond the context of the first training."""

    type: str
    """`linear` or `llama3`."""
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder's architecture."""

    type: str
    """One of `bundle.manifest.DECODER_TYPES`."""
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    """Rows of the embedding matrix; may exceed the number of tokens."""
    context_length: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    """The config's value; `Checkpoint.tied` is the value that holds for the file."""
    attention_bias: bool
    """Whether the q, k and v projections have biases (for `llama`, o too)."""
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None

    @property
    def qk_norm(self) -> bool:
        """Whether each head's query and key are RMS-normalized before the rotary embedding."""
        return self.type == "qwen3"


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower's architecture, and the features that the projector takes."""

    type: str
    """`siglip` or `clip`."""
    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    layer_norm_eps: float
    hidden_act: str
    """transformers' name: `gelu_pytorch_tanh`, `quick_gelu`, `gelu`."""
    feature_layer: int
    """Index into transformers' `hidden_states`: 0 the embeddings, -1 the last block's output (no post-layernorm)."""
    select_strategy: str
    """`default` (without the first token) or `full`."""
    projector_act: str
    projector_bias: bool = True

    @property
    def layers_used(self) -> int:
        """Blocks that the features need; later blocks may be missing from the file."""
        return self.feature_layer if self.feature_layer >= 0 else self.layers + 1 + self.feature_layer

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def first_patch_dropped(self) -> bool:
        """Whether `default`, made for CLIP's class token, drops the first patch of a tower without one (Mantis)."""
        return self.type == "siglip" and self.select_strategy == "default"

    @property
    def tokens(self) -> int:
        """Visual tokens of an image."""
        return self.grid**2 - self.first_patch_dropped

    @property
    def positions(self) -> int:
        """Rows of the position embedding."""
        return self.grid**2 + (1 if self.type == "clip" else 0)


@dataclass(frozen=True)
class ModelConfig:
    """All values of a checkpoint's `config.json` that conversion needs."""

    layout: str
    """`hf` or `original`."""
    decoder: DecoderConfig
    vision: VisionConfig
    image_token_id: int | None
    """Id of the image marker; None in the original layout, whose tokenizer has none."""
    pooling_mode: str
    """`average`, `bilinear` or `max`."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Ids that end an answer, from the generation config or the config; may be empty."""
    more_eos_token_ids: tuple[int, ...] = ()
    """End ids from the checkpoint's other configs; used if the tokenizer has them as added tokens."""
    image_newline: bool = False
    """Whether the tensor `image_newline` follows each image's visual tokens (`spatial_unpad`)."""
    resize: str | None = None
    """`VisionInfo.resize`, if the family or `config.json` names it; None leaves it to the image processor."""
    tiling: TilingInfo | None = None
    video: VideoInfo | None = None
    video_token_id: int | None = None
    """Id of the video marker, if the family has one."""
    mistral: bool = False
    """Whether the original layout names Mistral's class; its decoder is Llama's, but not its prompt."""
