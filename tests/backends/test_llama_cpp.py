"""The llama.cpp backend's own parts: its file, its log, its weights."""

from pathlib import Path

import pytest
from support.tiny import change_manifest, tiny_bundle

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import BundleError


class TestDamagedGguf:
    """Damaged files: one line, no crash. The manifest has the right size, so that the backend reads the file."""

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        return tiny_bundle(tmp_path / "bundle")

    @staticmethod
    def rewrite(bundle: Bundle, data: bytes) -> Bundle:
        (bundle.folder / "decoder.gguf").write_bytes(data)
        info = bundle.manifest.files["decoder.gguf"]
        change_manifest(bundle.folder, "files", **{"decoder.gguf": {"bytes": len(data), "sha256": info.sha256}})
        return open_bundle(bundle.folder)

    @pytest.mark.parametrize("keep", [0, 3, 10, 500, 5000, -1000])
    def test_cut_off(self, bundle: Bundle, keep: int) -> None:
        data = (bundle.folder / "decoder.gguf").read_bytes()
        cut = self.rewrite(bundle, data[:keep])
        with pytest.raises(BundleError) as caught:
            find_backend("llama-cpp").open(cut, DecoderOptions())
        assert "decoder.gguf" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_not_a_gguf(self, bundle: Bundle) -> None:
        other = self.rewrite(bundle, b"PK\x03\x04" + bytes(1000))
        with pytest.raises(BundleError, match="magic"):
            find_backend("llama-cpp").open(other, DecoderOptions())

    @pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "layers"])
    def test_of_another_model_than_the_manifest_says(self, bundle: Bundle, field: str) -> None:
        change_manifest(bundle.folder, "decoder", **{field: 17})
        with pytest.raises(BundleError, match="17"):
            find_backend("llama-cpp").open(open_bundle(bundle.folder), DecoderOptions())

    def test_nothing_is_printed(self, bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
        find_backend("llama-cpp").open(bundle, DecoderOptions()).close()
        cut = self.rewrite(bundle, (bundle.folder / "decoder.gguf").read_bytes()[:900])
        with pytest.raises(BundleError):
            find_backend("llama-cpp").open(cut, DecoderOptions())
        assert capfd.readouterr() == ("", "")


def test_weights_are_loaded_once_and_freed_with_the_last_decoder(tiny: Bundle) -> None:
    from edge_interleave.backends.llama_cpp import weights as weights
    from edge_interleave.backends.llama_cpp.decoder import BACKEND

    before = len(weights._shared)
    first = BACKEND.open(tiny, DecoderOptions(context=64))
    second = BACKEND.open(tiny, DecoderOptions(context=64))
    assert len(weights._shared) == before + 1
    first.close()
    assert len(weights._shared) == before + 1
    second.close()
    assert len(weights._shared) == before
