"""mlx-lm's model files, taken without its front door: `import mlx_lm` imports transformers, its models do not need it.

Knows nothing about weights, caches or bundles.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from edge_interleave.errors import BackendError

TYPES = ("qwen2", "llama")
"""Decoders that a checkpoint can have, as bundles and mlx-lm name them."""
_ALIAS = "edge_interleave_mlx_lm"

if find_spec("mlx_lm") is None:
    raise ImportError("No module named 'mlx_lm'")


def new_model(kind: str, config: dict[str, Any]) -> Any:
    """An mlx-lm model without weights; `config` as in its `config.json`.

    Raises BackendError where mlx-lm is not installed, or cannot build such a model.
    """
    try:
        module = import_module(f"{_package()}.models.{kind}")
        return module.Model(module.ModelArgs.from_dict(config))
    except (ImportError, AttributeError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise BackendError(
            f"mlx-lm cannot build this {kind} decoder ({error}); install mlx-lm 0.31 or later"
        ) from error


def _package() -> str:
    """A package of another name that lies where mlx-lm lies; its model files import each other relatively."""
    if _ALIAS not in sys.modules:
        found = find_spec("mlx_lm")
        assert found is not None
        assert found.submodule_search_locations is not None
        package = ModuleType(_ALIAS)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return _ALIAS
