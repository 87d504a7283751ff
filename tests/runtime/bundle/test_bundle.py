"""Writing a bundle, opening it, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle, ModelSpec, write_bundle
from yolor_edge.runtime.bundle.json_files import readable_json
from yolor_edge.runtime.errors import BackendError, BundleError, UsageError
from yolor_edge.runtime.files import sha256_of
from yolor_edge.runtime.model import load

from ..tiny_bundle import tiny_spec, vision_model, write_tiny_bundle


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "bundle.json"
    data = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    file.write_text(json.dumps(data))


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bundle.json").read_text())


def test_open_gives_back_what_was_written(tiny_bundle: Bundle) -> None:
    opened = Bundle.open(tiny_bundle.path)
    assert opened.spec == tiny_spec()
    assert opened.provenance == {"made_by": "tests"}
    assert opened.precisions == ("fp32",)
    assert set(opened.files) == {
        "vision.fp32.onnx",
        "caption_prefill.fp32.onnx",
        "caption_step.fp32.onnx",
        "golden/one.npz",
    }
    assert all(sha256_of(opened.path / name) == digest for name, digest in opened.files.items())
    assert opened.digest == sha256_of(opened.path / "bundle.json")
    assert opened.tensors["vision"]["outputs"]["class_logits"]["axes"] == ["batch", 3, 126]
    assert content(opened.path)["schema_version"] == 1


@pytest.mark.parametrize("tasks", [("boxes",), ("semantic",), ("boxes", "masks"), ("caption",)])
def test_subsets_of_tasks(tasks: tuple[str, ...], tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", tasks)
    assert bundle.spec.tasks == tasks
    assert set(bundle.tensors) == ({"vision", "caption_prefill", "caption_step"} if "caption" in tasks else {"vision"})


def test_spec_survives_json() -> None:
    spec = dataclasses.replace(tiny_spec(), palette=((1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 0, 255)))
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_moved_bundle_opens(own_bundle: Path) -> None:
    assert Bundle.open(own_bundle.rename(own_bundle.with_name("moved"))).spec == tiny_spec()


def test_engines_and_hidden_files_are_not_part_of_it(own_bundle: Path) -> None:
    (own_bundle / "engines").mkdir()
    (own_bundle / "engines" / "a.engine").write_bytes(b"x")
    (own_bundle / ".DS_Store").write_bytes(b"x")
    Bundle.open(own_bundle)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.write_text("x"), "is a file, expected a bundle folder"),
        (lambda p: p.mkdir(), r"holds no bundle\.json"),
    ],
)
def test_not_a_bundle(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "b")
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ("{}", 'key "schema_version" is missing'),
        ('{"schema_version": "1"}', "schema_version must be a whole number from 1 on, got '1'"),
        ('{"schema_version": 9}', r"schema 9 is newer than this runtime reads \(1\); upgrade the runtime"),
        ("\x00\xff", "not JSON"),
    ],
)
def test_bad_json(text: str, message: str, own_bundle: Path) -> None:
    (own_bundle / "bundle.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=message):
        Bundle.open(own_bundle)


def test_every_complaint_comes_at_once_and_on_one_line(own_bundle: Path) -> None:
    (own_bundle / "vision.fp32.onnx").write_bytes(b"altered")
    (own_bundle / "caption_step.fp32.onnx").unlink()
    (own_bundle / "stranger.onnx").write_bytes(b"foreign")
    model = content(own_bundle)["model"]
    model["tasks"] = ["boxes", "depth"]
    del model["reg_max"]
    edit(own_bundle, model=model, graphs=None)
    with pytest.raises(BundleError) as caught:
        Bundle.open(own_bundle)
    message = str(caught.value)
    for part in (
        str(own_bundle),
        "vision.fp32.onnx was altered",
        "caption_step.fp32.onnx is missing",
        "stranger.onnx does not belong to this bundle (remove it)",
        'key "reg_max" is missing',
        'bundle.json: key "graphs" is missing',
        "copy the bundle again or export it again",
    ):
        assert part in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["boxes", "depth"]}, "unknown tasks 'depth', known are boxes, masks, semantic, caption"),
        ({"tasks": ["masks"]}, 'the task "masks" needs "boxes"'),
        ({"tasks": []}, "no tasks"),
        ({"tasks": "boxes"}, 'model: "tasks" must be a list, got a string'),
        ({"category_ids": [1, 2]}, "3 class_names but 2 category_ids"),
        ({"semantic_names": []}, 'the task "semantic" needs 1 to 255 semantic_names, got 0'),
        ({"caption": None}, 'the task "caption" needs a vocabulary'),
        ({"palette": [[1, 2, 3]]}, "1 colours in the palette for 4 names"),
        ({"palette": [[1, 2, 300]] * 4}, "three numbers from 0 to 255"),
        ({"strides": [8, 16, 64]}, r"the input size \[64, 96\] must be a multiple of 64"),
        ({"reg_max": 0}, "reg_max must be at least 1, got 0"),
        ({"reg_max": True}, '"reg_max" must be a whole number'),
        (
            {"thresholds": {"score": 1.5, "iou": -1, "max_detections": 0}},
            r"in \[0, 1\), got 1.5; .*got -1.0; .*got 0",
        ),
        ({"preprocess": 3}, 'model: "preprocess" must be an object, got a whole number'),
        ({"class_names": [1, 2, 3]}, '"class_names" must be a list of strings'),
    ],
)
def test_bad_models(changes: dict[str, Any], message: str, own_bundle: Path) -> None:
    edit(own_bundle, model={**content(own_bundle)["model"], **changes})
    with pytest.raises(BundleError, match=message):
        Bundle.open(own_bundle)


def test_bad_preprocess_rule_and_vocabulary(own_bundle: Path) -> None:
    model = content(own_bundle)["model"]
    model["preprocess"]["channel_order"] = "GRB"
    edit(own_bundle, model=model)
    with pytest.raises(BundleError, match="channel_order must be"):
        Bundle.open(own_bundle)
    model["preprocess"]["channel_order"] = "RGB"
    model["caption"].update(vocabulary=["a", "b"], eos_id=7, max_length=0)
    edit(own_bundle, model=model)
    with pytest.raises(BundleError, match=r"must begin with <pad>.*must be 0, 1, 2, 3.*max_length must be at least 1"):
        Bundle.open(own_bundle)


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        ({"vision": {"fp32": "vision.fp32.onnx"}}, "no graph for 'caption_prefill', which its tasks need"),
        ({"vision": {"fp99": "vision.fp32.onnx"}}, "unknown precision 'fp99' of vision"),
        ({"vision": {"fp32": "other.onnx"}}, "graph 'other.onnx' is not among the files listed"),
        ({"vision": {"fp32": ["x"]}}, "is not among the files listed"),
        ({"sight": {}}, "unknown graph part 'sight'"),
        ({"vision": "x"}, "graphs.vision must map a precision to a file"),
    ],
)
def test_bad_tables_of_graphs(graphs: dict[str, Any], message: str, own_bundle: Path) -> None:
    edit(own_bundle, graphs=graphs)
    with pytest.raises(BundleError, match=message):
        Bundle.open(own_bundle)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a\\b"])
def test_names_that_lead_out_are_refused(name: str, own_bundle: Path) -> None:
    edit(own_bundle, files={**content(own_bundle)["files"], name: "0" * 64})
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(own_bundle)


def test_writing_refuses_a_spec_that_contradicts_itself(tmp_path: Path) -> None:
    spec = dataclasses.replace(tiny_spec(), category_ids=(1,))
    with pytest.raises(BundleError, match="3 class_names but 1 category_ids"):
        write_bundle(tmp_path, spec, {"vision": {"fp32": "x.onnx"}}, provenance={})
    assert not list(tmp_path.iterdir())


def test_a_graph_with_another_class_count_is_refused_at_loading(own_bundle: Path) -> None:
    model = vision_model(tiny_spec().tasks, classes=2)
    (own_bundle / "vision.fp32.onnx").write_bytes(model.SerializeToString())
    files = content(own_bundle)["files"]
    files["vision.fp32.onnx"] = sha256_of(own_bundle / "vision.fp32.onnx")
    edit(own_bundle, files=files)
    with pytest.raises(
        BundleError, match=r"tiny: .*'class_logits' has shape \('batch', 2, 126\), expected \(any, 3, 126\)"
    ):
        load(own_bundle)


def test_a_foreign_onnx_file_is_one_line(own_bundle: Path) -> None:
    (own_bundle / "vision.fp32.onnx").write_bytes(b"no protobuf")
    files = content(own_bundle)["files"]
    files["vision.fp32.onnx"] = sha256_of(own_bundle / "vision.fp32.onnx")
    edit(own_bundle, files=files)
    with pytest.raises(BackendError, match=r"vision\.fp32\.onnx: ONNX Runtime cannot load it \([^\n]+\)$"):
        load(own_bundle)


def test_unknown_backend_precision_and_threads(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="unknown backend 'abacus'; the backends are onnxruntime"):
        open_graphs(tiny_bundle, "abacus")
    with pytest.raises(UsageError, match="has no int8 graph, it holds fp32"):
        open_graphs(tiny_bundle, precision="int8")
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        open_graphs(tiny_bundle, threads=0)
    with pytest.raises(UsageError, match=r"threads must be at most \d+, got 100000; this process may run on \d+ cores"):
        open_graphs(tiny_bundle, threads=100000)


def test_readable_json_is_json_with_lists_in_rows() -> None:
    value = {
        "words": [f"word{i}" for i in range(60)],
        "one": [1, 2],
        "nested": {"a": {"b": [[1, 2], [3, 4]]}},
        "n": None,
    }
    text = readable_json(value)
    assert json.loads(text) == value
    assert len(text.splitlines()) < 20
    assert max(len(line) for line in text.splitlines()) <= 112
    with pytest.raises(ValueError, match="not JSON compliant"):
        readable_json({"a": float("nan")})


def test_a_path_that_is_empty() -> None:
    with pytest.raises(BundleError, match="the path of the bundle is empty; expected the folder of one"):
        Bundle.open("")
