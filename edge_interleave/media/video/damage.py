"""Which frames of a live video stream are whole, by what FFmpeg says of its packets and frames.

Behind a lost packet a decoder goes on with what it has: grey areas, smears. Demuxers and decoders flag that in part,
and a frame that builds on a damaged one is not flagged at all. Imports no decoder.
"""

from __future__ import annotations

KEYLESS_S = 60.0
"""A stream without a key frame for so long has none (intra refresh): frames without errors count as whole again."""
_REMEMBERED = 64
"""Packets a decoder may hold back: the H.264 and H.265 limit is 16 frames, and each may be two fields."""


class DamageGate:
    """Tells whole frames from frames that build on lost data.

    A frame is whole behind a whole key frame, up to the next lost packet or decoding error. Demuxers may flag the
    packet before or behind the damaged one (parsers delay packets by one), so the neighbours count as damaged too; and
    a packet without a time stamp, in a stream that has them, lost its beginning.
    """

    def __init__(self) -> None:
        self._broken = True
        self._whole = False
        self._stamped = False
        self._before_corrupt = False
        self._packets: dict[int, bool] = {}
        self._waits_since: float | None = None

    def packet(self, pts: int | None, *, key: bool, corrupt: bool, next_corrupt: bool) -> None:
        """Take a packet's flags, in the order of decoding. `pts`: its time stamp, any unit."""
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
        """The packet could not be decoded."""
        self._broken, self._whole = True, False

    def frame(self, pts: int | None, time_s: float, *, key: bool, corrupt: bool) -> bool:
        """Whether a decoded frame is whole. `time_s`: its time in the stream."""
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
