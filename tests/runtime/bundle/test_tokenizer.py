"""Captions to token ids and back."""

from __future__ import annotations

import pytest
from yolor_edge.runtime.bundle.tokenizer import (
    SPECIALS,
    Tokenizer,
    basic_tokens,
    build_vocabulary,
    normalise,
    vocabulary_complaints,
)


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


# Vocabularies as BERT has them.

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a man 's umbrella , . n't do the well - worn hat ##band ' t [MASK] don is !"
BERT = WORDS.split()


def bert(*more: str) -> Tokenizer:
    return Tokenizer([*BERT, *more], "bert")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's well-worn hat.", ["a", "man", "'", "s", "well", "-", "worn", "hat", "."]),
        ("Caf\u00e9,\tna\u00efve\n", ["cafe", ",", "naive"]),
        ("5$ + 2\u00a5~", ["5", "$", "+", "2\u00a5", "~"]),
        ("\u4e2d\u6587 ok\x00\u200b!", ["\u4e2d", "\u6587", "ok", "!"]),
        (" \u3000 ", []),
    ],
)
def test_basic_tokens(text: str, words: list[str]) -> None:
    assert basic_tokens(text) == words


def test_words_of_a_bert_vocabulary_are_made_of_their_longest_pieces() -> None:
    ids = {token: i for i, token in enumerate(BERT)}
    tokenizer = bert()
    assert tokenizer.encode("The hatband") == [ids["the"], ids["hat"], ids["##band"]]
    assert tokenizer.encode("A zebra, a hatbandit") == [ids["a"], 1, ids[","], ids["a"], 1]
    assert tokenizer.encode("a" * 101) == [1]
    assert tokenizer.encode("") == []
    # Of a token that stands there twice, the later one is meant.
    assert bert("man", "").encode("man") == [len(BERT)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("[CLS] a man , the hat . [SEP] [PAD] [PAD]", "A man, the hat."),
        ("a man 's hat ##band is well - worn !", "A man's hatband is well - worn!"),
        ("do n't [UNK] a [MASK] hat", "Don't a hat"),
        ("don ' t", "Don't"),
        ("[PAD] a [CLS] man [SEP]", "A man"),
        ("[SEP]", ""),
        ("##band a", "##band a"),
    ],
)
def test_text_of_a_bert_vocabulary(words: str, text: str) -> None:
    assert bert().decode([BERT.index(word) for word in words.split()]) == text


def test_empty_tokens_say_nothing_and_of_repeated_ones_only_the_last_does() -> None:
    tokenizer = bert("", "Hat", "", "man")
    first = len(BERT)
    assert tokenizer.decode([5, first, first + 1, BERT.index("man"), first + 2, first + 3]) == "A hat man"
    assert len(tokenizer) == len(BERT) + 4


def test_special_tokens_of_a_bert_vocabulary_may_stand_anywhere() -> None:
    tokenizer = Tokenizer(["a", "hat", "[SEP]", "[PAD]", "[UNK]", "[CLS]"], "bert", (3, 4, 5, 2))
    assert tokenizer.encode("a cat hat") == [0, 4, 1]
    assert tokenizer.decode([5, 0, 4, 1, 2, 3, 3]) == "A hat"
    assert vocabulary_complaints(["a"] * 9, "bert", (0, 1, 2, 9)) == [
        "the ids of pad, unk, bos, eos must be four of the vocabulary's 9, got (0, 1, 2, 9)"
    ]
    assert len(vocabulary_complaints(["a"] * 9, "bert", (0, 1, 2, 2))) == 1
    with pytest.raises(ValueError, match="the rule of the text must be one of words, bert, got 'gpt'"):
        Tokenizer(SPECIALS, "gpt")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"the ids of pad, unk, bos, eos must be 0, 1, 2, 3, got \(1, 0, 2, 3\)"):
        Tokenizer(SPECIALS, "words", (1, 0, 2, 3))
