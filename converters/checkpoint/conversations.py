"""The conversation templates of the original LLaVA-NeXT code (llava/conversation.py), by its names.

Checkpoints of the original layout have no template that handles images; their code names one of these. They take plain
text, with a newline after each image marker. The beginning-of-text token is the tokenizer's.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from edge_interleave.converters.checkpoint.config import ModelConfig
from edge_interleave.prompt.template import QWEN_1_5_TEMPLATE

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_LLAMA_3_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

CONVERSATIONS = {
    "qwen_1_5": QWEN_1_5_TEMPLATE,
    "chatml_direct": (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nAnswer the questions.<|im_end|>' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "vicuna_v1": (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
        f'{{% else %}}{{{{ "{_VICUNA_SYSTEM} " }}}}{{% endif %}}'
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "mistral_instruct": (
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' }}"
        "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}"
        "{{ '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' }}{% endif %}"
        "{{ message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' </s>' }}{% endif %}"
        "{% endfor %}"
    ),
    "llava_llama_3": (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        f"{{{{ '<|start_header_id|>system<|end_header_id|>\\n\\n{_LLAMA_3_SYSTEM}<|eot_id|>' }}}}"
        "{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim "
        "+ '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
}
"""Name to Jinja source. A system message of the user's replaces the template's own."""


def conversation_name(config: ModelConfig, tokenizer: Tokenizer, *, has_template: bool) -> str | None:
    """The conversation of a checkpoint whose files have no template that handles images; None if none is known.

    `has_template`: whether the tokenizer has a template for text, which an original checkpoint of a plain Llama may
    have been trained with.
    """
    if tokenizer.token_to_id("<|im_start|>") is not None:
        # LLaVA-NeXT with Yi-34B: ChatML without newlines between turns, and a Llama decoder.
        return "chatml_direct" if config.layout == "original" and config.decoder.type == "llama" else "qwen_1_5"
    if config.layout != "original":
        return None
    if tokenizer.token_to_id("<|start_header_id|>") is not None:
        return "llava_llama_3"
    if config.mistral:
        return "mistral_instruct"
    return None if has_template else "vicuna_v1"
