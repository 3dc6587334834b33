"""Names of MQTT topics. SOURCE, RULE and ASK are names of the settings; PREFIX is `edge-interleave`, if not set.

PREFIX/status                  online or offline: whether the program is connected (retained, last will)
PREFIX/SOURCE/availability     online or offline: whether the source delivers frames (retained)
PREFIX/SOURCE/paused           ON or OFF (retained);                  PREFIX/SOURCE/paused/set: a command, ON or OFF
PREFIX/SOURCE/RULE/state       ON or OFF; None while it is paused (retained)
PREFIX/SOURCE/RULE/attributes  the last check, JSON (retained)
PREFIX/SOURCE/RULE/snapshot    the last alert's best picture, JPEG (retained)
PREFIX/SOURCE/RULE/alert       each alert, JSON with an id (not retained)
PREFIX/SOURCE/ASK/answer       the last answer, JSON (retained)
PREFIX/SOURCE/.../question     the question (retained);               .../question/set: a command, another question
"""

from __future__ import annotations

from dataclasses import dataclass

SET = "/set"


@dataclass(frozen=True)
class Topics:
    """The topics below one prefix."""

    prefix: str

    @property
    def status(self) -> str:
        """Whether the program is connected."""
        return f"{self.prefix}/status"

    @property
    def commands(self) -> tuple[str, ...]:
        """Patterns of all commands' topics."""
        return f"{self.prefix}/+/paused{SET}", f"{self.prefix}/+/+/question{SET}"

    def source(self, source: str, part: str) -> str:
        """A topic of a source: availability or paused."""
        return f"{self.prefix}/{source}/{part}"

    def rule(self, source: str, rule: str, part: str) -> str:
        """A topic of a rule or question: state, attributes, snapshot, alert, answer, question."""
        return f"{self.prefix}/{source}/{rule}/{part}"
