"""The text decoder: word by word with caches it says what it says of the whole caption at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from yolor_edge.train.caption_decoder import CaptionDecoder, sine_positions

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS, WIDTH, LAYERS, HEADS = 30, 32, 3, 4


@pytest.fixture
def decoder() -> CaptionDecoder:
    torch.manual_seed(1)
    made = CaptionDecoder(WORDS, WIDTH, LAYERS, HEADS, feed_forward=48, positions=12).eval()
    for parameter in made.parameters():  # Far from the start, where little depends on anything.
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return made.requires_grad_(False)


def memory_of(pictures: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pictures, 6, WIDTH, generator=generator), sine_positions(2, 3, WIDTH)


def test_step_by_step_equals_the_whole_caption(decoder: CaptionDecoder) -> None:
    memory, where = memory_of(1)
    tokens = torch.randint(WORDS, (1, 12), generator=torch.Generator().manual_seed(3))
    whole = decoder(tokens, memory, where).log_softmax(-1)
    log_probs, cross_keys, cross_values, keys, values = decoder.prefill(tokens[:, 0], memory, where)
    head_width = WIDTH // HEADS
    assert cross_keys.shape == cross_values.shape == (LAYERS, 1, HEADS, 6, head_width)
    torch.testing.assert_close(log_probs, whole[:, 0], rtol=1e-5, atol=1e-5)
    for position in range(1, 12):
        assert keys.shape == values.shape == (LAYERS, 1, HEADS, position, head_width)
        log_probs, keys, values = decoder.step(tokens[:, position], keys, values, cross_keys, cross_values)
        torch.testing.assert_close(log_probs, whole[:, position], rtol=1e-5, atol=1e-5)


def test_hypotheses_share_the_cross_keys_of_their_picture(decoder: CaptionDecoder) -> None:
    """A beam of three with gathered caches, against three captions of their own."""
    memory, where = memory_of(1)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 5, 9, 4], [2, 8, 8, 1]])
    _, cross_keys, cross_values, keys, values = decoder.prefill(tokens[:1, 0], memory, where)
    parents = torch.zeros(3, dtype=torch.int64)
    keys, values = keys[:, parents], values[:, parents]
    whole = decoder(tokens, memory.expand(3, -1, -1), where).log_softmax(-1)
    for position in range(1, 4):
        log_probs, keys, values = decoder.step(tokens[:, position], keys, values, cross_keys, cross_values)
        assert log_probs.shape == (3, WORDS)
        torch.testing.assert_close(log_probs, whole[:, position], rtol=1e-5, atol=1e-5)
    assert keys.shape == (LAYERS, 3, HEADS, 4, WIDTH // HEADS)


def test_log_probs_add_up_to_one(decoder: CaptionDecoder) -> None:
    memory, where = memory_of(1)
    log_probs, *_ = decoder.prefill(torch.tensor([2]), memory, where)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1))


def test_a_word_does_not_see_those_after_it(decoder: CaptionDecoder) -> None:
    memory, where = memory_of(1)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 5, 0, 0]])
    logits = decoder(tokens, memory.expand(2, -1, -1), where)
    torch.testing.assert_close(logits[0, :2], logits[1, :2], rtol=0, atol=1e-6)
    assert (logits[0, 2:] - logits[1, 2:]).abs().max() > 1e-3


def test_a_caption_depends_on_the_picture_and_on_where_things_are(decoder: CaptionDecoder) -> None:
    memory, where = memory_of(1)
    tokens = torch.tensor([[2, 5]])
    logits = decoder(tokens, memory, where)
    assert (decoder(tokens, memory_of(1, seed=9)[0], where) - logits).abs().max() > 1e-3
    # Attention alone does not know the order of its memory; the sine encoding tells left from right.
    assert (decoder(tokens, memory.flip(1), where) - logits).abs().max() > 1e-3
    both = decoder(tokens, memory.flip(1), where.flip(0))
    torch.testing.assert_close(both, logits, rtol=1e-5, atol=1e-5)


def test_pictures_in_a_batch_do_not_mix(decoder: CaptionDecoder) -> None:
    memory, where = memory_of(2)
    tokens = torch.tensor([[2, 5, 6], [2, 7, 8]])
    together = decoder(tokens, memory, where)
    for i in range(2):
        alone = decoder(tokens[i : i + 1], memory[i : i + 1], where)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_dropout_is_for_training_only(decoder: CaptionDecoder) -> None:
    memory, where = memory_of(1)
    tokens = torch.tensor([[2, 5, 6]])
    assert torch.equal(decoder(tokens, memory, where), decoder(tokens, memory, where))
    decoder.train()
    assert not torch.equal(decoder(tokens, memory, where), decoder(tokens, memory, where))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 9)])
def test_every_place_has_its_own_encoding(height: int, width: int) -> None:
    where = sine_positions(height, width, 16)
    assert where.shape == (height * width, 16)
    assert where.dtype == torch.float32
    assert where.abs().max() <= 1
    if height * width > 1:
        distances = torch.cdist(where, where) + torch.eye(height * width)
        assert distances.min() > 0.05


def test_the_encoding_is_of_the_share_of_the_picture_not_of_cells() -> None:
    """The middle column of three lies where that of five lies."""
    narrow, wide = sine_positions(1, 3, 16), sine_positions(1, 5, 16)
    torch.testing.assert_close(narrow[1], wide[2])
    rows = sine_positions(2, 3, 16).unflatten(0, (2, 3))
    assert torch.equal(rows[0, 0, :8], rows[0, 2, :8])  # y in the first half of the channels
    assert torch.equal(rows[0, 1, 8:], rows[1, 1, 8:])  # x in the second
