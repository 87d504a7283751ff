"""The training network as the runtime's graphs: names, shapes, dtypes, and the same answers as the network itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from yolor_edge.runtime.backends.base import TensorInfo
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.network.config import LONGEST_CAPTION, TASKS, Task
from yolor_edge.train.network.network import Network
from yolor_edge.train.torch_backend import TorchGraph, parts_of, spec_of, torch_model

from .tiny_network import tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = 24
SIZES = {"batch": 2, "beam": 3, "past": 4, "past + 1": 5}


@pytest.fixture(scope="module")
def network() -> Network:
    return tiny_network(seed=5)


def feed_of(graph: TorchGraph, seed: int = 0) -> dict[str, Any]:
    """Random inputs of a part, its free axes as in `SIZES`."""
    random = np.random.default_rng(seed)
    feed: dict[str, Any] = {}
    for name, info in graph.inputs.items():
        shape = shape_of(info)
        is_index = info.dtype == "int64"
        feed[name] = random.integers(0, WORDS, shape) if is_index else random.random(shape, dtype=np.float32)
    return feed


def shape_of(info: TensorInfo) -> tuple[int, ...]:
    return tuple(SIZES[axis] if isinstance(axis, str) else axis for axis in info.shape)


# What the runtime has to know.


def test_the_spec_is_that_of_the_configuration() -> None:
    config = tiny_config(name="small", category_ids=(3, 7, 90), caption_positions=30)
    spec = spec_of(config)
    assert spec.complaints() == []
    assert (spec.name, spec.tasks, spec.input_size) == ("small", TASKS, (64, 96))
    assert (spec.strides, spec.reg_max) == ((8, 16, 32), 16)
    assert spec.category_ids == (3, 7, 90)
    assert spec.class_names == config.class_names
    assert spec.semantic_names == config.semantic_names
    assert spec.semantic_category_ids == config.semantic_category_ids
    assert spec.caption is not None
    assert spec.caption.vocabulary == config.vocabulary


@pytest.mark.parametrize(("positions", "longest"), [(12, 11), (41, 40), (42, LONGEST_CAPTION), (128, LONGEST_CAPTION)])
def test_captions_end_where_the_positions_do(positions: int, longest: int) -> None:
    caption = spec_of(tiny_config(caption_positions=positions)).caption
    assert caption is not None
    assert caption.max_length == longest


def test_without_a_caption_there_are_no_words() -> None:
    spec = spec_of(tiny_config(tasks=("boxes",)))
    assert spec.caption is None
    assert spec.complaints() == []


# The parts.


@pytest.mark.parametrize("part", ["vision", "caption_prefill", "caption_step"])
def test_outputs_are_as_announced(network: Network, part: str) -> None:
    graph = parts_of(network)[part]
    found = graph.run(feed_of(graph))
    assert list(found) == list(graph.outputs)
    for name, info in graph.outputs.items():
        assert info.name == name
        assert (found[name].shape, str(found[name].dtype)) == (shape_of(info), info.dtype), name


@pytest.mark.parametrize(
    ("tasks", "outputs"),
    [
        (("boxes",), ["class_logits", "box_bins"]),
        (("boxes", "masks"), ["class_logits", "box_bins", "mask_coefficients", "prototypes"]),
        (("semantic",), ["semantic_logits"]),
        (("caption",), ["caption_memory"]),
    ],
)
def test_only_the_heads_there_are(tasks: tuple[Task, ...], outputs: list[str]) -> None:
    parts = parts_of(tiny_network(tasks=tasks))
    assert set(parts) == ({"vision", "caption_prefill", "caption_step"} if "caption" in tasks else {"vision"})
    found = parts["vision"].run(feed_of(parts["vision"]))
    assert list(found) == list(parts["vision"].outputs) == outputs


def test_vision_is_the_network(network: Network) -> None:
    graph = parts_of(network)["vision"]
    feed = feed_of(graph)
    found = graph.run(feed)
    with torch.inference_mode():
        expected = network(torch.from_numpy(feed["images"]))
    for name, value in expected.items():
        assert np.array_equal(found[name], value.numpy()), name


@pytest.mark.parametrize("input_size", [(64, 96), (96, 64), (32, 160)])
def test_word_by_word_is_the_whole_caption_at_once(network: Network, input_size: tuple[int, int]) -> None:
    """Prefill and steps with their caches give what the decoder's training form gives, at any input size."""
    parts = parts_of(network, input_size)
    images = np.random.default_rng(1).random((1, 3, *input_size), dtype=np.float32)
    memory = parts["vision"].run({"images": images}, ["caption_memory"])["caption_memory"]
    tokens = [2, 7, 4, 19, 4]
    first = np.array(tokens[:1], np.int64)
    state = parts["caption_prefill"].run({"caption_memory": memory, "tokens": first})
    cross = {name: state[name] for name in ("cross_keys", "cross_values")}
    log_probs = [state["log_probs"][0]]
    for token in tokens[1:]:
        past = {"past_keys": state["present_keys"], "past_values": state["present_values"]}
        state = parts["caption_step"].run({"tokens": np.array([token], np.int64), **past, **cross})
        log_probs.append(state["log_probs"][0])
    with torch.inference_mode():
        where = network.memory_positions(input_size)
        logits = network.caption_decoder(torch.tensor([tokens]), torch.from_numpy(memory), where)
        expected = torch.log_softmax(logits, -1)[0].numpy()
    np.testing.assert_allclose(np.stack(log_probs), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.exp(expected).sum(1), 1, rtol=1e-5)


