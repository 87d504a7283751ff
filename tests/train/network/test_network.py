"""The network: published sizes, any subset of heads, the shapes that the runtime expects."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from yolor_edge.train.losses import cell_centres
from yolor_edge.train.network.blocks import SPPCSPC, ImplicitAdd, ImplicitMul, Prediction
from yolor_edge.train.network.config import SIZES, TASKS, Task
from yolor_edge.train.network.network import Network

from ...reference import boxes as reference_boxes
from ..tiny_network import published_config, tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")

SUBSETS: list[tuple[Task, ...]] = [
    tuple(task for task in TASKS if task in (*dense, *semantic, *caption))
    for dense, semantic, caption in itertools.product(
        ((), ("boxes",), ("boxes", "masks")), ((), ("semantic",)), ((), ("caption",))
    )
    if dense or semantic or caption
]


def parameters_of(size: str, tasks: tuple[Task, ...]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Network(published_config(size, tasks=tasks)).parameters())


@pytest.mark.parametrize(
    ("tasks", "millions"),
    [
        (("boxes",), 43.6),
        (("boxes", "masks"), 45.9),
        (("boxes", "masks", "semantic"), 46.1),
        (("boxes", "masks", "semantic", "caption"), 79.7),
    ],
)
def test_size_l_has_the_published_number_of_parameters(tasks: tuple[Task, ...], millions: float) -> None:
    """Counted on the public definition of the network (network.md); within 1 %."""
    assert parameters_of("l", tasks) / 1e6 == pytest.approx(millions, rel=0.01)


def test_sizes_rise() -> None:
    counts = [parameters_of(size, ("boxes", "masks", "semantic")) for size in SIZES]
    assert all(1.5 * smaller < larger for smaller, larger in itertools.pairwise(counts))


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_every_subset_of_heads_gives_exactly_its_outputs(tasks: tuple[Task, ...]) -> None:
    network = tiny_network(tasks=tasks)
    height, width = 96, 64
    cells = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    shapes = {
        "boxes": {"class_logits": (2, 3, cells), "box_bins": (2, 4 * 16, cells)},
        "masks": {"mask_coefficients": (2, 32, cells), "prototypes": (2, 32, height // 4, width // 4)},
        "semantic": {"semantic_logits": (2, 5, height // 8, width // 8)},
        "caption": {"caption_memory": (2, (height // 32) * (width // 32), 128)},
    }
    with torch.no_grad():
        outputs = network(torch.rand(2, 3, height, width))
    expected = {name: shape for task in tasks for name, shape in shapes[task].items()}
    assert {name: tuple(output.shape) for name, output in outputs.items()} == expected
    assert all(output.dtype == torch.float32 for output in outputs.values())
    assert all(torch.isfinite(output).all() for output in outputs.values())


@pytest.mark.parametrize("size", SIZES)
def test_every_size_runs_on_a_picture_of_one_cell(size: str) -> None:
    config = tiny_config(size)
    with torch.no_grad():
        outputs = Network(config).eval()(torch.rand(1, 3, 32, 32))
    assert outputs["class_logits"].shape == (1, 3, 16 + 4 + 1)
    assert outputs["caption_memory"].shape == (1, 1, config.plan.caption_width)


@pytest.mark.parametrize("tasks", [tasks for tasks in SUBSETS if "boxes" in tasks and "caption" in tasks], ids="+".join)
def test_regions_follow_the_grid_in_the_memory(tasks: tuple[Task, ...]) -> None:
    network = tiny_network(tasks=tasks, caption_regions=20)
    plain = tiny_network(tasks=tasks)
    regions = 20 + (5 if "semantic" in tasks else 0)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        memory = network(images)["caption_memory"]
        shapes = {name: output.shape for name, output in plain(images).items()}
        assert {name: output.shape for name, output in network(images).items()} == {
            **shapes,
            "caption_memory": (2, 6 + regions, 128),
        }
        grid = network.grid_memory(network.features(images))
        torch.testing.assert_close(memory[:, :6], network.grid_encoder(grid, plain.memory_positions((64, 96))))
    where = network.memory_positions((64, 96))
    assert where.shape == (6 + regions, 128)
    assert not where.any()  # The encoded grid holds its places, and regions theirs.
    assert network.caption_decoder.regions == regions
    margins = network.region_margins(images)
    assert margins is not None and margins.shape == (2, regions)
    assert plain.region_margins(images) is None


@pytest.mark.parametrize("tasks", [("caption",), ("semantic", "caption"), ("boxes", "caption"), ("boxes", "semantic")])
def test_a_part_of_a_network_with_regions_answers_as_the_whole(tasks: tuple[Task, ...]) -> None:
    whole = tiny_network(caption_regions=20)
    part = Network(whole.config.with_tasks(tasks)).eval()
    part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = whole(images), part(images)
    names = {"boxes": ("class_logits", "box_bins"), "semantic": ("semantic_logits",), "caption": ("caption_memory",)}
    assert list(found) == [name for task in tasks for name in names[task]]
    assert all(torch.equal(output, expected[name]) for name, output in found.items())
    if "boxes" not in tasks:  # Of the boxes only what cells are chosen by.
        assert not any(name.startswith("box_head.boxes") for name in part.state_dict())


def test_gated_and_plain_networks_share_the_names_of_what_they_share() -> None:
    """So that one can start from the other's weights; the plain one's names are those of older checkpoints."""
    plain = set(tiny_network().state_dict())
    gated = set(tiny_network(caption_regions=20).state_dict())
    own = ("region_memory.", "grid_encoder.", "caption_decoder.layers.", "caption_decoder.output.")
    assert not [name for name in gated - plain if not name.startswith(own)]
    kinds = {".".join(name.split(".")[:2]) for name in plain - gated}
    assert kinds == {"caption_decoder.norm", "caption_decoder.memory_norm", "caption_decoder.output"}


def test_a_picture_does_not_depend_on_its_batch() -> None:
    network = tiny_network()
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        together = network(images)
        alone = network(images[1:2])
    for name, output in together.items():
        torch.testing.assert_close(output[1:2], alone[name], rtol=1e-4, atol=1e-5)


def test_implicit_vectors_stand_around_every_last_convolution() -> None:
    network = tiny_network()
    predictions = [module for module in network.modules() if isinstance(module, Prediction)]
    # Three levels of classes, box sides and mask coefficients; prototypes; semantic map; caption memory.
    assert len(predictions) == 3 * 3 + 3
    for prediction in predictions:
        add, conv, multiply = prediction
        assert isinstance(add, ImplicitAdd)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(multiply, ImplicitMul)
        assert add.vector.shape[1] == conv.in_channels
        assert multiply.vector.shape[1] == conv.out_channels
        assert add.vector.detach().abs().max() < 0.2
        assert (multiply.vector.detach() - 1).abs().max() < 0.2


def test_the_pyramid_sees_5_9_and_13_cells() -> None:
    """Three pools of 5 in a row, against one pool of each size."""
    x = torch.randn(1, 4, 17, 15)
    pool = SPPCSPC(4, 4).pool
    seen = x
    for side in (5, 9, 13):
        seen = pool(seen)
        assert torch.equal(seen, nn.functional.max_pool2d(x, side, 1, side // 2))


def test_a_new_network_believes_in_almost_nothing() -> None:
    with torch.no_grad():
        scores = tiny_network()(torch.rand(1, 3, 64, 64))["class_logits"].sigmoid()
    assert 0.002 < scores.mean() < 0.05


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 64)])
def test_cells_lie_where_the_runtime_looks_for_them(size: tuple[int, int]) -> None:
    points, strides = cell_centres(size, (8, 16, 32))
    expected = torch.from_numpy(reference_boxes.cell_centres([8, 16, 32], size)).float()
    assert torch.equal(torch.cat((points, strides[:, None]), 1), expected)


def test_features_answer_for_the_place_they_stand_at() -> None:
    """A change at the right edge of a wide image moves the right of every map more than its left."""
    network = tiny_network(tasks=("boxes", "masks", "semantic"))
    image = torch.full((1, 3, 32, 512), 0.5)
    changed = image.clone()
    changed[..., -32:] = 1.0
    with torch.no_grad():
        before, after = network(image), network(changed)
    for name in ("semantic_logits", "prototypes"):
        difference = (before[name] - after[name]).abs().mean((0, 1, 2))
        assert difference[-2:].mean() > 2 * difference[: len(difference) // 4].mean()
