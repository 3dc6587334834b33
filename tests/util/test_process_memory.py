"""The memory of this process."""

from edge_interleave.util.process_memory import peak_memory_bytes

MB = 1_000_000


def test_the_peak_grows_with_what_this_process_holds() -> None:
    before = peak_memory_bytes()
    assert len(bytes(b"x" * (before + 50 * MB))) > 0
    assert peak_memory_bytes() >= before + 40 * MB
