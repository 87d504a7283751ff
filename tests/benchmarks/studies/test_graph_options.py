"""The measurement of heads and graph options, on a network that was never trained."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from yolor_edge.benchmarks.studies.graph_options import VARIANTS, Variant, measure_variants, table  # noqa: E402
from yolor_edge.runtime.bundle.graph_options import GraphOptions  # noqa: E402

from ...export.exported import one_torch_thread  # noqa: E402
from ...train.tiny_network import tiny_network  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def test_every_variant_is_measured_and_compared_with_the_first() -> None:
    network = tiny_network(tasks=("boxes", "semantic"))
    pictures = {"a": np.full((50, 70, 3), 90, np.uint8), "b": np.zeros((64, 96, 3), np.uint8)}
    variants = (
        Variant("plain"),
        Variant("without the head", ("caption",)),
        Variant("options", options=GraphOptions(2, 20, True)),
        Variant("another size", ("semantic",), (32, 64)),
    )
    report = measure_variants(network, pictures, variants, runs=2)
    assert json.loads(json.dumps(report))["schema_version"] == 1
    plain, options, smaller = report["variants"]
    assert [row["variant"] for row in report["variants"]] == ["plain", "options", "another size"]

    assert plain["output_bytes_per_image"] == 4 * (126 * (3 + 64) + 5 * 8 * 12)
    assert options["output_bytes_per_image"] == 4 * 20 * (3 + 64 + 1) + 64 * 96
    assert smaller["output_bytes_per_image"] == 4 * 5 * 4 * 8
    assert (plain["batch"], options["batch"]) == (1, 2)
    assert smaller["graph_bytes"]["vision"] < plain["graph_bytes"]["vision"]
    for row in report["variants"]:
        assert {len(values) for values in row["samples_ms"].values()} == {2}
        assert row["median_ms"]["total"] >= row["median_ms"]["network"] > 0
    assert plain["times_first"]["network"] == 1
    assert options["agreement"]["boxes"] is True
    assert options["agreement"]["semantic"] > 0.8
    assert "agreement" not in smaller

    lines = table(report).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("options ")


def test_the_variants_are_named_after_the_flags_of_the_export() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS[1:]:
        assert ("--tasks" in variant.name) == (variant.tasks is not None)
        assert ("--input-size" in variant.name) == (variant.input_size is not None)
        assert ("--batch" in variant.name) == (variant.options.batch is not None)
        assert ("--top-k" in variant.name) == (variant.options.top_k is not None)
        assert ("--semantic-map" in variant.name) == variant.options.semantic_map
