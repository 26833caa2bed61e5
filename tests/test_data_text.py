"""Vocabularies, corpora, and streams of tokens in columns and windows, beside the same things written as plain loops."""

from __future__ import annotations

import codecs
import math
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import needle_core as ndl
from needle_core.data import Corpus, DataLoader, TokenStream, Vocabulary, read_text, standard_library
from needle_core.errors import ArgumentError, BoundsError, DataError, DtypeError
from needle_core.random import Generator

LINES = "the cat sat\non the mat\n\nthe end\n"
WORDS = ["the", "cat", "sat", "<eos>", "on", "the", "mat", "<eos>", "<eos>", "the", "end", "<eos>"]
IDS = [0, 1, 2, 3, 4, 0, 5, 3, 3, 0, 6, 3]


def stream(n: int) -> TokenStream:
    return TokenStream(np.arange(n), "file.txt")


# -- vocabularies -------------------------------------------------------------------------------------------------------


def test_characters_are_numbered_in_order_of_first_appearance() -> None:
    v = Vocabulary("abracadabra")
    assert v.tokens == ("a", "b", "r", "c", "d")
    assert v.encode("cab").tolist() == [3, 0, 1]
    assert v.encode("cab").dtype == np.int64


def test_words_are_numbered_in_order_of_first_appearance_with_the_end_of_each_line() -> None:
    v = Vocabulary(LINES, unit="words")
    assert v.tokens == tuple(dict.fromkeys(WORDS))
    assert v.encode(LINES).tolist() == IDS


def test_text_without_a_line_end_has_no_token_for_it() -> None:
    assert Vocabulary(LINES, unit="words").encode("the cat").tolist() == [0, 1]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_characters_are_decoded_to_what_was_encoded(text: str) -> None:
    v = Vocabulary(text)
    assert v.decode(v.encode(text)) == text


@given(st.lists(st.sampled_from(["the", "cat", "<eos>", "<unk>"])))
def test_words_are_decoded_to_text_that_encodes_to_the_same(words: list[str]) -> None:
    v = Vocabulary(["the", "cat", "<eos>"], unit="words", unknown="<unk>")
    assert v.encode(v.decode(v.encode(words))).tolist() == v.encode(words).tolist()


def test_words_are_decoded_to_lines() -> None:
    v = Vocabulary(LINES, unit="words")
    assert v.decode(IDS) == LINES


@pytest.mark.parametrize("numbers", [1, [1], np.array([1], np.uint8), ndl.Tensor([1])])
def test_decode_takes_anything_of_integers(numbers: Any) -> None:
    assert Vocabulary("ab").decode(numbers) == "b"


def test_decode_of_nothing_is_nothing() -> None:
    assert Vocabulary("ab").decode([]) == Vocabulary("a b", unit="words").decode([]) == ""


@pytest.mark.parametrize("number", [3, -1])
def test_decode_names_the_number_that_no_token_has(number: int) -> None:
    with pytest.raises(BoundsError, match=f"^token {number} of a vocabulary of 3 characters$"):
        Vocabulary("abc").decode([0, number])


def test_decode_refuses_scores() -> None:
    with pytest.raises(DtypeError, match="integers, not by float64"):
        Vocabulary("abc").decode([0.5])


def test_token_that_is_not_in_the_vocabulary_is_named() -> None:
    with pytest.raises(DataError) as caught:
        Vocabulary("the cat", unit="words").encode("the dog the cow")
    assert str(caught.value) == (
        "'dog' is not in the vocabulary of 2 words\n"
        "  place: after 1 tokens\n"
        "  unknown: 2 of 4 tokens\n"
        '  hint: Vocabulary(..., unknown="<unk>") has a token for all others'
    )


def test_unknown_tokens_become_that_for_unknown_ones() -> None:
    v = Vocabulary("the cat", unit="words", unknown="<unk>")
    assert v.tokens == ("the", "cat", "<unk>")
    assert v.encode("the dog").tolist() == [0, 2]
    assert v.decode([0, 2]) == "the <unk>"


def test_token_for_unknown_ones_that_is_in_the_text_keeps_its_place() -> None:
    assert Vocabulary("the <unk> cat", unit="words", unknown="<unk>").tokens == ("the", "<unk>", "cat")


