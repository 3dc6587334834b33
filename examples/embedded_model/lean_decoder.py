"""Qwen2's forward pass for training: the module's own weights, fast products, fp32 residual stream.

transformers' module casts every activation several times under autocast; here each is cast once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from grouped_attention import GroupedAttention
from precision import HALF
from torch import Tensor
from transformers import Qwen2Model


def forward(
    decoder: Qwen2Model,
    rows: Tensor,
    positions: Tensor,
    attend: GroupedAttention,
    mask: Tensor,
    middle: int,
    *,
    four_bits: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the decoder; returns four tensors.

    The last hidden states after the final norm, the residual stream before and after layer `middle`, (n, t, width)
    each, and the attention weights of the first head of that layer, (n, t, t).

    rows: (n, t, width) embeddings; positions: (n, t) int64; mask: (n, t, t) bool, what `attend` lets each position see.
    `four_bits` rounds every matrix as 4-bit quantization does (straight-through gradients), so that the weights adapt.
    """
    config = decoder.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    angles = positions.flatten()[:, None].float() * decoder.rotary_emb.inv_freq
    cos, sin = angles.cos()[:, None].to(HALF), angles.sin()[:, None].to(HALF)
    shape = rows.shape
    stream = rows.flatten(0, 1).float()
    kept, after, looks = stream, stream, stream
    rounding = _rounding(decoder) if four_bits else {}
    for index, layer in enumerate(decoder.layers):
        if index == middle:
            kept = stream
        attention = layer.self_attn
        normed = _norm(stream, layer.input_layernorm)
        q, k, v = (_linear(normed, p, rounding) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        q = _rotate(q.unflatten(1, (-1, size)) * size**-0.5, cos, sin)
        k = _rotate(k.unflatten(1, (-1, size)), cos, sin)
        if index == middle:
            first_q, first_k = (each[:, 0].unflatten(0, shape[:2]) for each in (q, k))
            scores = first_q @ first_k.transpose(1, 2)
            looks = torch.softmax(scores.masked_fill(~mask, -1e9), -1)
        mixed = attend(torch.cat([q.flatten(1), k.flatten(1), v], 1), heads, kv_heads)
        stream = stream + _linear(mixed, attention.o_proj, rounding)
        normed = _norm(stream, layer.post_attention_layernorm)
        gate, up = (_linear(normed, p, rounding) for p in (layer.mlp.gate_proj, layer.mlp.up_proj))
        stream = stream + _linear(F.silu(gate) * up, layer.mlp.down_proj, rounding)
        if index == middle:
            after = stream
    last, kept, after = (each.unflatten(0, shape[:2]) for each in (_norm(stream, decoder.norm), kept, after))
    return last, kept, after, looks


def _linear(x: Tensor, module: torch.nn.Linear, rounding: dict[torch.nn.Linear, Tensor]) -> Tensor:
    bias = None if module.bias is None else module.bias.to(HALF)
    weight = module.weight + rounding[module] if module in rounding else module.weight
    return F.linear(x, weight.to(HALF), bias)


@torch.no_grad()
def _rounding(decoder: Qwen2Model) -> dict[torch.nn.Linear, Tensor]:
    """What 4 bits would add to each matrix.

    Blocks of 32 weights have 16 levels between minimum and maximum, as in ggml's Q4_K (ggml-quants.c). All matrices go
    together, because a GPU waits for each operation to be started.
    """
    matrices = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear)]
    blocks = torch.cat([module.weight.view(-1, 32) for module in matrices])
    low, high = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-8)
    added = (((blocks - low) / step).round() * step + low - blocks).flatten()
    parts = added.split([module.weight.numel() for module in matrices])
    return {module: part.view_as(module.weight) for module, part in zip(matrices, parts, strict=True)}


def _norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)
    return (x * scale).to(HALF) * module.weight.to(HALF)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
