"""Converts text to token ids and back, with a bundle's `tokenizer.json`.

Two kinds of tokens are added, in memory only:

- the image marker, if the vocabulary has none (original LLaVA-NeXT checkpoints), so that it splits the text as the
  original code does;
- a stand-in for each special token: one private-use character. `shield` puts stand-ins into text that a user or a
  model wrote, so that `<|im_end|>` in a question stays ten characters of text and never becomes a control token.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from edge_interleave.bundle.manifest import TOKENIZER_NAME, Bundle
from edge_interleave.errors import BundleError, one_line
from edge_interleave.prompt.tokenizer_check import check_tokenizer
from edge_interleave.util.utf8_path import utf8_text

IMAGE = -1
"""An image marker among token ids."""
FILE_BYTES_MAX = 64 << 20
STAND_INS_FROM = 0xF0000
STAND_INS_MAX = 0xFFFD
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A byte token as SentencePiece writes it."""


class TextTokenizer:
    """A tokenizer for prompts and answers."""

    def __init__(self, path: Path, image_token: str, vocab_size: int, video_token: str | None = None) -> None:
        """Read a `tokenizer.json`. Raises BundleError if it is damaged or has ids past the decoder's vocabulary."""
        self._path = path
        self._tokenizer = _read(path)
        self._plain = _read(path)  # recognises no special tokens
        self._plain.encode_special_tokens = True
        if self._tokenizer.get_vocab_size() > vocab_size:
            raise BundleError(
                f"{path}: {self._tokenizer.get_vocab_size()} tokens, but the decoder has {vocab_size}; convert again"
            )
        added = self._tokenizer.get_added_tokens_decoder().values()
        markers = {image_token} if video_token is None else {image_token, video_token}
        specials = sorted({token.content for token in added if token.special and token.content} | markers)
        if len(specials) > STAND_INS_MAX:
            raise BundleError(f"{path}: {len(specials)} special tokens, more than {STAND_INS_MAX}; convert again")
        stand_ins = {special: chr(STAND_INS_FROM + index) for index, special in enumerate(specials)}
        if image_token not in {token.content for token in added}:
            self._tokenizer.add_special_tokens([AddedToken(image_token, normalized=False)])
        self._tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in stand_ins.values()])
        self._stand_ins = stand_ins
        self._specials = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))
        self._image_id = self._tokenizer.token_to_id(image_token)
        self._originals = {self._tokenizer.token_to_id(text): special for special, text in stand_ins.items()}

    @classmethod
    def open(cls, bundle: Bundle) -> TextTokenizer:
        """The tokenizer of a bundle. Raises BundleError."""
        manifest = bundle.manifest
        info = manifest.prompt
        return cls(bundle.file(TOKENIZER_NAME), info.image_token, manifest.decoder.vocab_size, info.video_token)

    def shield(self, text: str) -> str:
        """The text with stand-ins for its special tokens, so that `encode` reads them as ordinary text."""
        return self._specials.sub(lambda match: self._stand_ins[match[0]], text)

    def encode(self, text: str) -> list[int]:
        """Token ids of text with special tokens. An image marker becomes IMAGE; nothing is added at the ends."""
        ids: list[int] = []
        for token in self._encoded(self._tokenizer, text):
            if token == self._image_id:
                ids.append(IMAGE)
            elif token in self._originals:
                ids += self.encode_plain(self._originals[token])
            else:
                ids.append(token)
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of text; special tokens are read as ordinary text."""
        return self._encoded(self._plain, text)

    def _encoded(self, tokenizer: Tokenizer, text: str) -> list[int]:
        try:
            # Arguments that are not UTF-8 contain lone surrogates, which no tokenizer accepts.
            return list(tokenizer.encode(utf8_text(text), add_special_tokens=False).ids)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the library's Rust code is not an Exception
            reason = one_line(error)
            raise BundleError(
                f"{self._path}: the tokenizer fails ({reason}); convert or pull the model again"
            ) from error

    def json(self) -> str:
        """The tokenizer as the text of a `tokenizer.json`, without the marker and stand-ins added in memory."""
        return str(self._plain.to_str())

    def token_id(self, token: str) -> int | None:
        """The id of a token; None if the vocabulary lacks it."""
        return self._plain.token_to_id(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._plain.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A new incremental decoder."""
        return TextStream(self._plain)


class TextStream:
    """Decodes ids one at a time, and holds back bytes until they form whole characters.

    Bytes that cannot form a character become U+FFFD as soon as that is certain. No sequence of ids makes it raise.
    (`tokenizers.DecodeStream` can raise: a byte-fallback decoder replaces all bytes of a run if one is wrong, which
    changes text that was already returned.)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: list[int] = []
        """The tokens of the last returned text. The next text can depend on them (a leading space)."""
        self._held: list[int] = []
        """Later tokens, whose text ends inside a character."""

    def push(self, token: int) -> str:
        """The text that this token completes; empty if it ends inside a character or is special."""
        spelt = self._tokenizer.id_to_token(token)
        if spelt is None or token in self._special:
            return ""
        byte = _BYTE_TOKEN.fullmatch(spelt)
        alone = "" if byte is None else self._decoded([token])
        if byte is not None and alone != byte[0]:
            text = self._flush_held() + self._bytes.decode(bytes([int(byte[1], 16)]))
            stripped = not self._before and not alone  # the answer's leading space
            self._before = [token]
            return "" if stripped else text
        broken = self._bytes.decode(b"", final=True)
        self._held.append(token)
        text = self._text_of_held()
        return broken if text.endswith("\ufffd") else broken + self._release(text)

    def rest(self) -> str:
        """The text still held back after the last token; U+FFFD for bytes that form no character."""
        return self._flush_held() + self._bytes.decode(b"", final=True)

    def _flush_held(self) -> str:
        return self._release(self._text_of_held()) if self._held else ""

    def _text_of_held(self) -> str:
        return self._decoded([*self._before, *self._held])[len(self._decoded(self._before)) :]

    def _release(self, text: str) -> str:
        self._before = self._held if text else [*self._before, *self._held]
        self._held = []
        return text

    def _decoded(self, ids: Sequence[int]) -> str:
        try:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic in the library's Rust code is not an Exception
            return ""


def _read(path: Path) -> Tokenizer:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BundleError(f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB, not a tokenizer; convert again")
        content = path.read_bytes()
        check_tokenizer(content)
        tokenizer = Tokenizer.from_buffer(content)
    except BundleError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        reason = one_line(error)
        raise BundleError(f"{path}: not a tokenizer ({reason}); convert or pull the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