def test_limit_keeps_the_most_frequent_in_order_of_appearance() -> None:
    assert Vocabulary("a b c c b d", unit="words", unknown="?", limit=3).tokens == ("a", "b", "c", "?")


@pytest.mark.parametrize("options", [{"limit": 2}, {"limit": 0, "unknown": "?"}])
def test_limit_without_a_token_for_the_rest_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"^a limit of \d tokens needs to be positive, and a token for those unknown$"):
        Vocabulary("abc", **options)


def test_vocabulary_is_restored_from_its_tokens() -> None:
    v = Vocabulary(LINES, unit="words", unknown="<unk>", limit=3)
    again = Vocabulary(v.tokens, unit=v.unit, unknown=v.unknown)
    assert again.tokens == v.tokens
    assert again.encode(LINES).tolist() == v.encode(LINES).tolist()


def test_vocabulary_tells_its_size_and_what_it_holds() -> None:
    v = Vocabulary("abc", unknown="?")
    assert len(v) == 4
    assert "a" in v
    assert "z" not in v
    assert repr(v) == "Vocabulary(4 characters, unknown='?')"


def test_other_units_are_refused() -> None:
    with pytest.raises(ArgumentError, match="'characters' or 'words', not 'lines'"):
        Vocabulary("abc", unit="lines")  # type: ignore[arg-type]


