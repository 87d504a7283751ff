"""Captions to token ids and back."""

from __future__ import annotations

import pytest
from yolor_edge.runtime.bundle.tokenizer import SPECIALS, Tokenizer, build_vocabulary, normalise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "A man riding a wave, on top.",
            ["a", "man", "riding", "a", "wave", "on", "top"],
        ),
        ("The dog's well-worn bed", ["the", "dog's", "well", "worn", "bed"]),
        ("The dog\u2019s 'quoted' bed", ["the", "dog's", "quoted", "bed"]),
        ("Cafe\u0301 snake_case 2 x 4\n", ["caf\u00e9", "snake", "case", "2", "x", "4"]),
        ("  ...!?  ", []),
        ("", []),
    ],
)
def test_normalise(text: str, words: list[str]) -> None:
    assert normalise(text) == words


def test_vocabulary_is_sorted_by_count_then_alphabet() -> None:
    captions = ["a red star", "a blue star", "a star"]
    assert build_vocabulary(captions, 1) == [*SPECIALS, "a", "star", "blue", "red"]
    assert build_vocabulary(captions, 2) == [*SPECIALS, "a", "star"]
    assert build_vocabulary([], 1) == list(SPECIALS)
    with pytest.raises(ValueError, match="minimum_count must be at least 1, got 0"):
        build_vocabulary(captions, 0)


def test_round_trip_and_unknown_words() -> None:
    tokenizer = Tokenizer(build_vocabulary(["a red star left of a circle"]))
    ids = tokenizer.encode("A red, RED star!")
    assert ids == [4, 8, 8, 9]
    assert tokenizer.decode(ids) == "a red red star"
    assert tokenizer.encode("a zebra") == [4, 1]
    assert tokenizer.decode([2, 4, 1, 3, 0]) == "a <unk>"
    assert tokenizer.encode("") == []
    assert len(tokenizer) == 10


def test_decoding_refuses_ids_outside() -> None:
    with pytest.raises(ValueError, match="token id 9 is outside the vocabulary of 5 tokens"):
        Tokenizer([*SPECIALS, "a"]).decode([9])


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (["a", "b", "c", "d"], "must begin with <pad> <unk> <bos> <eos>"),
        ([*SPECIALS, "a", "a"], "holds 'a' more than once"),
        ([*SPECIALS, ""], "token 4 of the vocabulary is empty or holds a space"),
        ([*SPECIALS, "two words"], "token 4 of the vocabulary is empty or holds a space"),
    ],
)
def test_bad_vocabularies(vocabulary: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer(vocabulary)
