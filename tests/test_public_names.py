"""The names that `import edge_interleave` gives: all there, and none imported before it is used."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from support.paths import ROOT

import edge_interleave as ei
from edge_interleave import errors


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, edge_interleave as ei; "
        "heavy = {'numpy', 'onnxruntime', 'cv2', 'llama_cpp', 'jinja2', 'tokenizers', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy; ei.load; ei.Image; dir(ei); "
        "heavy = {'onnxruntime', 'cv2', 'llama_cpp', 'huggingface_hub'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "tests")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such"):
        _ = ei.no_such


@pytest.mark.parametrize("name", ei.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(ei, name) is not None
    assert name in dir(ei)


def test_every_error_a_user_can_meet_is_public() -> None:
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert raised <= set(ei.__all__)


def test_the_version_is_the_installed_one() -> None:
    assert ei.__version__ == version("edge-interleave")