# -- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"a b\nc\n", b"a b\r\nc\r\n", b"a b\rc\r", b"a b\nc", codecs.BOM_UTF8 + b"a b\nc\n"])
def test_read_text_gives_lines_that_end_alike(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == "a b\nc\n"


@pytest.mark.parametrize(("max_lines", "text"), [(1, "é\n"), (2, "é\n\n"), (3, "é\n\n\x0cx\n"), (9, "é\n\n\x0cx\n")])
def test_read_text_gives_the_first_lines(tmp_path: Path, max_lines: int, text: str) -> None:
    (tmp_path / "a.txt").write_text("é\n\n\x0cx\n", encoding="utf-8")
    assert read_text(str(tmp_path / "a.txt"), max_lines=max_lines) == text


def test_read_text_refuses_to_read_no_lines(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="max_lines must be at least 1, not 0"):
        read_text(tmp_path, max_lines=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\ntwo é".encode("latin-1"), "not text in UTF-8\n  found: 0xe9 at byte 8, in line 2"),
        (codecs.BOM_UTF8 + b"\xff", "not text in UTF-8\n  found: 0xff at byte 3, in line 1"),
        ("one\n".encode("utf-16"), "not text in UTF-8\n  found: 0xff at byte 0, in line 1"),
        (b"", "an empty file\n  found: 0 bytes"),
        (codecs.BOM_UTF8, "an empty file\n  found: 3 bytes"),
        (None, "not a readable file\n  found: No such file or directory"),
    ],
)
def test_read_text_names_the_file_and_what_was_expected(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_text(path)
    assert str(caught.value) == f"{path}: {message}\n  expected: text in UTF-8"


def test_read_text_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable file\n  found: Is a directory"):
        read_text(tmp_path)


# -- corpora ------------------------------------------------------------------------------------------------------------


def test_corpus_of_files_is_that_of_the_course(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(LINES)
    (tmp_path / "test.txt").write_text("the dog sat")
    numbers: dict[str, int] = {}
    expected = []
    for name in ("train.txt", "test.txt"):
        with (tmp_path / name).open() as file:
            words = [word for line in file for word in [*line.split(), "<eos>"]]
        expected.append([numbers.setdefault(word, len(numbers)) for word in words])
    corpus = Corpus.read(tmp_path / "train.txt", tmp_path / "test.txt")
    assert corpus.vocabulary.tokens == tuple(numbers)
    assert [corpus.train.tokens.tolist(), corpus.test.tokens.tolist()] == expected


def test_corpus_of_the_first_lines_of_files(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text(LINES)
    corpus = Corpus.read(tmp_path / "train.txt", tmp_path / "test.txt", max_lines=2)
    assert corpus.train.tokens.tolist() == corpus.test.tokens.tolist() == IDS[:8]
    assert len(corpus.vocabulary) == 6


def test_corpus_with_unknown_words_knows_those_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("the cat")
    (tmp_path / "test.txt").write_text("the dog")
    corpus = Corpus.read(tmp_path / "train.txt", tmp_path / "test.txt", unknown="<unk>")
    assert corpus.vocabulary.tokens == ("the", "cat", "<eos>", "<unk>")
    assert corpus.test.tokens.tolist() == [0, 3, 2]


def test_corpus_names_the_file_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(LINES)
    with pytest.raises(DataError, match=r"test\.txt: not a readable file"):
        Corpus.read(tmp_path / "train.txt", tmp_path / "test.txt")


def test_corpus_of_a_text_ends_with_the_part_for_testing() -> None:
    corpus = Corpus.of("abcabcabcd", test=0.3)
    assert corpus.vocabulary.decode(corpus.train.tokens) == "abcabca"
    assert corpus.vocabulary.decode(corpus.test.tokens) == "bcd"


def test_corpus_of_a_text_in_words_is_cut_between_words() -> None:
    corpus = Corpus.of(LINES, test=0.5, unit="words")
    assert corpus.vocabulary.decode(corpus.train.tokens) == "the cat sat\non the"
    assert corpus.vocabulary.decode(corpus.test.tokens) == "mat\n\nthe end\n"


def test_corpus_with_a_limit_knows_what_is_frequent_in_the_part_to_train_on() -> None:
    corpus = Corpus.of("a a b c c c c", test=4 / 7, unit="words", unknown="<unk>", limit=1)
    assert corpus.vocabulary.decode(corpus.train.tokens) == "a a <unk>"
    assert corpus.vocabulary.decode(corpus.test.tokens) == "<unk> <unk> <unk> <unk>"


@pytest.mark.parametrize(("text", "test", "percent"), [("", 0.5, "50"), ("a", 0.5, "50"), ("ab", 0.1, "10"), ("ab", 0.9, "90")])
def test_corpus_of_a_text_that_is_too_short_is_refused(text: str, test: float, percent: str) -> None:
    with pytest.raises(DataError) as caught:
        Corpus.of(text, test=test)
    assert str(caught.value) == (
        f"the text: too short\n  found: {len(text)} characters\n"
        f"  expected: at least one to train on, and one to test on in the last {percent} %"
    )


def test_part_of_a_text_that_is_too_short_is_named() -> None:
    with pytest.raises(
        DataError, match=r"^the part of notes\.txt to test on: too short\n  found: 2 tokens\n  expected: at least 8 "
    ):
        Corpus.of("abcd" * 5, source="notes.txt").test.columns(4)


@pytest.mark.parametrize("test", [0.0, 1.0, -0.5, math.nan])
def test_corpus_needs_a_share_for_testing(test: float) -> None:
    with pytest.raises(ArgumentError, match="between 0 and 1, not "):
        Corpus.of("abc", test=test)


# -- the standard library -----------------------------------------------------------------------------------------------


def test_standard_library_is_the_sources_of_its_modules_in_order() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.name for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names)
    first = "".join((folder / name).read_text(encoding="utf-8") for name in names[:5])
    assert standard_library(len(first)) == first


def test_standard_library_is_a_text_of_millions() -> None:
    text = standard_library()
    assert len(text) > 3_000_000
    assert "\nclass ArgumentParser(" in text
    assert standard_library(10_000) == text[:10_000]


def test_standard_library_leaves_out_what_is_made_for_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {"zipfile": "z", "_sysconfigdata__x": "!", "abc": "a", "sitecustomize": "!", "ast": ""}.items():
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.get)
    assert standard_library() == "a\nz\n"


def test_python_without_the_sources_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.get)
    with pytest.raises(DataError, match=r"Python's standard library without its sources\n  found: none of them"):
        standard_library()


# -- columns, for recurrent networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "count", "length"), [(26, 4, 3), (24, 4, 5), (8, 4, 1), (9, 1, 4), (7, 3, 99)])
def test_columns_are_the_batches_of_the_course(n: int, count: int, length: int) -> None:
    rows = n // count
    batches = np.array([[column * rows + row for column in range(count)] for row in range(rows)])  # batchify
    loader = DataLoader(stream(n).columns(count), batch_size=length)
    starts = range(0, rows - 1, length)
    assert len(loader) == len(starts)
    for i, (x, y) in zip(starts, loader, strict=True):  # get_batch
        t = min(length, rows - 1 - i)
        assert x.numpy().tolist() == batches[i : i + t].tolist()
        assert y.flatten().numpy().tolist() == batches[i + 1 : i + 1 + t].flatten().tolist()


