"""Detects damaged frames of a live video stream from FFmpeg's flags of packets and frames.

After a lost packet, a decoder continues with the data that it has and shows grey areas and smears. Demuxers and
decoders flag only some of these frames, and never those that refer to a damaged one.
"""

from __future__ import annotations

KEYLESS_S = 60.0
"""A stream without a key frame for this long uses intra refresh: frames without errors count as whole again."""
_REMEMBERED = 64
"""More packets than a decoder may delay: up to 16 frames in H.264 and H.265, of up to two fields each."""


class DamageGate:
    """Separates whole frames from those that depend on lost data.

    A whole key frame starts a run of whole frames, which ends at the next lost packet or decoding error. Demuxers may
    flag the packet before or after the damaged one (parsers delay packets by one), so both neighbours count as
    damaged. A packet without a time stamp, in a stream that has them, has lost its start.
    """

    def __init__(self) -> None:
        self._broken = True
        self._whole = False
        self._stamped = False
        self._before_corrupt = False
        self._packets: dict[int, bool] = {}
        self._waits_since: float | None = None

    def packet(self, pts: int | None, *, key: bool, corrupt: bool, next_corrupt: bool) -> None:
        """Record a packet's flags; call in decoding order. `pts`: the time stamp, in any unit."""
        if corrupt or next_corrupt or (self._stamped and pts is None):
            self._broken = True
        elif key and not self._before_corrupt:
            self._broken = False
        self._before_corrupt = corrupt
        if pts is not None:
            self._stamped = True
            self._packets[pts] = self._broken
            if len(self._packets) > _REMEMBERED:
                del self._packets[next(iter(self._packets))]

    def failed(self) -> None:
        """Record that the last packet could not be decoded."""
        self._broken, self._whole = True, False

    def frame(self, pts: int | None, time_s: float, *, key: bool, corrupt: bool) -> bool:
        """Whether a decoded frame is whole. `time_s`: its time in the stream, in seconds."""
        missing = self._broken if not self._stamped else pts is None or self._packets.get(pts, self._broken)
        if corrupt or missing:
            self._whole = False
        elif key:
            self._whole = True
        if self._whole:
            self._waits_since = None
            return True
        if self._waits_since is None or time_s < self._waits_since:
            self._waits_since = time_s
        if time_s - self._waits_since >= KEYLESS_S and not corrupt:
            self._broken, self._whole, self._waits_since = False, True, None
            self._packets.clear()
        return self._whole
