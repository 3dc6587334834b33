"""What lmms-eval is told: a model's name, and where its class lies."""

from typing import Any


def manifest() -> Any:
    """For the entry point. lmms-eval is imported only when it asks."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="edge_interleave", chat_class_path="edge_interleave_lmms_eval.model.EdgeInterleave")
