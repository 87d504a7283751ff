"""The native decoder against its definition in numpy, in every instruction set this processor has."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.bundle.caption_weights import CaptionWeights, open_caption_weights

from ...reference import caption_search as reference
from ..manners import assert_lets_threads_run, strided_copy
from .random_decoder import RandomDecoder, random_decoder

KERNELS = _native.decoder_kernels()
IDS: dict[str, Any] = {"bos_id": 2, "eos_id": 3, "pad_id": 0}
SIZES: dict[str, dict[str, Any]] = {
    "odd": {},
    "least": {"vocabulary": 5, "width": 1, "layers": 1, "heads": 1, "feed_forward": 1, "hidden": 1, "memory": 1},
    "one head, no multiple of four": {"width": 18, "heads": 1, "hidden": 7, "feed_forward": 13, "memory": 33},
    "whole blocks": {"width": 64, "heads": 4, "hidden": 128, "feed_forward": 96, "memory": 48, "vocabulary": 160},
    "many heads": {"width": 40, "heads": 20, "layers": 3, "memory": 17, "vocabulary": 65},
    "one output layer": {"hidden": 0, "memory": 35},
    "gated": {"regions": 8},
    "gated, one head, another padding": {"regions": 20, "width": 18, "heads": 1, "memory": 37, "padding": 4},
    "gated, whole blocks": {"regions": 32, "width": 64, "heads": 4, "memory": 48, "vocabulary": 160},
    "gated, least": {"regions": 1, "width": 1, "heads": 1, "memory": 2, "feed_forward": 1, "vocabulary": 5},
}
TOKENS = np.array([2, 4, 1, 3, 0, 0, 4, 3], np.int64)  # with padding in between, which gated layers mask
EXTREMES = (-1, -(2**63), 2**31, 2**32, 2**62, 2**63 - 1)


def opened(decoder: RandomDecoder, folder: Path, precision: str = "fp32") -> CaptionWeights:
    return open_caption_weights(decoder.write(folder / f"caption.{precision}.bin", precision))


def native(weights: CaptionWeights, kernels: str | None = None, **changes: Any) -> _native.CaptionDecoder:
    arguments: dict[str, Any] = {
        **dataclasses.asdict(weights.dims),
        "norm_epsilon": weights.norm_epsilon,
        "precision": weights.precision,
        "tensors": dict(weights.tensors),
        "kernels": kernels,
    }
    return _native.CaptionDecoder(**{**arguments, **changes})


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_fp32_equals_the_reference(size: str, kernels: str, tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES[size])
    built = native(opened(decoder, tmp_path), kernels)
    assert built.kernels == kernels
    for seed in range(2):
        memory = decoder.memory(seed)
        before = memory.copy()
        found = built.log_probs(memory, TOKENS)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, decoder.reference(memory).log_probs(TOKENS.tolist()), atol=3e-5)
        np.testing.assert_array_equal(memory, before)


@pytest.mark.parametrize("size", SIZES)
def test_int8_is_near_and_the_same_in_all_instruction_sets(size: str, tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES[size])
    weights = opened(decoder, tmp_path, "int8")
    memory = decoder.memory(0)
    expected = decoder.reference(memory).log_probs(TOKENS.tolist())
    first, *others = (native(weights, kernels).log_probs(memory, TOKENS) for kernels in KERNELS)
    # The spread of random logits is some 4.
    np.testing.assert_allclose(first, expected, atol=0.4)
    # Float sums in another order move some value over the edge between two whole numbers, here and there. The inputs of
    # a single output layer have a sign, so that these steps are twice as long.
    edge = 0.05 if decoder.parameters.keys() & {"output.4.weight"} else 0.2
    for other in others:
        np.testing.assert_allclose(other, first, atol=edge)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("size", ["odd", "gated"])
def test_searches_equal_the_reference(size: str, beam_size: int, kernels: str, tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES[size])
    built = native(opened(decoder, tmp_path), kernels)
    for seed in range(3):
        memory = decoder.memory(seed)
        language = decoder.reference(memory)
        for rules in [{}, {"min_length": 5, "length_penalty": 0.5}, {"no_repeat_ngram": 2, "repetition_penalty": 1.4}]:
            options = {"beam_size": beam_size, "max_length": 9, **IDS, **rules}
            found, _, _, runs, is_cut = built.write(memory, **options)
            expected = reference.caption_search(language, **options)
            assert [tuple(tokens) for tokens, _, _ in found] == [h.tokens for h in expected]
            np.testing.assert_allclose([score for _, _, score in found], [h.score for h in expected], atol=2e-5)
            assert 1 <= runs <= 9 and not is_cut


def test_words_follow_the_regions_and_the_grid(tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES["gated"])
    built = native(opened(decoder, tmp_path))
    memory = decoder.memory(0)
    expected = built.log_probs(memory, TOKENS)
    for i in (0, 12, 13, 20):
        other = memory.copy()
        other[i] = decoder.memory(1)[i]
        assert np.abs(built.log_probs(other, TOKENS) - expected).max() > 1e-3
    # A part of the memory is a set to its attention, where no positions tell its vectors apart.
    turned = np.concatenate([memory[:13], memory[13:][::-1]])
    np.testing.assert_allclose(built.log_probs(turned, TOKENS), expected, atol=2e-5)


def test_by_default_the_best_kernels_of_the_level(level: str, tmp_path: Path) -> None:
    chosen = native(opened(random_decoder(), tmp_path)).kernels
    of_level = {"portable": ("portable", "neon", "neondot"), "avx2": ("avx2", "avxvnni")}
    assert chosen in KERNELS and chosen in of_level.get(level, ("avx512", "avx512vnni"))


@pytest.mark.parametrize("size", SIZES)
def test_int8_is_the_same_to_the_bit_in_instruction_sets_that_sum_rows_alike(size: str, tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES[size])
    weights = opened(decoder, tmp_path, "int8")
    for alike in (("avx2", "avxvnni", "avx512vnni256"), ("avx512", "avx512vnni"), ("portable", "neon", "neondot")):
        answers = [native(weights, one).log_probs(decoder.memory(1), TOKENS) for one in alike if one in KERNELS]
        for other in answers[1:]:
            np.testing.assert_array_equal(other, answers[0])


def test_drawing_equals_the_reference(tmp_path: Path) -> None:
    decoder = random_decoder()
    built = native(opened(decoder, tmp_path))
    memory = decoder.memory(4)
    drawing = {"temperature": 1.5, "top_k": 6, "seed": 11}
    found, *_ = built.write(memory, beam_size=4, max_length=8, **IDS, **drawing)
    rules = reference.Rules((2, 0), 3)
    expected = reference.drawn_captions(decoder.reference(memory), 4, 8, rules, **drawing)
    assert [tuple(tokens) for tokens, _, _ in found] == [h.tokens for h in expected]
    np.testing.assert_allclose([score for _, _, score in found], [h.score for h in expected], atol=2e-5)


def test_a_budget_ends_the_search_with_what_there_is(tmp_path: Path) -> None:
    decoder = random_decoder()
    built = native(opened(decoder, tmp_path))
    options = {"beam_size": 3, "max_length": 9, "min_length": 8, **IDS}
    hypotheses, _, later_ns, runs, is_cut = built.write(decoder.memory(0), budget_ms=0, **options)
    assert (len(hypotheses), runs, is_cut) == (3, 1, True) and later_ns >= 0
    assert all(len(tokens) == 1 for tokens, _, _ in hypotheses)
    whole = built.write(decoder.memory(0), **options)
    assert built.write(decoder.memory(0), budget_ms=1e9, **options)[0] == whole[0] and not whole[4]


@pytest.mark.parametrize("size", ["odd", "gated"])
def test_memory_that_is_not_a_number_gives_no_words(size: str, tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES[size])
    for precision in ("fp32", "int8"):
        built = native(opened(decoder, tmp_path, precision))
        for value in (np.nan, np.inf):
            memory = decoder.memory(0)
            memory[-3, 2] = value
            hypotheses, *_ = built.write(memory, beam_size=2, max_length=9, **IDS)
            assert hypotheses == [([], 0.0, 0.0)]


def test_any_layout_of_the_memory(tmp_path: Path) -> None:
    decoder = random_decoder()
    built = native(opened(decoder, tmp_path))
    memory = decoder.memory(0)
    unaligned = np.frombuffer(b"\0" + memory.tobytes(), np.uint8)[1:].view(np.float32).reshape(memory.shape)
    expected = built.log_probs(memory, TOKENS)
    for other in (strided_copy(memory), np.asfortranarray(memory), unaligned):
        np.testing.assert_array_equal(built.log_probs(other, TOKENS), expected)


def test_two_threads_on_one_decoder(tmp_path: Path) -> None:
    decoder = random_decoder(width=48, heads=3, memory=64)
    built = native(opened(decoder, tmp_path))
    memories = [decoder.memory(seed) for seed in range(8)]
    options = {"beam_size": 4, "max_length": 10, **IDS}
    alone = [built.write(memory, **options)[0] for memory in memories]
    wrong: list[int] = []

    def work(start: int) -> None:
        for i in range(start, start + 40):
            # Beams of several widths, so that working memory passes from one to the other.
            built.write(memories[i % 8], beam_size=1 + i % 3, max_length=4, **IDS)
            if built.write(memories[i % 8], **options)[0] != alone[i % 8]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_threads_run_meanwhile(tmp_path: Path) -> None:
    decoder = random_decoder(width=96, heads=3, layers=4, memory=300, positions=40, vocabulary=2000)
    built = native(opened(decoder, tmp_path), "portable")
    assert_lets_threads_run(lambda: built.write(decoder.memory(0), beam_size=5, max_length=40, min_length=39, **IDS))


def test_the_decoder_keeps_its_weights_alive(tmp_path: Path) -> None:
    decoder = random_decoder()
    weights = opened(decoder, tmp_path)
    expected = native(weights).log_probs(decoder.memory(0), TOKENS)
    built = native(weights)
    del weights
    (tmp_path / "caption.fp32.bin").unlink()
    np.testing.assert_array_equal(built.log_probs(decoder.memory(0), TOKENS), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 25}, "width must be a multiple of heads, got 25 and 3"),
        ({"layers": 0}, "layers must lie in 1..16777216, got 0"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must lie between 0 and 1"),
        ({"precision": "fp64"}, "precision must be fp32 or int8, got fp64"),
        ({"regions": 21}, "regions must be at least 0 and less than memory, got 21 of 21"),
        ({"regions": -1}, "regions must be at least 0 and less than memory, got -1 of 21"),
        ({"regions": 2}, "hidden must be 0 with gated layers, which have one output layer, got 29"),
        ({"regions": 2, "hidden": 0}, "tensor layers.0.region_attention.query.bias is missing"),
        ({"padding": 37}, "padding must be at least 0 and less than vocabulary, got 37 of 37"),
        ({"hidden": -1}, "hidden must lie in 0..16777216, got -1"),
        ({"hidden": 0}, "tensor output.0.bias must be 192 contiguous and aligned bytes of float32, got 128 of float32"),
        ({"kernels": "mmx"}, "kernels must be one that this processor runs, got mmx"),
        ({"vocabulary": 38}, "tensor words must be 3648 contiguous and aligned bytes of float32, got 3552 of float32"),
        ({"layers": 3}, "tensor layers.2.self_attention.in.bias is missing"),
    ],
)
def test_weights_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    weights = opened(random_decoder(), tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        native(weights, **changes)


def test_bad_calls(tmp_path: Path) -> None:
    decoder = random_decoder()
    built = native(opened(decoder, tmp_path))
    memory = decoder.memory(0)
    options = {"beam_size": 2, **IDS}
    with pytest.raises(ValueError, match=re.escape("memory must have shape (21, 24), got (20, 24)")):
        built.write(memory[1:], max_length=4, **options)
    with pytest.raises(ValueError, match="memory must have dtype float32, got float64"):
        built.log_probs(memory.astype(float), TOKENS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_length must be at most the decoder's 12 positions, got 13"):
        built.write(memory, max_length=13, **options)
    with pytest.raises(ValueError, match="budget_ms must be at least 0, got -1"):
        built.write(memory, max_length=4, budget_ms=-1, **options)
    with pytest.raises(ValueError, match=re.escape("tokens must lie in 0..36, got 37")):
        built.log_probs(memory, np.array([37]))
    with pytest.raises(ValueError, match="tokens must be at most the decoder's 12 positions, got 13"):
        built.log_probs(memory, np.zeros(13, np.int64))


@pytest.mark.parametrize("size", ["odd", "gated"])
@pytest.mark.parametrize("extreme", [37, *EXTREMES])
def test_numbers_far_out_of_range(extreme: int, size: str, tmp_path: Path) -> None:
    decoder = random_decoder(**SIZES[size])
    built = native(opened(decoder, tmp_path))
    memory = decoder.memory(0)
    options = {"beam_size": 2, "max_length": 4, **IDS}
    for name in IDS:
        with pytest.raises(ValueError, match=rf"^{name} must lie in 0\.\.36, got {extreme}$"):
            built.write(memory, **{**options, name: extreme})
    with pytest.raises(ValueError, match=rf"^forbidden ids must lie in 0\.\.36, got {extreme}$"):
        built.write(memory, **options, forbidden=[1, extreme])
    with pytest.raises(ValueError, match=rf"^tokens must lie in 0\.\.36, got {extreme}$"):
        built.log_probs(memory, np.array([2, extreme], np.int64))
    for name in ("max_length", "min_length", *(["beam_size"] if extreme != 37 else [])):
        with pytest.raises(ValueError, match=rf"^{name} must [^\n]*, got {extreme}$"):
            built.write(memory, **{**options, name: extreme})
    if extreme > 0:
        many = np.broadcast_to(np.int64(2), (min(extreme, 2**40),))  # takes no room itself, its copy would
        with pytest.raises(ValueError, match=f"^tokens must be at most the decoder's 12 positions, got {len(many)}$"):
            built.log_probs(memory, many)


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("size", ["odd", "gated"])
def test_sizes_far_out_of_range(size: str, extreme: int, tmp_path: Path) -> None:
    weights = opened(random_decoder(**SIZES[size]), tmp_path)
    for name in dataclasses.asdict(weights.dims):
        change: dict[str, Any] = {name: extreme}
        with pytest.raises(ValueError, match=rf"^{name} must [^\n]*, got {extreme}( of (21|37))?$"):
            native(weights, **change)
