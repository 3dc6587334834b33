"""What a bundle says about prompts: chat template, image token, the tokens that begin and end. Renders nothing."""

from __future__ import annotations

from edge_interleave.bundle import PromptInfo
from edge_interleave.chat_template import QWEN_1_5_TEMPLATE, ChatTemplate
from edge_interleave.errors import BundleError, CheckpointError

from .checkpoint import Checkpoint
from .tokenizer_files import TokenizerFiles


def prompt_info(checkpoint: Checkpoint, files: TokenizerFiles) -> PromptInfo:
    """The manifest's facts about prompts. Raises CheckpointError where there is no sound chat template."""
    template = _chat_template(checkpoint, files)
    try:
        ChatTemplate(template)
    except BundleError as error:
        said = str(error).removesuffix("; convert again")
        raise CheckpointError(f"{checkpoint.folder}: {said}; download the checkpoint again") from error
    ends = files.eos_token_ids
    turn = files.tokenizer.token_to_id("<|im_end|>")
    if turn is not None and "<|im_end|>" in template:
        ends = tuple(dict.fromkeys((*ends, turn)))
    return PromptInfo(
        chat_template=template,
        image_token=files.image_token,
        bos_token=files.bos_token if files.adds_bos else None,
        eos_token=files.eos_token,
        eos_token_ids=ends,
    )


def _chat_template(checkpoint: Checkpoint, files: TokenizerFiles) -> str:
    """The processor's template; of the tokenizer's, only one that knows images, as a text model's does not.

    Where there is none, Qwen models get the prompt that LLaVA-NeXT-Interleave was evaluated with.
    """
    if files.processor_template is not None:
        return files.processor_template
    if files.text_template is not None and "image" in files.text_template:
        return files.text_template
    if files.tokenizer.token_to_id("<|im_start|>") is not None:
        return QWEN_1_5_TEMPLATE
    if files.text_template is not None:
        return files.text_template
    raise CheckpointError(
        f"{checkpoint.folder}: no chat template; put the model's as chat_template.jinja into the folder"
    )
