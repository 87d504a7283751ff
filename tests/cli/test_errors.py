"""Errors name arguments in Python's words; the command line shows the options that fill them."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge import main as cli
from yolor_edge.main import main
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.drawing import DrawOptions
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.options import LoadOptions, PredictOptions
from yolor_edge.runtime.runner import runner
from yolor_edge.runtime.runner.outputs import RunOptions

from ..runtime.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("train", "evaluation", "export", "runtime", "benchmarks/report", "cli")


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Every call that makes an error and is raised there, with its place."""
    for stage in STAGES:
        for path in sorted((ROOT / stage).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.exc


def literal(node: ast.AST) -> str:
    """The text that stands in the source, without what is put in when it runs."""
    parts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return "".join(part for part in parts if isinstance(part, str))


def test_the_library_names_no_option() -> None:
    # Options of commands that a message tells to type, and of other programs, are no arguments of ours.
    others = re.compile(r"(yolor-edge|pip|ssh|gst-launch-1\.0|docker|python) .*--|--system-site-packages|--jsonl? ?- ")
    found = []
    for place, call in raised():
        text = literal(call)
        if not place.startswith("cli/") and re.search(r"--[a-z]", text) and not others.search(text):
            found.append(f"{place}: {text}")
    assert found == []


def test_every_argument_that_a_message_names_is_a_field_of_the_error() -> None:
    wrong = []
    for place, call in raised():
        if not call.args or not isinstance(call.args[0], ast.Constant | ast.JoinedStr):
            continue
        named = set(re.findall(r"<([a-z][a-z_]+)>", literal(call.args[0])))
        fields = [*call.args[1:], *(word.value for word in call.keywords if word.arg == "argument")]
        given = {part.value for field in fields for part in ast.walk(field) if isinstance(part, ast.Constant)}
        if named - given:
            wrong.append(f"{place}: {sorted(named - given)}")
    assert wrong == []


def test_an_error_is_spelled_in_either_way_and_survives_pickling() -> None:
    error = UsageError("a <b>: <threads> must be at least 1, or leave out <tasks>", ("threads", "tasks"))
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "a <b>: threads must be at least 1, or leave out tasks"
        assert one.spelled(lambda name: f"--{name}") == "a <b>: --threads must be at least 1, or leave out --tasks"
        assert (one.argument, one.arguments) == ("threads", ("threads", "tasks"))
    assert UsageError("no").argument is None


@pytest.mark.parametrize(
    ("line", "argument", "option"),
    [
        ("run b s", "caption_decoder", "--caption-decoder"),
        ("run b s", "budget_ms", "--caption-budget-ms"),
        ("run b s", "source", "SOURCE"),
        ("run b s", "top_k", "top_k"),
        ("bench b --out o", "maximum_seconds", "--seconds"),
        ("export c --out o", "overwrite", "--force"),
        ("export c --out o", "precisions", "--precision"),
        ("build b", "workspace_mib", "--workspace"),
        ("inspect c", "tasks", "--tasks"),
        ("train --set workers=-1", "workers", "--set workers"),
        ("train --set seed=-1", "settings", "--set"),
        ("train", "batch_size", "--set batch_size"),
        ("train", "epochs", "--epochs"),
    ],
)
def test_arguments_are_shown_as_options(
    line: str,
    argument: str,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: object) -> int:
        raise UsageError(f"<{argument}> is wrong", argument)

    monkeypatch.setattr(cli, "check_opencv", lambda: None)
    parser = cli.make_parser()
    monkeypatch.setattr(cli, "make_parser", lambda: parser)
    parsed = parser.parse_args(line.split())
    parsed.parser.set_defaults(run=fail)
    assert main(line.split()) == 2
    assert capsys.readouterr().err == f"yolor-edge: {option} is wrong\n"


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        (lambda: {"load": LoadOptions(threads=0)}, "threads"),
        (lambda: {"predict": PredictOptions(score_threshold=2.0)}, "score_threshold"),
        (lambda: {"predict": PredictOptions(max_detections=0)}, "max_detections"),
        (lambda: {"load": LoadOptions("magic")}, "backend"),
        (lambda: {"predict": PredictOptions(("wings",))}, "tasks"),
        (lambda: {"predict": PredictOptions(caption=CaptionOptions(budget_ms=-1.0))}, "budget_ms"),
        (lambda: {"options": RunOptions(max_frames=0)}, "max_frames"),
        (lambda: {"options": RunOptions(drawing=DrawOptions(line_width=0))}, "line_width"),
    ],
)
def test_the_public_functions_say_which_argument_it_was(
    changes: Callable[[], dict[str, Any]], argument: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    write_image(tmp_path / "x.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(UsageError) as caught:
        runner.run(tiny_bundle.path, tmp_path / "x.png", tmp_path / "out", **changes())
    assert caught.value.argument == argument
    assert "<" not in str(caught.value)
