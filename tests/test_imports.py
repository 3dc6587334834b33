"""Answering and converting import neither PyTorch nor transformers, although `import mlx_lm` would."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import CHECKPOINT

HEAVY = ("torch", "transformers", "tensorflow", "jax")
ANSWER = """
import edge_interleave as ei
with ei.load(backend={backend!r}) as model:
    model.ask("Hello?", max_tokens=2)
"""
CONVERT = """
from edge_interleave.converters.convert import convert
convert({checkpoint!r}, {out!r}, backends=[{backend!r}])
"""
TELL = f"""
import sys
print([name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize("code", [ANSWER, CONVERT], ids=["answering", "converting"])
def test_nothing_heavy_is_imported(backend: str, code: str, tmp_path: Path) -> None:
    script = code.format(backend=backend, checkpoint=str(CHECKPOINT), out=str(tmp_path / "bundle")) + TELL
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
