"""Words to token ids and back; the vocabulary is a plain list that travels with the model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIALS = (PAD, UNK, BOS, EOS)
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)

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
    """A word-level vocabulary. Ids 0 to 3 are `<pad>`, `<unk>`, `<bos>` and `<eos>`; words follow.

    Args:
        vocabulary: Every token in id order, the four special ones first.

    Raises:
        ValueError: If the special tokens are not first, or a token is empty or occurs twice.
    """

    def __init__(self, vocabulary: Sequence[str]):
        complaints = vocabulary_complaints(vocabulary)
        if complaints:
            raise ValueError("; ".join(complaints))
        self.vocabulary = tuple(vocabulary)
        self._id_of = {token: i for i, token in enumerate(self.vocabulary)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Token ids of the words of `text`, `<unk>` for those outside the vocabulary; no bos, no eos."""
        return [self._id_of.get(word, UNK_ID) for word in normalise(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids` joined by spaces; pad, bos and eos are left out, an unknown word reads `<unk>`.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        words = []
        for i in ids:
            if not 0 <= i < len(self.vocabulary):
                raise ValueError(f"token id {i} is outside the vocabulary of {len(self.vocabulary)} tokens")
            if i not in (PAD_ID, BOS_ID, EOS_ID):
                words.append(self.vocabulary[i])
        return " ".join(words)


def vocabulary_complaints(vocabulary: Sequence[str]) -> list[str]:
    """Everything that keeps `vocabulary` from being one, in words; empty if nothing does."""
    complaints = []
    if tuple(vocabulary[:4]) != SPECIALS:
        complaints.append(f"the vocabulary must begin with {' '.join(SPECIALS)}, got {list(vocabulary[:4])}")
    repeated = [token for token, count in Counter(vocabulary).items() if count > 1]
    if repeated:
        complaints.append(f"the vocabulary holds {repeated[0]!r} more than once ({len(repeated)} such tokens)")
    blank = [i for i, token in enumerate(vocabulary) if not token.strip() or token.split() != [token]]
    if blank:
        complaints.append(f"token {blank[0]} of the vocabulary is empty or holds a space")
    return complaints
