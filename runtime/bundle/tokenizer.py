"""Words to token ids and back; the vocabulary is a plain list that travels with the model.

There are two kinds of vocabulary. "words" is our own: four special tokens first, then every word once, and captions are
split into words of letters and digits. "bert" is one of BERT's files, as networks come with that were trained
elsewhere: any special ids, repeated and empty tokens, captions split at every punctuation mark and unlisted words into
the longest listed pieces; text comes out cleaned up, with a capital letter at its start.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIALS = (PAD, UNK, BOS, EOS)
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
SPECIAL_IDS = (PAD_ID, UNK_ID, BOS_ID, EOS_ID)

TextRule = Literal["words", "bert"]
TEXT_RULES: tuple[TextRule, ...] = ("words", "bert")
BERT_MASK = "[MASK]"  # what BERT's vocabularies hold beside pad, unk, bos and eos, and no text does
BERT_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""What loses the spaces around it, one after the other. Source: transformers' clean_up_tokenization."""
_LONGEST_WORD = 100  # longer ones are unknown to BERT's tokeniser
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def normalise(text: str) -> list[str]:
    """Split a caption into lower-case words of letters and digits; an apostrophe inside a word stays.

    >>> normalise("A man's well-worn hat.")
    ['a', "man's", 'well', 'worn', 'hat']
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).lower().replace("\u2019", "'"))


def build_vocabulary(captions: Iterable[str], minimum_count: int = 1) -> list[str]:
    """List the words that occur at least `minimum_count` times, most frequent first, ties alphabetically.

    Returns:
        The four special tokens, then the words: what `Tokenizer` takes.

    Raises:
        ValueError: If `minimum_count` is below 1.
    """
    if minimum_count < 1:
        raise ValueError(f"minimum_count must be at least 1, got {minimum_count}")
    counts = Counter(word for caption in captions for word in normalise(caption))
    words = sorted((word for word in counts if counts[word] >= minimum_count), key=lambda word: (-counts[word], word))
    return [*SPECIALS, *words]


class Tokenizer:
    """A vocabulary with its special tokens.

    Args:
        vocabulary: Every token in id order.
        text: Which kind of vocabulary it is, one of `TEXT_RULES`.
        special_ids: Of pad, unk, bos and eos.

    Raises:
        ValueError: If the vocabulary is none of that kind, see `vocabulary_complaints`.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        text: TextRule = "words",
        special_ids: tuple[int, int, int, int] = SPECIAL_IDS,
    ):
        complaints = vocabulary_complaints(vocabulary, text, special_ids)
        if complaints:
            raise ValueError("; ".join(complaints))
        self.vocabulary = tuple(vocabulary)
        self._is_bert = text == "bert"
        pad, self._unk_id, bos, eos = special_ids
        self._unwritten = {pad, bos, eos}
        # Of a token that is there more than once the last id is meant, and the others say nothing, as with BERT's
        # tokeniser.
        self._id_of = {token: i for i, token in enumerate(self.vocabulary)}
        if self._is_bert:
            meant = set(self._id_of.values())
            self._unwritten |= {self._unk_id, *(i for i in range(len(self.vocabulary)) if i not in meant)}
            self._unwritten |= {self._id_of[token] for token in (BERT_MASK, "") if token in self._id_of}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Token ids of the words of `text`, unk for those outside the vocabulary; no bos, no eos."""
        if self._is_bert:
            return [i for word in basic_tokens(text) for i in self._pieces(word)]
        return [self._id_of.get(word, self._unk_id) for word in normalise(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`.

        Of a vocabulary of words: joined by spaces, without pad, bos and eos; an unknown word reads `<unk>`. Of BERT's:
        without special and empty tokens, spaces before punctuation removed, the first letter upper case and all others
        lower.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        words = []
        for i in ids:
            if not 0 <= i < len(self.vocabulary):
                raise ValueError(f"token id {i} is outside the vocabulary of {len(self.vocabulary)} tokens")
            if i not in self._unwritten:
                words.append(self.vocabulary[i])
        text = " ".join(words)
        if not self._is_bert:
            return text
        text = text.replace(" ##", "").strip()
        for mark in BERT_CLEAN_UP:
            text = text.replace(mark, mark.strip())
        return text.capitalize()

    def _pieces(self, word: str) -> list[int]:
        """Ids of the longest listed pieces of a word from its start on, or unk where they do not make it up."""
        found: list[int] = []
        start = 0
        while start < len(word) <= _LONGEST_WORD:
            ends = range(len(word), start, -1)
            pieces = ((end, ("##" if start else "") + word[start:end]) for end in ends)
            end, piece = next(((end, piece) for end, piece in pieces if piece in self._id_of), (0, ""))
            if not end:
                return [self._unk_id]
            found.append(self._id_of[piece])
            start = end
        return found or [self._unk_id]


def basic_tokens(text: str) -> list[str]:
    """Lower-case words without accents; every punctuation mark and Chinese character is one by itself.

    Source: the basic tokenisation of BERT, https://github.com/google-research/bert (Apache-2.0), as described there.
    """
    spaced = []
    for letter in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(letter)
        if letter.isspace():
            spaced.append(" ")
        elif kind == "Mn" or kind.startswith("C") or letter == "\ufffd":
            continue
        elif kind.startswith("P") or letter in "$+<=>^`|~" or _is_chinese(letter):
            spaced.append(f" {letter} ")
        else:
            spaced.append(letter)
    return "".join(spaced).split()


def _is_chinese(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _CHINESE)


_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


def vocabulary_complaints(
    vocabulary: Sequence[str], text: TextRule = "words", special_ids: tuple[int, int, int, int] = SPECIAL_IDS
) -> list[str]:
    """Everything that keeps `vocabulary` from being one of the kind `text`, in words; empty if nothing does."""
    if text not in TEXT_RULES:
        return [f"the rule of the text must be one of {', '.join(TEXT_RULES)}, got {text!r}"]
    complaints = []
    if text == "bert":
        if len(set(special_ids)) != 4 or not all(0 <= i < len(vocabulary) for i in special_ids):
            complaints.append(
                f"the ids of pad, unk, bos, eos must be four of the vocabulary's {len(vocabulary)}, got {special_ids}"
            )
        return complaints
    if tuple(vocabulary[:4]) != SPECIALS:
        complaints.append(f"the vocabulary must begin with {' '.join(SPECIALS)}, got {list(vocabulary[:4])}")
    repeated = [token for token, count in Counter(vocabulary).items() if count > 1]
    if repeated:
        complaints.append(f"the vocabulary holds {repeated[0]!r} more than once ({len(repeated)} such tokens)")
    blank = [i for i, token in enumerate(vocabulary) if not token.strip() or token.split() != [token]]
    if blank:
        complaints.append(f"token {blank[0]} of the vocabulary is empty or holds a space")
    if special_ids != SPECIAL_IDS:
        complaints.append(f"the ids of pad, unk, bos, eos must be 0, 1, 2, 3, got {special_ids}")
    return complaints
