"""The decoders and precisions that a conversion offers. Imports no engine, so that help texts can list them at once."""

from __future__ import annotations

from edge_interleave.bundle.manifest import GGUF_NAME, MLX_NAME, ONNX_NAME

DECODERS = {"llama-cpp": GGUF_NAME, "mlx": MLX_NAME, "onnx": ONNX_NAME}
"""Backend to the decoder that it runs: a file or folder of the bundle."""

GGUF_QUANTIZATIONS = ("q4_k_m", "q4_0", "q5_k_m", "q6_k", "q8_0", "f16")
DEFAULT_GGUF_QUANTIZATION = "q4_k_m"

MLX_PLAIN = {"4bit": 4, "8bit": 8, "6bit": 6, "3bit": 3}
"""mlx-lm's recipes that give every matrix as many bits."""
MLX_MIXED = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}
"""mlx-lm's recipes that give some matrices more bits than the others."""
MLX_RECIPES = (*MLX_PLAIN, *MLX_MIXED, "mxfp4", "f16")
"""`f16` quantizes nothing."""
DEFAULT_MLX_RECIPE = "4bit"

ONNX_PRECISIONS = ("int8", "int4", "f16", "f32")
DEFAULT_ONNX_PRECISION = "int8"

VISION_PRECISIONS = ("int8", "fp16", "fp32")
DEFAULT_VISION_PRECISION = "int8"

MMPROJ_PRECISIONS = ("f16", "q8_0")
DEFAULT_MMPROJ_PRECISION = "f16"
