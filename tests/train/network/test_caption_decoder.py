"""The text decoder: word by word with caches it says what it says of the whole caption at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from yolor_edge.train.network.caption_decoder import HIDDEN, CaptionDecoder, Decoder, DecoderLayer, sine_positions
from yolor_edge.train.network.gated_captioner import GatedDecoder, GatedDecoderLayer, GridEncoder

from ...reference.caption_decoder import ReferenceDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS, WIDTH, LAYERS, HEADS = 30, 32, 3, 4
CELLS, PADDING = 6, 0


def decoder_of(regions: int = 0, output_layers: int = 3) -> Decoder:
    torch.manual_seed(1)
    sizes = (WORDS, WIDTH, LAYERS, HEADS, 48, 12)
    made: Decoder
    if regions:
        made = GatedDecoder(*sizes, regions, PADDING).eval()
    else:
        made = CaptionDecoder(*sizes, output_layers=output_layers).eval()
    for parameter in made.parameters():  # Far from the start, where little depends on anything.
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return made.requires_grad_(False)


@pytest.fixture(params=[(0, 3), (0, 1), (5, 1)], ids=["plain", "plain, one output", "gated"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Plain layers, with three output layers or one, or gated ones over five regions."""
    return decoder_of(*request.param)


def memory_of(decoder: Decoder, pictures: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """A grid of 2 x 3 and after it the decoder's regions, which have no positions."""
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(pictures, CELLS + decoder.regions, WIDTH, generator=generator)
    return memory, torch.cat((sine_positions(2, 3, WIDTH), torch.zeros(decoder.regions, WIDTH)))


def test_step_by_step_equals_the_whole_caption(decoder: Decoder) -> None:
    memory, where = memory_of(decoder, 1)
    tokens = torch.randint(4, WORDS, (1, 12), generator=torch.Generator().manual_seed(3))
    tokens[0, [4, 5, 9]] = PADDING  # masked by gated layers, a word like others to plain ones
    whole = decoder(tokens, memory, where).log_softmax(-1)
    log_probs, cross_keys, cross_values, keys, values = decoder.prefill(tokens[:, 0], memory, where)
    head_width = WIDTH // HEADS
    assert cross_keys.shape == cross_values.shape == (LAYERS, 1, HEADS, CELLS + decoder.regions, head_width)
    torch.testing.assert_close(log_probs, whole[:, 0], rtol=1e-5, atol=1e-5)
    for position in range(1, 12):
        assert keys.shape == values.shape == (LAYERS, 1, HEADS, position, head_width)
        log_probs, keys, values = decoder.step(tokens[:, position], keys, values, cross_keys, cross_values)
        torch.testing.assert_close(log_probs, whole[:, position], rtol=1e-5, atol=1e-5)


def test_the_decoder_is_its_definition(decoder: Decoder) -> None:
    """Against the readable twin in double precision."""
    memory, where = memory_of(decoder, 1)
    tokens = torch.tensor([[2, 5, PADDING, 6, 7, PADDING, 9]])
    parameters = {name: value.numpy() for name, value in decoder.state_dict().items()}
    twin = ReferenceDecoder(parameters, HEADS, memory[0].numpy(), where.double().numpy(), decoder.regions)
    found = decoder(tokens, memory, where)[0].log_softmax(-1)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(twin.log_probs(tokens[0].tolist())), rtol=1e-4, atol=1e-4
    )


def test_hypotheses_share_the_cross_keys_of_their_picture(decoder: Decoder) -> None:
    """A beam of three with gathered caches, against three captions of their own."""
    memory, where = memory_of(decoder, 1)
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


def test_log_probs_add_up_to_one(decoder: Decoder) -> None:
    memory, where = memory_of(decoder, 1)
    log_probs, *_ = decoder.prefill(torch.tensor([2]), memory, where)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1))


def test_a_word_does_not_see_those_after_it(decoder: Decoder) -> None:
    memory, where = memory_of(decoder, 1)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 5, 9, 9]])
    logits = decoder(tokens, memory.expand(2, -1, -1), where)
    torch.testing.assert_close(logits[0, :2], logits[1, :2], rtol=0, atol=1e-6)
    assert (logits[0, 2:] - logits[1, 2:]).abs().max() > 1e-3


