"""LLaVA-NeXT-Interleave on the edge: ask about several images, a video or a live camera, locally.

    import edge_interleave as ei

    model = ei.load()
    print(model.ask("What changed between the two images?", images=["before.png", "after.png"]))

The names in `__all__` are the public interface; every other name may change in any release. Each name is imported at
its first use, so importing the package is quick.
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
# Set in the environment, so that child processes inherit them.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    __version__: str
    from edge_interleave.alerts.rule import Rule
    from edge_interleave.answer import Answer, Choice, Stats
    from edge_interleave.bundle.manifest import Bundle, open_bundle
    from edge_interleave.chat import Chat
    from edge_interleave.converters.convert import convert
    from edge_interleave.decoding.answer_stream import AnswerStream
    from edge_interleave.decoding.sampling import SamplingOptions
    from edge_interleave.errors import (
        BackendError,
        BundleError,
        CheckpointError,
        ContextFullError,
        EdgeInterleaveError,
        InputError,
        MediaError,
        ResourceError,
        UsageError,
    )
    from edge_interleave.live.live import Live
    from edge_interleave.media.frame import Frame
    from edge_interleave.model import Model, load
    from edge_interleave.options import AskOptions
    from edge_interleave.planning.plan import Plan
    from edge_interleave.planning.planner import plan
    from edge_interleave.prompt.messages import Image, Message, Video
    from edge_interleave.util.progress import QuestionProgress

__all__ = [
    "Answer",
    "AnswerStream",
    "AskOptions",
    "BackendError",
    "Bundle",
    "BundleError",
    "Chat",
    "CheckpointError",
    "Choice",
    "ContextFullError",
    "EdgeInterleaveError",
    "Frame",
    "Image",
    "InputError",
    "Live",
    "MediaError",
    "Message",
    "Model",
    "Plan",
    "QuestionProgress",
    "ResourceError",
    "Rule",
    "SamplingOptions",
    "Stats",
    "UsageError",
    "Video",
    "__version__",
    "convert",
    "load",
    "open_bundle",
    "plan",
]

_HOMES = {
    "Answer": "answer",
    "AnswerStream": "decoding.answer_stream",
    "AskOptions": "options",
    "BackendError": "errors",
    "Bundle": "bundle.manifest",
    "BundleError": "errors",
    "Chat": "chat",
    "CheckpointError": "errors",
    "Choice": "answer",
    "ContextFullError": "errors",
    "EdgeInterleaveError": "errors",
    "Frame": "media.frame",
    "Image": "prompt.messages",
    "InputError": "errors",
    "Live": "live.live",
    "MediaError": "errors",
    "Message": "prompt.messages",
    "Model": "model",
    "Plan": "planning.plan",
    "QuestionProgress": "util.progress",
    "ResourceError": "errors",
    "Rule": "alerts.rule",
    "SamplingOptions": "decoding.sampling",
    "Stats": "answer",
    "UsageError": "errors",
    "Video": "prompt.messages",
    "convert": "converters.convert",
    "load": "model",
    "open_bundle": "bundle.manifest",
    "plan": "planning.planner",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("edge-interleave")
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
