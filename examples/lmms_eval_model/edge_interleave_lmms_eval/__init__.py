"""The entry point of lmms-eval: the model's name and its class."""

from typing import Any


def manifest() -> Any:
    """The manifest for lmms-eval's entry point; imports lmms-eval on call."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="edge_interleave", chat_class_path="edge_interleave_lmms_eval.model.EdgeInterleave")
