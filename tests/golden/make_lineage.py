"""Writes lineage.npz: transformers' answers to the prompts of support/lineage.py, with the same random weights.

Run in the tests folder: PYTHONPATH=../benchmarks:. python -m golden.make_lineage
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


class Oracle:
    """A family's model class of transformers with its image processor, in float32."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.logging.disable_progress_bar()
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        self.images = transformers.AutoImageProcessor.from_pretrained(checkpoint)
        self.onevision = self.model.config.model_type == "llava_onevision"
        # The tiny vocabulary of LLaVA-OneVision has no video token, so the end of the vocabulary stands for it.
        if self.onevision:
            self.model.config.video_token_id = self.model.config.text_config.vocab_size - 1

    def answer(
        self, question: str, images: list[Any], video: list[Any], template: str, steps: int
    ) -> tuple[np.ndarray, list[int], list[int], np.ndarray]:
        """Visual tokens (tokens, hidden), prompt ids, the greedy answer's ids, and the first logits.

        In the ids, `<image>` stands for each visual token, in videos too.
        """
        import torch

        inputs, features = self._images(images) if images else ({}, [])
        count = sum(map(len, features))
        if video:
            of_video = self._video(video)
            inputs, features = {**inputs, **of_video[0]}, [*features, *of_video[1]]
        kinds = ["image"] * len(images) + ["video"] * bool(video)
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
        if self.onevision:
            content = [{**part, "type": part["type"].replace("video", "image")} for part in content]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
        )
        pieces = re.split("<image>|<video>", text)
        expanded = "".join(piece + "<image>" * len(rows) for piece, rows in zip(pieces, [*features, ()], strict=True))
        ids = self.tokenizer(expanded, return_tensors="pt")["input_ids"]
        given = ids.clone()
        places = (ids[0] == self.model.config.image_token_id).nonzero()[count:, 0]
        if video:
            given[0, places] = self.model.config.video_token_id
        with torch.no_grad():
            out = self.model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(ids),
                **inputs,
                do_sample=False,
                max_new_tokens=steps,
                output_logits=True,
                return_dict_in_generate=True,
            )
        answer = out.sequences[0, ids.shape[1] :].tolist()
        return torch.cat(list(features)).numpy(), ids[0].tolist(), answer, out.logits[0][0].numpy()

    def _images(self, images: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        import torch

        inputs = dict(self.images(images=[images], return_tensors="pt"))
        with torch.no_grad():
            return inputs, list(self.model.model.get_image_features(**inputs).pooler_output)

    def _video(self, frames: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """The video processor needs torchvision.

        LLaVA-OneVision's resizes each frame to the square, LLaVA-NeXT-Video's crops the centre.
        """
        import torch
        from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

        like = self.images
        kept = {"size": dict(like.size), "image_mean": like.image_mean, "image_std": like.image_std}
        if self.onevision:
            make = SiglipImageProcessorPil(**kept)
        else:
            make = CLIPImageProcessorPil(**kept, crop_size=dict(like.crop_size))
        pixels = torch.from_numpy(np.stack(make(images=frames, return_tensors="np")["pixel_values"]))[None]
        with torch.no_grad():
            features = self.model.model.get_video_features(pixels).pooler_output
        return {"pixel_values_videos": pixels}, [features.flatten(0, 1)]


def main() -> None:
    from support.lineage import CASES, GOLDEN, KINDS, STEPS, has_case, pictures, write_kind

    golden = {}
    types = {"features": np.float16, "prompt": np.int32, "answer": np.int32, "logits": np.float32}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            oracle = Oracle(write_kind(Path(folder) / kind, kind))
            for name, case in CASES.items():
                if not has_case(kind, name):
                    continue
                images, video = pictures(case)
                made = oracle.answer(case.question, images, video, KINDS[kind].template, STEPS)
                for what, value in zip(("features", "prompt", "answer", "logits"), made, strict=True):
                    array = np.asarray(value)
                    golden[f"{kind}/{name}/{what}"] = array.astype(types[what])
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
