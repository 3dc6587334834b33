"""Answering and converting import neither PyTorch nor transformers, although `import mlx_lm` would. Programs beside the
package import what it has."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import CHECKPOINT, ROOT

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


def test_benchmarks_and_examples_import_names_that_are_there() -> None:
    """Most of them are never run by the suite."""
    missing = []
    for path in (*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("edge_interleave"):
                continue
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    try:
                        importlib.import_module(f"{node.module}.{name.name}")
                    except ImportError:
                        missing.append(f"{path.name}: {node.module}.{name.name}")
    assert not missing