def test_a_caption_depends_on_the_picture_and_on_where_things_are(decoder: Decoder) -> None:
    memory, where = memory_of(decoder, 1)
    tokens = torch.tensor([[2, 5]])
    logits = decoder(tokens, memory, where)
    assert (decoder(tokens, memory_of(decoder, 1, seed=9)[0], where) - logits).abs().max() > 1e-3
    # Attention alone does not know the order of its memory; the sine encoding tells left from right. Gated layers are
    # not told: the vectors of their memory know it themselves.
    turned = [*reversed(range(CELLS)), *range(CELLS, len(where))]
    moved = (decoder(tokens, memory[:, turned], where) - logits).abs().max()
    assert moved > 1e-3 if decoder.regions == 0 else moved < 1e-5
    both = decoder(tokens, memory[:, turned], where[turned])
    torch.testing.assert_close(both, logits, rtol=1e-5, atol=1e-5)


def test_regions_are_the_last_vectors_of_the_memory() -> None:
    """Regions have their place in their vectors: their order says nothing, but a grid's cell is no region."""
    decoder = decoder_of(regions=5)
    memory, where = memory_of(decoder, 1)
    tokens = torch.tensor([[2, 5, 6]])
    logits = decoder(tokens, memory, where)
    reordered = [*range(CELLS), *reversed(range(CELLS, CELLS + 5))]
    torch.testing.assert_close(decoder(tokens, memory[:, reordered], where), logits, rtol=1e-5, atol=1e-5)
    swapped = [*range(CELLS - 1), CELLS, CELLS - 1, *range(CELLS + 1, CELLS + 5)]
    assert (decoder(tokens, memory[:, swapped], where[swapped]) - logits).abs().max() > 1e-3


def test_a_closed_gate_hides_the_memory_and_the_words() -> None:
    """There is one gate for both looks, and no way around them."""
    decoder = decoder_of(regions=5)
    memory, where = memory_of(decoder, 1)
    tokens = torch.tensor([[2, 5, 6]])
    for part in (slice(0, CELLS), slice(CELLS, None)):
        changed = memory.clone()
        changed[:, part] *= -1
        assert (decoder(tokens, changed, where) - decoder(tokens, memory, where)).abs().max() > 1e-2
    for layer in decoder.layers:
        assert isinstance(layer, GatedDecoderLayer)
        layer.gate.weight.zero_()
        layer.gate.bias.fill_(-100.0)
    logits = decoder(tokens, memory, where)
    torch.testing.assert_close(decoder(tokens, -memory, where), logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits[:, 0], logits[:, 2], rtol=0, atol=1e-6)


def test_padding_is_not_seen_and_says_nothing() -> None:
    decoder = decoder_of(regions=5)
    memory, where = memory_of(decoder, 1)
    with_padding = decoder(torch.tensor([[2, 5, PADDING, 6]]), memory, where)
    assert not with_padding[0, 2].any()
    # The word after it sees what it would see without it, two positions further on.
    decoder.positions.weight[2] = decoder.positions.weight[3]
    without = decoder(torch.tensor([[2, 5, 6]]), memory, where)
    torch.testing.assert_close(without[0, 2], with_padding[0, 3], rtol=1e-5, atol=1e-5)
    _, *cross, keys, values = decoder.prefill(torch.tensor([2]), memory, where)
    _, keys, _ = decoder.step(torch.tensor([PADDING]), keys, values, cross[0], cross[1])
    assert (keys[:, :, :, 1] == HIDDEN).all()
    assert not (keys[:, :, :, 0] == HIDDEN).any()


def test_a_grid_is_encoded_with_places_or_without() -> None:
    torch.manual_seed(1)
    encoder = GridEncoder(8, WIDTH, HEADS, 48, layers=1).eval()
    cells = torch.randn(2, CELLS, 8)
    where = sine_positions(2, 3, WIDTH)
    plain = encoder(cells)
    assert plain.shape == (2, CELLS, WIDTH)
    turned = [*reversed(range(CELLS))]
    torch.testing.assert_close(encoder(cells[:, turned]), plain[:, turned], rtol=1e-5, atol=1e-5)
    assert (encoder(cells[:, turned], where) - encoder(cells, where)[:, turned]).abs().max() > 1e-3