def test_columns_go_on_where_the_last_batch_ended() -> None:
    batches = [x.numpy() for x, _ in DataLoader(stream(100).columns(3), batch_size=7)]
    assert np.concatenate(batches).T.tolist() == [list(range(k * 33, k * 33 + 32)) for k in range(3)]


@pytest.mark.parametrize(("n", "count"), [(7, 4), (0, 1), (1, 1)])
def test_stream_that_is_too_short_for_columns_is_named(n: int, count: int) -> None:
    with pytest.raises(DataError) as caught:
        stream(n).columns(count)
    assert str(caught.value) == (
        f"file.txt: too short\n  found: {n} tokens\n  expected: at least {2 * count} for 2 rows of {count} columns"
    )


# -- windows, for transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "length", "stride"), [(10, 3, 1), (10, 3, 3), (10, 3, 4), (4, 3, 1), (4, 3, 9), (3, 1, 1)])
def test_windows_are_all_pieces_and_what_follows_each_of_their_tokens(n: int, length: int, stride: int) -> None:
    x, y = stream(n).windows(length, stride=stride)[:]
    starts = range(0, n - length, stride)
    assert x.tolist() == [list(range(i, i + length)) for i in starts]
    assert y.tolist() == [list(range(i + 1, i + length + 1)) for i in starts]


def test_windows_share_the_memory_of_the_stream() -> None:
    tokens = stream(1000)
    assert all(np.shares_memory(array, tokens.tokens) for array in tokens.windows(100).arrays)


def test_windows_in_random_order_come_once_an_epoch_and_are_reproducible() -> None:
    def starts(seed: int) -> list[int]:
        loader = DataLoader(stream(50).windows(5), batch_size=8, shuffle=True, generator=Generator(seed))
        return [start for x, _ in loader for start in x.numpy()[:, 0].tolist()]

    assert sorted(starts(0)) == list(range(45))
    assert starts(0) == starts(0) != starts(1)


def test_windows_go_on_after_a_stop() -> None:
    def loader() -> DataLoader:
        return DataLoader(stream(50).windows(5), batch_size=8, shuffle=True, generator=Generator(7))

    whole = [x.numpy().tolist() for x, _ in loader()]
    stopped, resumed = loader(), loader()
    for _, _ in zip(range(2), stopped, strict=False):
        pass
    resumed.load_state_dict(stopped.state_dict())
    assert [x.numpy().tolist() for x, _ in resumed] == whole[2:]


def test_stream_that_is_too_short_for_a_window_is_named(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text(LINES)
    with pytest.raises(DataError) as caught:
        Corpus.read(tmp_path / "train.txt", tmp_path / "test.txt").test.windows(12)
    assert str(caught.value) == (
        f"{tmp_path / 'test.txt'}: too short\n"
        "  found: 12 tokens\n"
        "  expected: at least 13 for one window of 12 and the token after it"
    )


@pytest.mark.parametrize(
    ("cut", "named"),
    [
        (lambda s: s.columns(0), "count"),
        (lambda s: s.windows(0), "length"),
        (lambda s: s.windows(2, stride=0), "stride"),
    ],
)
def test_sizes_below_one_are_refused(cut: Any, named: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{named} must be at least 1, not 0$"):
        cut(stream(10))


# -- entropy ------------------------------------------------------------------------------------------------------------


def test_entropy_is_that_of_the_frequencies() -> None:
    corpus = Corpus.of("aabc" * 10, test=0.5)
    assert corpus.train.entropy() == pytest.approx(0.5 * 1 + 2 * 0.25 * 2, rel=1e-15)


def test_entropy_of_one_token_is_zero_and_of_equally_frequent_ones_their_logarithm() -> None:
    assert TokenStream(np.zeros(5, np.int64)).entropy() == 0
    assert stream(1000).entropy() == pytest.approx(math.log2(1000), rel=1e-14)


def test_entropy_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"file\.txt: too short"):
        stream(0).entropy()
