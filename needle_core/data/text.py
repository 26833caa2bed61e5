"""Text for language models: vocabularies, corpora, and the two ways of cutting a stream of tokens into batches.

    corpus = Corpus.of(standard_library(1_000_000))
    DataLoader(corpus.train.columns(32), batch_size=64)                # for recurrent networks: side by side, in order
    DataLoader(corpus.train.windows(64), batch_size=32, shuffle=True)  # for transformers: pieces from anywhere

A loader's batches of either are inputs and targets, which are the inputs one token later.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.data.dataset import ArrayDataset
from needle_core.data.files import mismatch
from needle_core.errors import ArgumentError, BoundsError, DataError, DtypeError, brief

Tokens: TypeAlias = npt.NDArray[np.int64]
Unit: TypeAlias = Literal["characters", "words"]

EOS: Final = "<eos>"
"""The word for the end of a line."""


class Vocabulary:
    """Tokens and their numbers 0, 1, 2, ... in the order in which they first appear in `text`, or in a list of tokens.

    A token is a character, or for the unit "words" what stands between spaces, with "<eos>" for the end of a line. Given a
    `limit`, only so many tokens are known, the most frequent ones. `unknown`, such as "<unk>", stands for all others; without
    it they are an error. `tokens` are all of them by number: `Vocabulary(v.tokens, unit=v.unit, unknown=v.unknown)` is like v.
    """

    def __init__(
        self, text: str | Iterable[str], *, unit: Unit = "characters", unknown: str | None = None, limit: int | None = None
    ) -> None:
        tokens = _split(text, unit) if isinstance(text, str) else list(text)
        if limit is not None:
            if limit < 1 or unknown is None:
                raise ArgumentError(f"a limit of {limit} tokens needs to be positive, and a token for those unknown")
            known = {token for token, _ in Counter(tokens).most_common(limit)}
            tokens = [token for token in tokens if token in known]
        self.unit, self.unknown = unit, unknown
        self.tokens = tuple(dict.fromkeys([*tokens, *([] if unknown is None else [unknown])]))
        self._numbers = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def encode(self, text: str | Sequence[str]) -> Tokens:
        """The numbers of the tokens of `text`, or of a list of tokens: int64[n].

        Raises:   DataError for one that is not in the vocabulary, if there is none for unknown ones
        """
        tokens = _split(text, self.unit) if isinstance(text, str) else text
        other = -1 if self.unknown is None else self._numbers[self.unknown]
        numbers = np.fromiter((self._numbers.get(token, other) for token in tokens), np.int64, len(tokens))
        if self.unknown is None and (missing := np.flatnonzero(numbers < 0)).size:
            first = int(missing[0])
            details = {"place": f"after {first} tokens", "unknown": f"{missing.size} of {len(tokens)} tokens"}
            hint = 'Vocabulary(..., unknown="<unk>") has a token for all others'
            raise DataError(f"{tokens[first]!r} is not in the vocabulary of {self._size()}", details=details, hint=hint)
        return numbers

    def decode(self, numbers: npt.ArrayLike) -> str:
        """The text of tokens by number; words are separated by one space, or the end of a line.

        Raises:   BoundsError for a number that no token has
        """
        array = np.asarray(numbers).ravel()
        if array.size and array.dtype.kind not in "iu":
            raise DtypeError(f"tokens are numbered by integers, not by {array.dtype}")
        if outside := [i for i in array.tolist() if not 0 <= i < len(self)]:
            raise BoundsError(f"token {outside[0]} of a vocabulary of {self._size()}")
        tokens = (self.tokens[i] for i in array.tolist())
        if self.unit == "characters":
            return "".join(tokens)
        return re.sub(" ?\n ?", "\n", " ".join("\n" if token == EOS else token for token in tokens))

    def _size(self) -> str:
        return f"{len(self)} {self.unit}"

    def __repr__(self) -> str:
        return f"Vocabulary({self._size()}" + (")" if self.unknown is None else f", unknown={self.unknown!r})")


@dataclass(frozen=True, eq=False)
class TokenStream:
    """A text as the numbers of its tokens, int64[n]. `source` names it in errors."""

    tokens: Tokens
    source: str = "the text"

    def __len__(self) -> int:
        return len(self.tokens)

    def columns(self, count: int) -> ArrayDataset:
        """The stream cut into `count` columns of equal length that are read side by side; a rest is left out.

        Sample i is what stands in row i, the input, and in the row below it, the targets: both int64[count]. A loader without
        shuffling whose batches are t samples gives inputs and targets (t, count), time first, and each batch goes on where the
        one before ended, so that a recurrent network can keep its state. In the course, these are `batchify` and `get_batch`.

        Raises:   DataError if there are not two rows
        """
        _require_positive(count=count)
        rows = len(self) // count
        self._require(2 * count, f"2 rows of {count} columns")
        table = self.tokens[: rows * count].reshape(count, rows).T
        return ArrayDataset(table[:-1], table[1:])

    def windows(self, length: int, *, stride: int = 1) -> ArrayDataset:
        """All pieces of `length` tokens that begin at multiples of `stride`.

        A sample is such a piece, the input, and the piece that begins one token later, the targets: both int64[length]. A
        shuffling loader gives pieces from random places, (n, length), each once in an epoch. With `stride` = `length` they do
        not overlap, which is for testing.

        Raises:   DataError if there is no such piece
        """
        _require_positive(length=length, stride=stride)
        self._require(length + 1, f"one window of {length} and the token after it")
        pieces = np.lib.stride_tricks.sliding_window_view(self.tokens, length + 1)[::stride]
        return ArrayDataset(pieces[:, :-1], pieces[:, 1:])

    def entropy(self) -> float:
        """Bits per token that the frequencies of tokens alone leave: what a model has learned of their order is below it.

        H = -sum_i p[i] log2 p[i],  p[i] the share of token i
        """
        self._require(1, "a token")
        p = np.unique(self.tokens, return_counts=True)[1] / len(self)
        return float(-(p * np.log2(p)).sum())

    def _require(self, least: int, what: str) -> None:
        if len(self) < least:
            mismatch(self.source, "too short", f"{len(self)} tokens", f"at least {least} for {what}")

    def __repr__(self) -> str:
        return f"TokenStream({len(self)} tokens of {self.source})"


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text to train on and one to test on, in one vocabulary: that of both, or with `unknown` that of the former."""

    vocabulary: Vocabulary
    train: TokenStream
    test: TokenStream

    @classmethod
    def of(
        cls,
        text: str,
        *,
        test: float = 0.1,
        unit: Unit = "characters",
        unknown: str | None = None,
        limit: int | None = None,
        source: str = "the text",
    ) -> Corpus:
        """A text of which the last part, the share `test` of its tokens, is for testing. `source` names it in errors.

        Raises:   DataError if one of the parts would be empty
        """
        if not 0 < test < 1:
            raise ArgumentError(f"the share of a text that is for testing is between 0 and 1, not {test!r}")
        tokens = _split(text, unit)
        end = len(tokens) - round(test * len(tokens))
        if not 0 < end < len(tokens):
            expected = f"at least one to train on, and one to test on in the last {100 * test:g} %"
            mismatch(source, "too short", f"{len(tokens)} {unit}", expected)
        sources = f"the part of {source} to train on", f"the part of {source} to test on"
        return cls._joined(tokens[:end], tokens[end:], sources, unit, unknown, limit)

    @classmethod
    def read(
        cls,
        train: str | os.PathLike[str],
        test: str | os.PathLike[str],
        *,
        unit: Unit = "words",
        unknown: str | None = None,
        limit: int | None = None,
        max_lines: int | None = None,
    ) -> Corpus:
        """Two files in UTF-8, or the first `max_lines` lines of each.

        Raises:   DataError for a file that cannot be read
        """
        first, second = (_split(read_text(path, max_lines=max_lines), unit) for path in (train, test))
        return cls._joined(first, second, (os.fspath(train), os.fspath(test)), unit, unknown, limit)

    @classmethod
    def _joined(
        cls,
        train: Sequence[str],
        test: Sequence[str],
        sources: tuple[str, str],
        unit: Unit,
        unknown: str | None,
        limit: int | None,
    ) -> Corpus:
        known = chain(train, test) if unknown is None else iter(train)
        v = Vocabulary(known, unit=unit, unknown=unknown, limit=limit)
        return cls(v, TokenStream(v.encode(train), sources[0]), TokenStream(v.encode(test), sources[1]))