def test_a_gate_sees_the_word_before_and_after_its_look() -> None:
    """Weights of either half move the words."""
    decoder = decoder_of(regions=5)
    memory, where = memory_of(decoder, 1)
    tokens = torch.tensor([[2, 5, 6]])
    logits = decoder(tokens, memory, where)
    for half in (slice(0, WIDTH), slice(WIDTH, None)):
        changed = copy.deepcopy(decoder)
        changed.get_parameter("layers.0.gate.weight")[:, half] *= -1
        assert (changed(tokens, memory, where) - logits).abs().max() > 1e-3


def test_plain_layers_have_the_parameters_they_always_had() -> None:
    """Checkpoints name them so, and a seed draws them in this order."""
    torch.manual_seed(4)
    decoder = CaptionDecoder(7, 8, layers=1, heads=2, feed_forward=12, positions=3)
    linear, norm = ("weight", "bias"), ("weight", "bias")
    expected = [
        "words.weight",
        "positions.weight",
        *(f"{name}.{part}" for name in ("norm", "memory_norm") for part in norm),
    ]
    for attention in ("self_attention", "cross_attention"):
        expected += [
            f"layers.0.{attention}.{of}.{part}" for of in ("query", "key", "value", "output") for part in linear
        ]
    expected += [f"layers.0.feed_forward.{i}.{part}" for i in (0, 3) for part in linear]
    expected += [f"layers.0.norms.{i}.{part}" for i in range(3) for part in norm]
    expected += [f"output.{i}.{part}" for i in (0, 2, 4) for part in linear]
    assert list(decoder.state_dict()) == expected


def test_gated_layers_add_their_parameters_to_the_plain_ones() -> None:
    """And have neither norms before the layers nor a bias of the words."""
    plain = set(decoder_of(output_layers=1).state_dict())
    gated = set(decoder_of(regions=5).state_dict())
    added = [f"region_attention.{of}" for of in ("query", "key", "value", "output")] + ["gate", "region_norm"]
    names = {f"layers.{i}.{name}.{part}" for i in range(LAYERS) for name in added for part in ("weight", "bias")}
    assert gated - plain == {*names, "output.weight"}
    assert {name.split(".")[0] for name in plain - gated} == {"norm", "memory_norm", "output"}


@pytest.mark.parametrize("learns", [True, False])
def test_positions_are_learned_or_stay_as_they_are(learns: bool) -> None:
    decoder = GatedDecoder(WORDS, WIDTH, 1, HEADS, 48, 12, 5, PADDING, learns_positions=learns)
    learned = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert ("positions.weight" in learned) is learns


@pytest.mark.parametrize("output_layers", [0, 2, 4])
def test_other_numbers_of_output_layers_are_refused(output_layers: int) -> None:
    with pytest.raises(ValueError, match=rf"^output_layers must be 1 or 3, got {output_layers}$"):
        decoder_of(output_layers=output_layers)


def test_pictures_in_a_batch_do_not_mix(decoder: Decoder) -> None:
    memory, where = memory_of(decoder, 2)
    tokens = torch.tensor([[2, 5, 6], [2, 7, 8]])
    together = decoder(tokens, memory, where)
    for i in range(2):
        alone = decoder(tokens[i : i + 1], memory[i : i + 1], where)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_dropout_is_for_training_only(decoder: Decoder) -> None:
    memory, where = memory_of(decoder, 1)
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


def test_captions_of_one_image_share_its_keys_and_values(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and gradients are those of a memory repeated for each caption; the projection sees each image once."""
    memory, where = memory_of(decoder, 3)
    memory.requires_grad_()
    owners = torch.tensor([0, 0, 0, 2, 2])
    tokens = torch.randint(4, WORDS, (5, 7), generator=torch.Generator().manual_seed(1))
    seen: list[int] = []
    layer: Any = type(decoder.layers[0])
    cross = layer.cross

    def counting(own: DecoderLayer, memory: Tensor, keyed: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(memory))
        return cross(own, memory, keyed)

    monkeypatch.setattr(layer, "cross", counting)
    shared = decoder(tokens, memory, where, owners)
    assert seen == [3] * LAYERS
    repeated = decoder(tokens, memory[owners], where)
    torch.testing.assert_close(shared, repeated)
    gradients = [torch.autograd.grad(logits.square().mean(), memory)[0] for logits in (shared, repeated)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert not gradients[0][1].any()
