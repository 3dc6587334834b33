"""LLaVA-NeXT-Interleave on the edge: several images, a video or a live camera, asked about locally.

    import edge_interleave as ei
    from pathlib import Path

    model = ei.load()
    print(model.ask(["What changed between the two images?", Path("a.png"), Path("b.png")]))

The names below are imported when they are first used, so that importing the package costs nothing.
"""

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Nothing leaves the device. ONNX Runtime 1.29 and later sends telemetry unless this variable is set before its import;
# its own `disable_telemetry_events` stops neither the sending nor the device id that it keeps on disk.
if "onnxruntime" in sys.modules and not os.environ.get("ORT_DISABLE_TELEMETRY"):
    warnings.warn(
        "onnxruntime was imported before edge_interleave, so its telemetry is on: import edge_interleave first, or "
        "set ORT_DISABLE_TELEMETRY=1",
        RuntimeWarning,
        stacklevel=2,
    )
# The environment, so that child processes have them too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from edge_interleave.chat import AnswerStream, Chat
    from edge_interleave.decoding.generation import Answer
    from edge_interleave.decoding.sampling import SamplingOptions
    from edge_interleave.decoding.session import Choice
    from edge_interleave.decoding.stats import Stats
    from edge_interleave.errors import (
        BackendError,
        BundleError,
        CheckpointError,
        ContextFullError,
        EdgeInterleaveError,
        InputError,
        MediaError,
        UsageError,
    )
    from edge_interleave.model import Model, load
    from edge_interleave.prompt.messages import Image, Message, Video
    from edge_interleave.util.progress import QuestionProgress

__all__ = [
    "Answer",
    "AnswerStream",
    "BackendError",
    "BundleError",
    "Chat",
    "CheckpointError",
    "Choice",
    "ContextFullError",
    "EdgeInterleaveError",
    "Image",
    "InputError",
    "MediaError",
    "Message",
    "Model",
    "QuestionProgress",
    "SamplingOptions",
    "Stats",
    "UsageError",
    "Video",
    "load",
]

_HOMES = {
    "Answer": "decoding.generation",
    "AnswerStream": "chat",
    "Chat": "chat",
    "Choice": "decoding.session",
    "Image": "prompt.messages",
    "Message": "prompt.messages",
    "Model": "model",
    "QuestionProgress": "util.progress",
    "SamplingOptions": "decoding.sampling",
    "Stats": "decoding.stats",
    "Video": "prompt.messages",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
