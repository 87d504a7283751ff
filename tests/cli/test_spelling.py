"""Names as people type them."""

from __future__ import annotations

import argparse

import pytest
from yolor_edge import main as cli
from yolor_edge.runtime.backends.registry import BACKENDS, backend_name
from yolor_edge.spelling import as_typed


@pytest.mark.parametrize(
    ("line", "message", "expected"),
    [
        ("run b s", "caption_decoder must be one of x", "--caption-decoder must be one of x"),
        ("run b s", "budget_ms must be at least 0", "--caption-budget-ms must be at least 0"),
        ("export c --out o", "top_k is 5, but scene-0 has 9 cells", "--top-k is 5, but scene-0 has 9 cells"),
        ("inspect c", "tasks must be some of boxes", "--heads must be some of boxes"),
        ("train --set seed=-1", "seed must not be negative", "--set seed must not be negative"),
        ("train", "seed must not be negative", "seed must not be negative"),
        ("run b s", "top_k is 5", "top_k is 5"),
        ("run b s", "the score threshold must be in [0, 1)", "the score threshold must be in [0, 1)"),
        ("run b s", "bundles/x: has no int8 graph", "bundles/x: has no int8 graph"),
    ],
)
def test_messages_name_the_option(line: str, message: str, expected: str) -> None:
    assert as_typed(message, cli._parser().parse_args(line.split())) == expected
    assert as_typed(message, argparse.Namespace()) == message  # before a command was known


@pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt_rtx"])
def test_both_dashes_name_a_backend_and_a_flavour(name: str) -> None:
    parser = cli._parser()
    assert parser.parse_args(["run", "b", "s", "--backend", name]).backend == "tensorrt-rtx"
    assert parser.parse_args(["verify", "b", "--backend", name]).backend == "tensorrt-rtx"
    assert parser.parse_args(["build", "b", "--flavour", name]).flavour == "tensorrt_rtx"
    assert backend_name(name) == "tensorrt-rtx"
    assert all(backend_name(known) == known for known in BACKENDS)
    assert backend_name("my_own") == "my_own"