def _split(text: str, unit: Unit) -> Sequence[str]:
    """The tokens of a text: its characters, or its words and "<eos>" for the end of each line."""
    if unit == "characters":
        return text
    if unit != "words":
        raise ArgumentError(f"a text is split into 'characters' or 'words', not {brief(unit)}")
    return text.replace("\n", f" {EOS} ").split()


def read_text(path: str | os.PathLike[str], *, max_lines: int | None = None) -> str:
    """The text of a file in UTF-8, or its first `max_lines` lines. Lines end in "\\n", whatever ends them in the file.

    Raises:   DataError if there is no such file, it is empty, or it is not UTF-8
    """
    _require_positive(max_lines=max_lines)
    path, expected = Path(path), "text in UTF-8"
    try:
        content = path.read_bytes()
        text = content.decode("utf-8").removeprefix("\ufeff")
    except OSError as cause:
        mismatch(path, "not a readable file", cause.strerror, expected, cause=cause)
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        found = f"{content[cause.start]:#04x} at byte {cause.start}, in line {line}"
        mismatch(path, "not text in UTF-8", found, expected, cause=cause)
    if not text:
        mismatch(path, "an empty file", f"{len(content)} bytes", expected)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return "\n".join(lines[:max_lines]) + "\n"


def standard_library(characters: int | None = None) -> str:
    """The sources of Python's standard library, or so many characters from their beginning: a text that is always there.

    They are the modules that are files at its top, in the order of their names: about 5 million characters, the same wherever
    the version of Python is the same.

    Raises:   DataError if this Python has no sources
    """
    _require_positive(characters=characters)
    folder = Path(sysconfig.get_path("stdlib"))
    parts: list[str] = []
    length = 0
    for path in sorted(folder.glob("*.py")):
        # Others are made for one machine or put there by a distribution; modules may be empty, as read_text's files may not.
        if path.stem in sys.stdlib_module_names and path.stat().st_size:
            parts.append(read_text(path))
            length += len(parts[-1])
            if characters is not None and length >= characters:
                break
    if not parts:
        mismatch(folder, "Python's standard library without its sources", "none of them", "abc.py and others")
    return "".join(parts)[:characters]


def _require_positive(**sizes: int | None) -> None:
    """Refuse sizes below 1; None is no limit."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ArgumentError(f"{name} must be at least 1, not {brief(size)}")
