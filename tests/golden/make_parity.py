"""Writes parity.npz: transformers' answers to the prompts of test_parity.py, with the same random weights.

Run in the tests folder: PYTHONPATH=../benchmarks python -m golden.make_parity
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np


class Oracle:
    """LlavaForConditionalGeneration and its processor, in float32."""

    def __init__(self, checkpoint: Path, *, patch_size: int, clip: bool) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.logging.disable_progress_bar()
        self.model = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None
        self.processor = transformers.AutoProcessor.from_pretrained(checkpoint)
        # The released checkpoints' processor_config.json names these.
        self.processor.patch_size = patch_size
        self.processor.vision_feature_select_strategy = "default" if clip else "full"
        self.processor.num_additional_image_tokens = int(clip)

    def answer(self, prompt: str, images: list[Any], tokens: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Prompt ids, the greedy answer's ids (past any end token), and each step's logits (tokens, vocabulary)."""
        import torch

        inputs = self.processor(text=prompt, images=images or None, return_tensors="pt")
        with torch.no_grad():
            out = self.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=tokens,
                output_logits=True,
                return_dict_in_generate=True,
            )
        length = inputs["input_ids"].shape[1]
        logits = torch.cat(out.logits).numpy()
        return inputs["input_ids"][0].tolist(), out.sequences[0, length:].numpy(), logits

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The prompt's text by the processor's chat template."""
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def main() -> None:
    from test_parity import CASES, GOLDEN, KINDS, hf_messages, pictures, write_kind

    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, name in enumerate(KINDS):
            oracle = Oracle(
                write_kind(Path(folder) / name, name), patch_size=KINDS[name].patch_size, clip="clip" in name
            )
            for index, case in enumerate(CASES):
                prompt = oracle.render(hf_messages(case))
                ids, answer, logits = oracle.answer(prompt, pictures(case), 16)
                golden[f"{kind}-{index}-prompt"] = np.array(ids, np.int32)
                golden[f"{kind}-{index}-answer"] = answer.astype(np.int32)
                golden[f"{kind}-{index}-logits"] = logits[0].astype(np.float32)
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
