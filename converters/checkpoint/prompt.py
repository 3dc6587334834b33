"""The manifest's facts about prompts: chat template, image token, tokens at the beginning and end."""

from __future__ import annotations

from edge_interleave.bundle.manifest import PromptInfo
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles
from edge_interleave.errors import BundleError, CheckpointError, UsageError
from edge_interleave.prompt.template import ChatTemplate


def prompt_info(checkpoint: Checkpoint, files: TokenizerFiles) -> PromptInfo:
    """The manifest's facts about prompts. Raises CheckpointError if the chat template is missing or invalid."""
    template = files.prompt_template
    if template is None:
        raise CheckpointError(
            f"{checkpoint.folder}: no chat template; save the model's template in this folder as chat_template.jinja"
        )
    try:
        ChatTemplate(template)
    except BundleError as error:
        said = str(error).removesuffix("; convert again")
        raise CheckpointError(f"{checkpoint.folder}: {said}; download the checkpoint again") from error
    return PromptInfo(
        chat_template=template,
        image_token=files.image_token,
        bos_token=files.bos_token if files.adds_bos else None,
        eos_token=files.eos_token,
        eos_token_ids=files.eos_token_ids,
        video_token=_video_token(checkpoint, files, template),
    )


def _video_token(checkpoint: Checkpoint, files: TokenizerFiles, template: str) -> str | None:
    """The video marker, if the family has one and the template renders a video as one marker."""
    number = checkpoint.config.video_token_id
    token = None if number is None else files.tokenizer.id_to_token(number)
    if token is None:
        return None
    probe = "probe-of-the-template"
    parts = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": probe}]
    try:
        shown = ChatTemplate(template, bos_token=files.bos_token, eos_token=files.eos_token).render(
            [{"role": "user", "content": parts}]
        )
    except (BundleError, UsageError):
        return None
    places = [shown.find(text) for text in (files.image_token, token, probe)]
    return token if -1 not in places and places == sorted(places) and shown.count(token) == 1 else None
