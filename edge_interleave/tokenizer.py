"""Text to token ids and back, by a bundle's `tokenizer.json`. Knows nothing about messages or templates.

Two things are added to the tokenizer, in memory only:

- the image marker, where the vocabulary has none (original LLaVA-NeXT checkpoints): it then splits the text as the
  original code does;
- a stand-in for every special token, one private-use character each. `shield` puts them into text that a user or a
  model wrote, so that a `<|im_end|>` in a question stays seven characters of text and never becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import DecodeStream

from .bundle import TOKENIZER_NAME, Bundle
from .errors import BundleError
from .tokenizer_check import check_tokenizer

IMAGE = -1
"""Stands for an image marker among token ids."""
FILE_BYTES_MAX = 64 << 20
STAND_INS_FROM = 0xF0000
STAND_INS_MAX = 0xFFFD


class TextTokenizer:
    """A tokenizer for prompts and answers."""

    def __init__(self, path: Path, image_token: str, vocab_size: int) -> None:
        """Read a `tokenizer.json`. Raises BundleError where it is not one or has ids past the decoder's vocabulary."""
        self._path = path
        self._tokenizer = _read(path)
        self._plain = _read(path)  # recognises no special tokens
        self._plain.encode_special_tokens = True
        if self._tokenizer.get_vocab_size() > vocab_size:
            raise BundleError(
                f"{path}: {self._tokenizer.get_vocab_size()} tokens, the decoder knows {vocab_size}; convert again"
            )
        added = self._tokenizer.get_added_tokens_decoder().values()
        specials = sorted({token.content for token in added if token.special and token.content} | {image_token})
        if len(specials) > STAND_INS_MAX:
            raise BundleError(f"{path}: {len(specials)} special tokens are more than a tokenizer has; convert again")
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
        return cls(bundle.file(TOKENIZER_NAME), manifest.prompt.image_token, manifest.decoder.vocab_size)

    def shield(self, text: str) -> str:
        """The text with its special tokens replaced by stand-ins, which `encode` takes for ordinary text."""
        return self._specials.sub(lambda match: self._stand_ins[match[0]], text)

    def encode(self, text: str) -> list[int]:
        """Token ids, special tokens recognised, nothing put before or after; an image marker gives IMAGE."""
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
        """Token ids of text in which nothing is special."""
        return self._encoded(self._plain, text)

    def _encoded(self, tokenizer: Tokenizer, text: str) -> list[int]:
        try:
            return list(tokenizer.encode(_unicode(text), add_special_tokens=False).ids)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            reason = " ".join(str(error).split())[:200]
            raise BundleError(
                f"{self._path}: the tokenizer fails ({reason}); convert or pull the model again"
            ) from error

    def token_id(self, token: str) -> int | None:
        """The id of a token of the vocabulary, None where it has no such token."""
        return self._plain.token_to_id(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self._plain.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A fresh incremental decoder."""
        return TextStream(self._plain)


class TextStream:
    """Turns ids into text one at a time, holding back bytes until they make whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that this token completes; empty where it ends inside a character or is special."""
        return self._stream.step(self._tokenizer, token) or ""


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
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: not a tokenizer ({reason}); convert or pull the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unicode(text: str) -> str:
    """The text without lone surrogates, which arguments that are no UTF-8 hold, and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