def test_hypotheses_of_a_beam_do_not_mix(network: Network) -> None:
    graph = parts_of(network)["caption_step"]
    feed = feed_of(graph)
    together = graph.run(feed)
    for row in range(3):
        alone = graph.run(
            {
                "tokens": feed["tokens"][row : row + 1],
                **{name: feed[name][:, row : row + 1] for name in ("past_keys", "past_values")},
                **{name: feed[name] for name in ("cross_keys", "cross_values")},
            }
        )
        np.testing.assert_allclose(together["log_probs"][row], alone["log_probs"][0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(together["present_keys"][:, row], alone["present_keys"][:, 0], rtol=0, atol=1e-5)


def test_only_wanted_outputs_are_returned(network: Network) -> None:
    graph = parts_of(network)["vision"]
    feed = feed_of(graph)
    assert list(graph.run(feed, ["prototypes", "class_logits"])) == ["prototypes", "class_logits"]
    assert graph.run(feed, []) == {}
    with pytest.raises(UsageError, match="there is no output 'depth'"):
        graph.run(feed, ["depth"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 64, 64), np.float32), r"'images' must have shape \(batch, 3, 64, 96\), got \(1, 3, 64, 64\)"),
        (np.zeros((3, 64, 96), np.float32), r"'images' must have shape \(batch, 3, 64, 96\), got \(3, 64, 96\)"),
        (np.zeros((1, 3, 64, 96)), "'images' must be float32, got float64"),
    ],
)
def test_a_wrong_feed_is_refused(network: Network, images: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parts_of(network)["vision"].run({"images": images})


def test_a_feed_with_other_names_is_refused(network: Network) -> None:
    with pytest.raises(UsageError, match="input 'images' is missing; there is no input 'image'"):
        parts_of(network)["vision"].run({"image": np.zeros((1, 3, 64, 96), np.float32)})


def test_strided_and_read_only_inputs(network: Network) -> None:
    """Neither changes an answer, nor do answers share memory with what was fed or answered before."""
    graph = parts_of(network)["vision"]
    images = feed_of(graph)["images"]
    expected = graph.run({"images": images})
    before = images.copy()
    frozen = images.copy()
    frozen.flags.writeable = False
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    backwards = images[::-1].copy()[::-1]
    for given in (frozen, turned, backwards):
        found = graph.run({"images": given})
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
        for value in found.values():
            value[...] = 0
    assert np.array_equal(images, before)
    assert np.array_equal(graph.run({"images": images})["class_logits"], expected["class_logits"])


def test_running_leaves_the_network_as_it_was(network: Network) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for graph in parts_of(network).values():
        graph.run(feed_of(graph))
        graph.close()
        graph.close()
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        parts_of(tiny_network(tasks=("boxes",)).train())


def test_everything_is_on_the_device_of_the_network(network: Network) -> None:
    """As validation on a GPU needs it; the meta device shows it without one."""
    elsewhere = Network(network.config).eval().to("meta")
    for name, graph in parts_of(elsewhere).items():
        tensors = [*graph.part.parameters(), *graph.part.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}, name


# The pipeline over it.


def test_the_pipeline_answers_all_tasks(network: Network) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 120, 3)).astype(np.uint8)
    with torch_model(network) as model:
        result = model.predict(image, score_threshold=0.001)
        again = model.predict(image, score_threshold=0.001)
    assert result.boxes is not None and len(result.boxes) > 0
    assert result.masks is not None and len(result.masks) == len(result.boxes)
    assert result.semantic_map is not None and result.semantic_map.shape == (50, 120)
    assert result.caption is not None and 0 < len(result.caption.token_ids) <= LONGEST_CAPTION
    assert again.caption == result.caption
    assert again.boxes is not None and np.array_equal(again.boxes, result.boxes)


def test_a_network_for_one_task_answers_only_that() -> None:
    config = dataclasses.replace(tiny_config(), tasks=("semantic",))
    with torch_model(Network(config).eval()) as model:
        result = model.predict(np.zeros((64, 96, 3), np.uint8))
    assert result.semantic_map is not None
    assert (result.boxes, result.masks, result.caption) == (None, None, None)


def test_regions_are_part_of_the_memory_of_every_graph() -> None:
    parts = parts_of(tiny_network(caption_regions=20))
    vectors = 2 * 3 + 20 + 5
    assert parts["vision"].outputs["caption_memory"].shape == ("batch", vectors, 128)
    assert parts["caption_prefill"].inputs["caption_memory"].shape == (1, vectors, 128)
    for name in ("cross_keys", "cross_values"):
        assert parts["caption_prefill"].outputs[name].shape == (3, 1, 4, vectors, 32)
        assert parts["caption_step"].inputs[name].shape == (3, 1, 4, vectors, 32)


def test_a_gated_network_writes_captions() -> None:
    network = tiny_network(caption_regions=20)
    image = np.zeros((50, 60, 3), np.uint8)
    with torch_model(network) as model:
        caption = model.predict(image, ["caption"]).caption
    assert caption is not None and caption.token_ids


def test_another_input_size_has_another_number_of_regions() -> None:
    network = tiny_network(caption_regions=200)
    message = "the caption decoder looks at 131 regions, an image of 128x128 has 205; make a network of that input size"
    with pytest.raises(ValueError, match=f"^{message}$"):
        parts_of(network, (128, 128))
