"""BLEU, CIDEr-D and ROUGE-L as COCO's caption evaluation computes them, on text that is already words and spaces.

Each score is made of a value or a row of counts an image, so that it can be computed again for any choice of images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ORDERS = 4  # n-grams of 1 to 4 words, in both scores
_BETA = 1.2  # how much ROUGE-L favours recall
_SIGMA = 6.0  # width of CIDEr-D's penalty on length, in words
# Smoothing of COCO's BLEU: a score of nothing is almost 0, and never a division by 0.
_TINY = 1e-15
_SMALL = 1e-9

_Gram = tuple[str, ...]


def bleu(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """BLEU-1 to BLEU-4 of the whole set, with the closest reference length (the shorter one on a tie).

    Args:
        references: For each image its reference captions, at least one; words separated by spaces.
        candidates: For each image the caption to score. May be empty text.

    Returns:
        Four values in 0..1.

    Raises:
        ValueError: If there are no images, the two lists differ in length, or an image has no reference.

    Source: Papineni et al., BLEU; Chen et al., https://arxiv.org/abs/1504.00325, for COCO's variant of it
    """
    return bleu_of(bleu_counts(references, candidates).sum(0)).tolist()


def bleu_counts(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> np.ndarray:
    """What BLEU adds up over images, (images, 10) int64; arguments and errors as for `bleu`.

    The columns are n-grams that agree, for n from 1 to 4; n-grams in the candidate; its length; the closest length of a
    reference.
    """
    _check(references, candidates)
    counts = np.zeros((len(candidates), 2 * _ORDERS + 2), np.int64)
    for row, texts, candidate in zip(counts, references, candidates, strict=True):
        words = candidate.split()
        wanted = [text.split() for text in texts]
        row[-2] = len(words)
        row[-1] = min((len(one) for one in wanted), key=lambda n: (abs(n - len(words)), n))
        for order in range(_ORDERS):
            allowed: Counter[_Gram] = Counter()
            for one in wanted:
                allowed |= _grams(one, order + 1)  # the most often that any one reference says it
            row[order] = (_grams(words, order + 1) & allowed).total()
            row[_ORDERS + order] = max(0, len(words) - order)
    return counts


def bleu_of(counts: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4, (..., 4) float64, of sums of `bleu_counts`, (..., 10)."""
    counts = np.asarray(counts, np.float64)
    matched, proposed = counts[..., :_ORDERS], counts[..., _ORDERS : 2 * _ORDERS]
    ratio = (counts[..., -2] + _TINY) / (counts[..., -1] + _SMALL)
    brevity = np.exp(1 - 1 / np.minimum(ratio, 1.0))
    precision = np.cumprod((matched + _TINY) / (proposed + _SMALL), axis=-1)
    return precision ** (1 / np.arange(1, _ORDERS + 1)) * brevity[..., None]


def cider(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> float:
    """CIDEr-D of the whole set: n-gram agreement weighted by how rare an n-gram is in the references.

    Document frequencies come from `references` themselves, so the value depends on the set; with a single
    image every n-gram is in all images, every weight is 0 and so is the score.

    Args:
        references: For each image its reference captions, at least one; words separated by spaces.
        candidates: For each image the caption to score. May be empty text.

    Returns:
        The mean over images, in 0..10.

    Raises:
        ValueError: If there are no images, the two lists differ in length, or an image has no reference.

    Source: Vedantam et al., CIDEr, https://arxiv.org/abs/1411.5726 (CIDEr-D, sigma 6)
    """
    return float(cider_by_image(references, candidates).mean())


def cider_by_image(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> np.ndarray:
    """CIDEr-D of each image, (images,) float64, with document frequencies of all of them; otherwise as `cider`."""
    _check(references, candidates)
    counted = [[_all_grams(text) for text in texts] for texts in references]
    frequency: Counter[_Gram] = Counter()
    for grams in counted:
        frequency.update(set().union(*grams))
    log_images = math.log(len(references))
    weight = {gram: log_images - math.log(count) for gram, count in frequency.items()}

    scores = []
    for grams, candidate in zip(counted, candidates, strict=True):
        ours = _Weighted(_all_grams(candidate), weight, log_images)
        agreements = [ours.agreement(_Weighted(one, weight, log_images)) for one in grams]
        scores.append(10 * sum(agreements) / len(agreements))
    return np.array(scores)


def rouge_l(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> float:
    """ROUGE-L of the whole set: the longest common subsequence of words, as an F-measure that favours recall.

    Args:
        references: For each image its reference captions, at least one; words separated by spaces.
        candidates: For each image the caption to score. May be empty text.

    Returns:
        The mean over images, in 0..1.

    Raises:
        ValueError: If there are no images, the two lists differ in length, or an image has no reference.

    Source: Lin, ROUGE: A package for automatic evaluation of summaries; beta 1.2 as in COCO's evaluation
    """
    return float(rouge_l_by_image(references, candidates).mean())


def rouge_l_by_image(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> np.ndarray:
    """ROUGE-L of each image, (images,) float64; arguments and errors as for `rouge_l`."""
    _check(references, candidates)
    scores = np.zeros(len(candidates))
    for index, (texts, candidate) in enumerate(zip(references, candidates, strict=True)):
        words = candidate.split()
        wanted = [one for one in (text.split() for text in texts) if one]
        if not words or not wanted:
            continue
        common = [common_length(words, one) for one in wanted]
        precision = max(common) / len(words)
        recall = max(length / len(one) for length, one in zip(common, wanted, strict=True))
        if precision and recall:
            scores[index] = (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
    return scores


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


class _Weighted:
    """A caption as one tf-idf vector per n-gram order; an n-gram that no reference has weighs `unseen`."""

    def __init__(self, grams: Counter[_Gram], weight: dict[_Gram, float], unseen: float) -> None:
        self.vectors: list[dict[_Gram, float]] = [{} for _ in range(_ORDERS)]
        for gram, count in grams.items():
            self.vectors[len(gram) - 1][gram] = count * weight.get(gram, unseen)
        self.norms = [math.sqrt(sum(x * x for x in vector.values())) for vector in self.vectors]
        # COCO's implementation measures length in pairs of words.
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)

    def agreement(self, reference: _Weighted) -> float:
        """The mean over orders of the clipped cosine, times the penalty for another length; in 0..1."""
        cosines = 0.0
        for ours, theirs, our_norm, their_norm in zip(
            self.vectors, reference.vectors, self.norms, reference.norms, strict=True
        ):
            if our_norm and their_norm:
                shared = sum(min(x, theirs[gram]) * theirs[gram] for gram, x in ours.items() if gram in theirs)
                cosines += shared / (our_norm * their_norm)
        return cosines / _ORDERS * math.exp(-((self.length - reference.length) ** 2) / (2 * _SIGMA**2))


def _grams(words: Sequence[str], order: int) -> Counter[_Gram]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _all_grams(text: str) -> Counter[_Gram]:
    words = text.split()
    grams: Counter[_Gram] = Counter()
    for order in range(1, _ORDERS + 1):
        grams.update(_grams(words, order))
    return grams


def _check(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> None:
    if len(references) != len(candidates):
        raise ValueError(f"{len(candidates)} captions for {len(references)} images; pass one for each image")
    if not references:
        raise ValueError("no captions to score; pass at least one image")
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"image {index} needs a list of at least one reference caption, got {texts!r}")
