"""Reads code blocks from the repository's Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")],
    key=lambda path: path.as_posix(),
)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of its first line of code, counted from 1."""
    reason: str
    """Why it is not run; empty for a block that is."""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A comment `<!-- not run: reason -->` before a block excludes it."""
    text = page.read_text("utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        mark = match["mark"] or ""
        reason = mark.removeprefix("not run: ") if mark.startswith("not run: ") else ""
        if mark == "test command":
            reason = "CI runs it"
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(match["language"], match["text"], line, reason))
    return found


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()
