"""BLEU and CIDEr-D as COCO's caption evaluation computes them, on text that is already words and spaces."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ORDERS = 4  # n-grams of 1 to 4 words, in both scores
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
    _check(references, candidates)
    matched = [0] * _ORDERS
    proposed = [0] * _ORDERS
    length = reference_length = 0
    for texts, candidate in zip(references, candidates, strict=True):
        words = candidate.split()
        wanted = [text.split() for text in texts]
        length += len(words)
        reference_length += min((len(one) for one in wanted), key=lambda n: (abs(n - len(words)), n))
        for order in range(_ORDERS):
            allowed: Counter[_Gram] = Counter()
            for one in wanted:
                allowed |= _grams(one, order + 1)  # the most often that any one reference says it
            matched[order] += (_grams(words, order + 1) & allowed).total()
            proposed[order] += max(0, len(words) - order)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = []
    product = 1.0
    for order in range(_ORDERS):
        product *= (matched[order] + _TINY) / (proposed[order] + _SMALL)
        scores.append(product ** (1 / (order + 1)) * brevity)
    return scores


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
