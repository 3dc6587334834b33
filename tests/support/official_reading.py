"""The official scores' rules, implemented a second time from the list in docs/guides/evaluation.md.

Slow and plain on purpose. Shares no code with `edge_interleave.evaluation`, nor with the package `rouge`.
"""

from __future__ import annotations

from collections.abc import Sequence

MARKS = ["@", "`", "!", "?", ",", ";", "/", "\\", "[", "]", "{", "}", "(", ")", '"', "=", "+", "-", "_", "<", ">"]


def normal(text: str) -> str:
    """Normalise an answer or a reference."""
    text = "".join(" " if character in "\n\t" else character for character in text).strip()
    commas_in_numbers = any(
        before.isdecimal() and comma == "," and after.isdecimal()
        for before, comma, after in zip(text, text[1:], text[2:], strict=False)
    )
    padded = f"x{text}x"
    kept = []
    for character in text:
        if character not in MARKS:
            kept.append(character)
            continue
        beside_a_space = any(
            padded[place] == character and " " in (padded[place - 1], padded[place + 1])
            for place in range(1, len(padded) - 1)
        )
        if not commas_in_numbers and not beside_a_space:
            kept.append(" ")
    left, removed = [], 0
    for place, character in enumerate(kept):
        next_is_digit = place + 1 < len(kept) and kept[place + 1].isdecimal()
        if character == "." and not next_is_digit and removed < 32:
            removed += 1
        else:
            left.append(character)
    made = "".join(left)
    for end in ("'", '"', ")", "("):
        while made[:1] == end:
            made = made[1:]
        while made[-1:] == end:
            made = made[:-1]
    return made.strip().lower()


def right_choice(prediction: str, reference: str) -> int:
    """1 or 0 for a multiple-choice answer."""
    said, wanted = normal(prediction), normal(reference)
    if said.count(":"):
        for between in said.split(":"):
            if between.strip() in list("abcdefgh"):
                said = between.strip()
    return int(said == wanted)


def rouge(prediction: str, reference: str) -> float | str | None:
    """ROUGE-L F: a number, None if the reference does not count, `fails` if the script would fail."""
    wanted, said = normal(reference), normal(prediction)
    if wanted == "":
        return None
    if said == "":
        return 0.0
    hypothesis, truth = _sentences(said[:512]), _sentences(wanted)
    if not hypothesis or not truth:
        return "fails"
    common: set[str] = set()
    for sentence in truth:
        for other in hypothesis:
            common |= set(_longest_common(sentence, other))
    words_said = {word for sentence in hypothesis for word in sentence}
    words_wanted = {word for sentence in truth for word in sentence}
    precision, recall = len(common) / len(words_said), len(common) / len(words_wanted)
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    """Words between periods; two periods with only white space between them have one empty word between them."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _longest_common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """One longest common subsequence, traced from the ends: common words first, then the shorter second text."""
    longest = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row, word in enumerate(first, 1):
        for column, other in enumerate(second, 1):
            longest[row][column] = (
                longest[row - 1][column - 1] + 1
                if word == other
                else max(longest[row - 1][column], longest[row][column - 1])
            )
    row, column, words = len(first), len(second), []
    while row and column:
        if first[row - 1] == second[column - 1]:
            words.append(first[row - 1])
            row, column = row - 1, column - 1
        elif longest[row][column - 1] >= longest[row - 1][column]:
            column -= 1
        else:
            row -= 1
    return words
