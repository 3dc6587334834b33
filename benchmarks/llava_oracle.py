"""The oracle: a LLaVA checkpoint in transformers, in fp32. Needs the `oracle` extra.

Processor, chat template and generation config are the checkpoint's. transformers has no pooling: at a stride above 1,
PyTorch's avg_pool2d pools the projector's output, and the decoder gets it as embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OracleAnswer:
    """A greedy answer."""

    text: str
    prompt_tokens: int
    logits: FloatArray = field(repr=False)
    """Logits after the prompt's last token, (vocabulary,)."""


class Oracle:
    """LlavaForConditionalGeneration of a checkpoint folder, with its processor."""

    def __init__(self, checkpoint: Path) -> None:
        transformers.logging.disable_progress_bar()
        model = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        self.model = model.eval()
        self.processor = transformers.AutoProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def features(self, image: Image.Image) -> FloatArray:
        """Visual tokens of one picture, float32 (tokens, hidden)."""
        pixels = self.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        return np.asarray(self._project(pixels)[0].numpy())

    @torch.no_grad()
    def answer(self, images: Sequence[Image.Image], question: str, stride: int, max_tokens: int) -> OracleAnswer:
        """The greedy answer to pictures followed by a question."""
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = (
            self.processor(text=text, images=list(images), return_tensors="pt")
            if stride == 1
            else self._pooled_inputs(text, images, stride)
        )
        out = self.model.generate(
            **inputs, do_sample=False, max_new_tokens=max_tokens, output_logits=True, return_dict_in_generate=True
        )
        length = inputs["attention_mask"].shape[1]
        # For a prompt of embeddings, generate returns the new tokens only.
        new = out.sequences[0, length if "input_ids" in inputs else 0 :]
        said = self.processor.tokenizer.decode(new, skip_special_tokens=True)
        return OracleAnswer(said, length, out.logits[0][0].numpy())

    def _project(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (n, 3, side, side) to visual tokens (n, tokens, hidden)."""
        features = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return torch.stack(list(features))

    def _pooled_inputs(self, text: str, images: Sequence[Image.Image], stride: int) -> dict[str, torch.Tensor]:
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        visual = self._project(pixels)
        side = round(visual.shape[1] ** 0.5)
        grid = visual.permute(0, 2, 1).unflatten(2, (side, side))
        rows = torch.nn.functional.avg_pool2d(grid, stride).flatten(2).permute(0, 2, 1)
        token = self.processor.image_token
        ids = self.processor.tokenizer(text.replace(token, token * rows.shape[1]), return_tensors="pt")["input_ids"]
        is_image = (ids == self.model.config.image_token_id)[..., None]
        embeddings = self.model.get_input_embeddings()(ids).masked_scatter(is_image, rows)
        return {"inputs_embeds": embeddings, "attention_mask": torch.ones_like(ids)}
