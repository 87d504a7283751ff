"""BLEU and CIDEr-D: by hand where that is easy, and against pycocoevalcap where it is installed."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from yolor_edge.evaluation.caption_scores import bleu, bleu_counts, bleu_of, cider, cider_by_image, rouge_l

REFERENCES = [
    ["a red star left of a blue circle", "a star is on grass", "red star near a circle"],
    ["two men on a street corner", "men talking to each other on a corner"],
    ["a cat", "a small cat sleeping on a sofa next to a remote control"],
]
CANDIDATES = {
    "good": ["a red star left of a circle", "two men talking on a street corner", "a cat sleeping on a sofa"],
    "perfect": [texts[0] for texts in REFERENCES],
    "one word": ["star", "men", "cat"],
    "one empty": ["", "two men on a street corner", "a cat"],
    "all empty": ["", "", ""],
    "nothing in common": ["x y z w v", "p q", "r"],
    "repeated": ["a a a a a a a a", "on on on on on", "cat cat cat"],
    "long": ["a red star left of a blue circle on the green grass under a dark sky", "two men", "a cat"],
}


def theirs(references: list[list[str]], candidates: list[str]) -> tuple[list[float], float, float]:
    """What pycocoevalcap computes."""
    bleu_module = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider_module = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge_module = pytest.importorskip("pycocoevalcap.rouge.rouge")
    gts = dict(enumerate(references))
    res = {index: [text] for index, text in enumerate(candidates)}
    return (
        bleu_module.Bleu(4).compute_score(gts, res, verbose=0)[0],
        float(cider_module.Cider().compute_score(gts, res)[0]),
        float(rouge_module.Rouge().compute_score(gts, res)[0]),
    )


@pytest.mark.parametrize("name", CANDIDATES)
def test_agrees_with_pycocoevalcap(name: str) -> None:
    their_bleu, their_cider, their_rouge = theirs(REFERENCES, CANDIDATES[name])
    assert bleu(REFERENCES, CANDIDATES[name]) == pytest.approx(their_bleu, abs=1e-9)
    assert cider(REFERENCES, CANDIDATES[name]) == pytest.approx(their_cider, abs=1e-9)
    assert rouge_l(REFERENCES, CANDIDATES[name]) == pytest.approx(their_rouge, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_pycocoevalcap_on_random_text(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"w{int(rng.expovariate(0.25))}" for _ in range(200)]

    def text(shortest: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(shortest, 12)))

    references = [[text(1) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 30))]
    candidates = [rng.choice(texts) if rng.random() < 0.3 else text(0) for texts in references]
    their_bleu, their_cider, their_rouge = theirs(references, candidates)
    assert bleu(references, candidates) == pytest.approx(their_bleu, abs=1e-9)
    assert cider(references, candidates) == pytest.approx(their_cider, abs=1e-9)
    assert rouge_l(references, candidates) == pytest.approx(their_rouge, abs=1e-9)


def test_a_single_image_has_bleu_but_a_cider_of_zero() -> None:
    references, candidates = [["a red star on grass"]], ["a red star on grass"]
    assert bleu(references, candidates) == pytest.approx([1.0] * 4)
    assert cider(references, candidates) == 0.0


def test_bleu_by_hand() -> None:
    # 3 of 4 words and 1 of 3 pairs agree; references of 5 and 3 words are as close, and the shorter counts.
    scores = bleu([["a b c d e", "x y z"]], ["a b d q"])
    assert scores[0] == pytest.approx(3 / 4)
    assert scores[1] == pytest.approx(math.sqrt(3 / 4 * 1 / 3))
    # A word counts at most as often as one reference has it; two words against three are penalised.
    assert bleu([["the cat sat"]], ["the the"])[0] == pytest.approx(1 / 2 * math.exp(1 - 3 / 2))


def test_cider_of_identical_captions_is_ten() -> None:
    texts = ["a red star on green grass", "two men talk at night", "one cat sleeps under tables"]
    assert cider([[text] for text in texts], texts) == pytest.approx(10.0)


def test_rouge_l_by_hand() -> None:
    # "a b d" is common: 3 of 4 words of the candidate, 3 of 5 of the reference.
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l([["a b c d e"]], ["a x b d"]) == pytest.approx(expected)
    assert rouge_l([["a"], ["b c"]], ["a", ""]) == pytest.approx(0.5)


def test_scores_of_a_choice_of_images_come_from_what_each_image_adds() -> None:
    candidates = CANDIDATES["good"]
    counts = bleu_counts(REFERENCES, candidates)
    chosen = [0, 2, 2]
    references, texts = [REFERENCES[i] for i in chosen], [candidates[i] for i in chosen]
    assert bleu_of(counts[chosen].sum(0)).tolist() == pytest.approx(bleu(references, texts))
    both = bleu_of(np.stack([counts.sum(0), counts[chosen].sum(0)]))
    assert both.tolist() == [pytest.approx(bleu(REFERENCES, candidates)), pytest.approx(bleu(references, texts))]
    assert cider_by_image(REFERENCES, candidates).mean() == pytest.approx(cider(REFERENCES, candidates))


def test_refuses_what_cannot_be_scored() -> None:
    for score in (bleu, cider, rouge_l):
        with pytest.raises(ValueError, match="no captions to score"):
            score([], [])
        with pytest.raises(ValueError, match="1 captions for 2 images"):
            score([["a"], ["b"]], ["a"])
        with pytest.raises(ValueError, match="image 1 needs a list of at least one reference caption"):
            score([["a"], []], ["a", "b"])
        with pytest.raises(ValueError, match="image 0 needs a list"):
            score(["a cat"], ["a cat"])
