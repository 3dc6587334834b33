"""Imports mlx-lm's model files without `import mlx_lm`, which would import transformers."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from edge_interleave.errors import BackendError

_ALIAS = "edge_interleave_mlx_lm"

if find_spec("mlx_lm") is None:
    raise ImportError("No module named 'mlx_lm'")


def new_model(kind: str, config: dict[str, Any]) -> Any:
    """An mlx-lm model without weights. `config`: the fields of its `config.json`.

    Raises BackendError if mlx-lm is not installed or cannot build the model.
    """
    try:
        module = import_module(f"{_package()}.models.{kind}")
        return module.Model(module.ModelArgs.from_dict(config))
    except (ImportError, AttributeError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise BackendError(
            f"mlx-lm cannot build this {kind} decoder ({error}); install mlx-lm 0.31 or later"
        ) from error


def _package() -> str:
    """A package under another name with mlx-lm's folder as its path, since its model files use relative imports."""
    if _ALIAS not in sys.modules:
        found = find_spec("mlx_lm")
        assert found is not None
        assert found.submodule_search_locations is not None
        package = ModuleType(_ALIAS)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return _ALIAS
