"""Real engines, built with TensorRT for RTX on a machine that may have no GPU, and what keeps one from being built."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from yolor_edge.export.engines import build_needs, engine_worker, to_tensorrt
from yolor_edge.export.engines.engine_worker import peak_memory_mib
from yolor_edge.export.engines.tensorrt_flavours import Toolkit
from yolor_edge.export.engines.to_tensorrt import BuiltEngine, build_engines, profile_ranges
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.bundle.engines import EngineRecord, find_engine
from yolor_edge.runtime.environment.cuda_device import CudaDevice
from yolor_edge.runtime.errors import BackendError, EngineBuildError, EngineMismatchError, UsageError
from yolor_edge.runtime.files import sha256_of

from ...runtime.tiny_bundle import write_tiny_bundle
from ..exported import Exported
from ..precision.precise_graphs import with_every_precision
from .fake_tensorrt import FakeTensorrt

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not there on this platform")

DEMO = Path(__file__).resolve().parents[3] / "demo" / "checkpoint"
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")


def build(bundle: Bundle | Path, precision: str = "fp32", **options: Any) -> list[BuiltEngine]:
    return build_engines(bundle, precision, **{"flavour": "tensorrt-rtx", "targets": ["sm_86"], **options})


def files_of(bundle: Bundle) -> list[str]:
    """Names in the engine cache, hidden ones too."""
    return sorted(file.name for file in (bundle.path / "engines").glob("*"))


@pytest.fixture
def boxes_bundle(tmp_path: Path) -> Bundle:
    """A tiny bundle of the vision part alone."""
    return write_tiny_bundle(tmp_path / "boxes", ("boxes",))


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo checkpoint as a bundle with a graph in every precision, as `yolor-edge export` writes them."""
    from yolor_edge.evaluation.scenes.scene_files import write_scenes
    from yolor_edge.export.precision.precisions import PrecisionOptions
    from yolor_edge.export.to_onnx import export_bundle

    from ..exported import one_torch_thread

    folder = tmp_path_factory.mktemp("demo")
    pictures = write_scenes(folder / "scenes", count=3, seed=4) / "train"
    with one_torch_thread():
        options = PrecisionOptions(precisions=("fp16", "int8"), calibration=pictures)
        return export_bundle(DEMO, folder / "bundle", precisions=options)


# Real engines of the demo checkpoint.


@pytest.mark.slow
def test_the_demo_checkpoint_builds_in_every_precision_for_four_targets(demo_bundle: Bundle) -> None:
    lines: list[str] = []
    built = {p: build(demo_bundle, p, targets=TARGETS, progress=lines.append) for p in ("fp32", "fp16", "int8")}
    for precision, engines in built.items():
        records = [entry.engine.record for entry in engines]
        assert [record.part for record in records] == ["vision", "caption_prefill", "caption_step"]
        for entry, record in zip(engines, records, strict=True):
            assert record.targets == TARGETS
            assert record.engine_bytes == entry.engine.path.stat().st_size > 0
            assert record.engine_sha256 == sha256_of(entry.engine.path)
            assert record.build["seconds"] > 0
            assert record.build["peak_mib"] > 0
            assert any(line.startswith(f"{record.graph}: building") for line in lines)
            for target in TARGETS:
                found = find_engine(
                    demo_bundle, record.part, precision, "tensorrt-rtx", record.version, target, batch=1
                )
                assert found == entry.engine
    (told,) = [line for line in lines if "no gain over fp16" in line]
    assert told.startswith("TensorRT for RTX does not fuse int8 convolutions")
    vision = {precision: engines[0].engine.record for precision, engines in built.items()}
    assert [record.graph for record in vision.values()] == [
        demo_bundle.graphs["vision"][kind] for kind in ("fp32", "fp16", "int8-s8s8")
    ]
    # Convolutions take their input in the precision of the graph, which may keep some of them finer.
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(demo_bundle.path / "vision.fp32.onnx").graph.node)
    layers = {precision: record.build["layers"] for precision, record in vision.items()}
    assert layers["fp32"] == {"fp32": convolutions}
    assert layers["fp16"].get("fp16", 0) >= 0.5 * convolutions
    assert layers["int8"].get("int8", 0) >= 0.8 * convolutions
    assert layers["int8"].keys() == {"int8", "fp16"}
    assert vision["fp16"].engine_bytes < vision["fp32"].engine_bytes
    assert vision["fp32"].profiles == ({"images": [[1, 3, 224, 288]] * 3},)
    step = built["fp16"][2].engine.record
    assert step.graph == "caption_step.fp16.onnx"
    (profile,) = step.profiles
    assert profile["tokens"] == [[1], [3], [3]]
    assert demo_bundle.spec.caption is not None
    longest = demo_bundle.spec.caption.max_length - 1
    assert [shape[1:4:2] for shape in profile["past_keys"]] == [[1, 1], [3, (longest + 1) // 2], [3, longest]]
    # The captions of the int8 build are those of the fp16 build, and nothing is built twice.
    assert [entry.engine for entry in built["int8"][1:]] == [entry.engine for entry in built["fp16"][1:]]
    assert [entry.is_new for entry in built["int8"]] == [True, False, False]
    again = build(demo_bundle, "int8", targets=TARGETS, frozen=True)
    assert not any(entry.is_new for entry in again)
    with pytest.raises(EngineMismatchError, match=r"built for sm_80, sm_86, sm_89, sm_120, here it is sm_121"):
        find_engine(demo_bundle, "vision", "int8", "tensorrt-rtx", step.version, "sm_121")
    assert not [name for name in files_of(demo_bundle) if name.startswith(".")]
    assert Bundle.open(demo_bundle.path).digest == demo_bundle.digest


@pytest.fixture(scope="session")
def optioned_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo checkpoint with all that a graph can do beside the network, in every precision."""
    from yolor_edge.evaluation.scenes.scene_files import write_scenes
    from yolor_edge.export.onnx_graphs.graph_options import GraphOptions
    from yolor_edge.export.precision.precisions import PrecisionOptions
    from yolor_edge.export.to_onnx import export_bundle

    from ..exported import one_torch_thread

    folder = tmp_path_factory.mktemp("optioned")
    pictures = write_scenes(folder / "scenes", count=3, seed=4) / "train"
    with one_torch_thread():
        return export_bundle(
            DEMO,
            folder / "bundle",
            tasks=("boxes", "masks", "semantic"),
            precisions=PrecisionOptions(precisions=("fp16", "int8"), calibration=pictures),
            options=GraphOptions(batch=2, top_k=300, semantic_map=True),
        )


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "kinds"), [("fp16", {"fp16"}), ("int8", {"int8", "fp16"})])
def test_graphs_with_top_k_and_semantic_map_build(optioned_bundle: Bundle, precision: str, kinds: set[str]) -> None:
    (vision,) = build(optioned_bundle, precision, batch_sizes=(2,))
    assert vision.engine.record.build["layers"].keys() == kinds
    # TensorRT gives the cells and the map in the types that the bundle promises.
    trt: Any = importlib.import_module("tensorrt_rtx")

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    assert trt.OnnxParser(network, logger).parse_from_file(str(optioned_bundle.path / vision.engine.record.graph))
    found = {o.name: (str(o.dtype), tuple(o.shape)) for o in map(network.get_output, range(network.num_outputs))}
    assert found["cells"] == ("DataType.INT32", (2, 300))
    assert found["semantic_map"] == ("DataType.UINT8", (2, 224, 288))
    assert found["class_logits"][0] == "DataType.FLOAT"
    assert found.keys() == optioned_bundle.tensors["vision"]["outputs"].keys()


@pytest.fixture(scope="module")
def gated_bundle(gated: Exported, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose captions look at regions, with graphs in every precision, be their answers what they may."""
    from yolor_edge.export.precision.calibration import CalibrationSet, calibrate
    from yolor_edge.export.precision.to_fp16 import halve_around_int8, nodes_out_of_range, to_fp16
    from yolor_edge.export.precision.to_int8 import quantize

    folder = Path(shutil.copytree(gated.bundle.path, tmp_path_factory.mktemp("precise") / "bundle"))
    graphs = {part: dict(files) for part, files in gated.bundle.graphs.items()}
    for part, files in graphs.items():
        exact = onnx.load(folder / files["fp32"])
        made = {"fp16": to_fp16(exact, nodes_out_of_range(exact, [])).model}
        if part == "vision":
            pictures = CalibrationSet(sorted((gated.data / "train").iterdir()), gated.bundle.spec.preprocess)
            ranges = calibrate(exact, pictures, "minmax").ranges
            made["int8-s8s8"] = halve_around_int8(quantize(exact, ranges, "s8s8").model, ())
        for kind, model in made.items():
            files[kind] = f"{part}.{kind}.onnx"
            onnx.save(model, folder / files[kind])
    return write_bundle(folder, gated.bundle.spec, graphs, provenance={"made_by": "tests"})


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "kinds"), [("fp32", {"fp32"}), ("fp16", {"fp16"}), ("int8", {"int8", "fp16"})])
def test_graphs_that_choose_regions_build(gated_bundle: Bundle, precision: str, kinds: set[str]) -> None:
    built = build(gated_bundle, precision, batch_sizes=(1, 3))
    assert [entry.engine.record.part for entry in built] == ["vision", "caption_prefill", "caption_step"]
    assert built[0].engine.record.build["layers"].keys() == kinds
    assert all(entry.engine.read() for entry in built)


def test_each_batch_is_a_profile_and_low_memory_has_one(boxes_bundle: Bundle) -> None:
    (each,) = build(boxes_bundle, batch_sizes=(4, 1, 4))
    assert each.engine.record.batches == (1, 4)
    assert each.engine.record.profiles == tuple({"images": [[n, 3, 64, 96]] * 3} for n in (1, 4))
    (one,) = build(boxes_bundle, batch_sizes=(1, 4), low_memory=True, workspace_mib=64)
    assert one.engine.path != each.engine.path
    assert one.engine.record.profiles == ({"images": [[1, 3, 64, 96], [4, 3, 64, 96], [4, 3, 64, 96]]},)
    version = one.engine.record.version
    look: list[Any] = [boxes_bundle, "vision", "fp32", "tensorrt-rtx", version, "sm_86"]
    assert find_engine(*look, batch=2) == one.engine
    with pytest.raises(EngineMismatchError, match=r"takes batches of 1, 4, wanted are 8.*--batch-sizes 1,4,8"):
        find_engine(*look, batch=8)
    with pytest.raises(EngineMismatchError, match="built with low_memory True, here it is False"):
        find_engine(*look, batch=2, settings={"low_memory": False, "workspace_mib": 64})


def test_an_altered_engine_is_built_anew(boxes_bundle: Bundle) -> None:
    (first,) = build(boxes_bundle)
    first.engine.path.write_bytes(b"altered")
    with pytest.raises(EngineBuildError, match=r"keeps no timing cache, so a frozen build makes nothing"):
        build(boxes_bundle, frozen=True)
    (second,) = build(boxes_bundle)
    assert second.is_new
    assert second.engine.path == first.engine.path
    assert second.engine.read()


def test_all_that_rtx_knows_from_ampere_on_is_built_for_by_default(boxes_bundle: Bundle) -> None:
    (entry,) = build(boxes_bundle, targets=())
    assert set(TARGETS) <= set(entry.engine.record.targets)
    assert "sm_75" not in entry.engine.record.targets


# What is asked of the free axes.


def test_ranges_follow_what_the_bundle_says_of_each_axis(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    assert profile_ranges(bundle, "vision", (1, 4)) == [
        {"images": [(1, 1, 1), None, None, None]},
        {"images": [(4, 4, 4), None, None, None]},
    ]
    assert profile_ranges(bundle, "vision", (1, 4), one_profile=True) == [{"images": [(1, 4, 4), None, None, None]}]
    (prefill,) = profile_ranges(bundle, "caption_prefill", (1,))
    assert prefill == {"caption_memory": [None] * 3, "tokens": [None]}
    (step,) = profile_ranges(bundle, "caption_step", (5,))
    assert step["tokens"] == [(1, 5, 5)]
    assert step["past_keys"] == [None, (1, 5, 5), None, (1, 3, 5), None]  # six tokens at most
    assert step["cross_keys"] == [None] * 5


# Requests that cannot be.


def test_another_size_is_a_matter_of_export(boxes_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(boxes_bundle, input_size=(64, 96))
    with pytest.raises(UsageError) as raised:
        build(boxes_bundle, input_size=(320, 480))
    assert str(raised.value) == (
        f"{boxes_bundle.path}: sizes are fixed at export and this bundle's is 64x96, not 320x480; export that size "
        f"first: yolor-edge export CHECKPOINT --input-size 320x480 --out {boxes_bundle.path}-320x480"
    )
    monkeypatch.chdir(boxes_bundle.path)
    with pytest.raises(UsageError, match=rf"--out {boxes_bundle.path}-64x64$"):
        build(Path("."), input_size=(64, 64))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_sizes": (0,)}, "batch_sizes must be from 1 to 256, got 0"),
        ({"batch_sizes": ()}, "batch_sizes must be from 1 to 256, got none"),
        ({"max_beam_size": 0}, "max_beam_size must be from 1 to 256, got 0"),
        ({"workspace_mib": 0}, "workspace_mib must be from 1 to 1048576, got 0"),
        ({"precision": "fp16"}, "has no fp16 graph, it holds fp32"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"targets": ["sm_90"]}, r"cannot build for sm_90; here its targets are sm_75, sm_80, .*sm_120"),
        ({"flavour": "onnx"}, "unknown flavour 'onnx'"),
    ],
)
def test_a_request_that_cannot_be_is_misuse(boxes_bundle: Bundle, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        build(boxes_bundle, **options)
    assert not (boxes_bundle.path / "engines").exists()


def test_stubs_of_tensorrt_are_not_taken_for_tensorrt(boxes_bundle: Bundle) -> None:
    from yolor_edge.runtime.environment.tensorrt_package import installed_flavours

    if "tensorrt" in installed_flavours():
        pytest.skip("TensorRT itself is installed here")
    with pytest.raises(BackendError, match=r'needs the package tensorrt; .*pip install "tensorrt>=10\.3"'):
        build(boxes_bundle, flavour="tensorrt")


# Graphs that cannot be built; nothing is left of them.


def with_vision(bundle: Bundle, content: bytes) -> Bundle:
    """The bundle with another vision graph, sealed anew."""
    (bundle.path / "vision.fp32.onnx").write_bytes(content)
    return write_bundle(bundle.path, bundle.spec, bundle.graphs, provenance={})


def test_a_foreign_operator_is_told_with_its_node(boxes_bundle: Bundle) -> None:
    model = onnx.load(boxes_bundle.path / "vision.fp32.onnx")
    model.graph.node.append(helper.make_node("NonZero", ["images"], ["where"], name="box_head.select"))
    model.graph.output.append(helper.make_tensor_value_info("where", onnx.TensorProto.INT64, [4, None]))
    bundle = with_vision(boxes_bundle, model.SerializeToString())
    with pytest.raises(
        EngineBuildError,
        match=r"^vision\.fp32\.onnx: tensorrt-rtx [\d.]+ cannot read it: node 'box_head\.select' \(NonZero\): ",
    ) as raised:
        build(bundle)
    assert "\n" not in str(raised.value)
    assert files_of(bundle) == []


def test_a_graph_that_is_no_onnx_is_told(boxes_bundle: Bundle) -> None:
    bundle = with_vision(boxes_bundle, (boxes_bundle.path / "vision.fp32.onnx").read_bytes()[:1000])
    with pytest.raises(EngineBuildError, match=r"cannot read it: .*Failed to parse the ONNX model"):
        build(bundle)
    assert files_of(bundle) == []
    bundle = with_vision(bundle, b"this is no graph")  # the parser takes it for an empty one
    with pytest.raises(EngineBuildError, match=r"its outputs are none, expected box_bins, class_logits; export"):
        build(bundle)


def test_other_output_names_are_told(boxes_bundle: Bundle) -> None:
    model = onnx.load(boxes_bundle.path / "vision.fp32.onnx")
    for node in model.graph.node:
        node.output[:] = ["output0" if name == "box_bins" else name for name in node.output]
    model.graph.output[1].name = "output0"
    bundle = with_vision(boxes_bundle, model.SerializeToString())
    with pytest.raises(
        EngineBuildError, match=r"outputs are class_logits, output0, expected box_bins, class_logits; export"
    ):
        build(bundle)


def test_a_free_axis_of_unknown_meaning_is_told_and_what_was_built_stays(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")  # the length of its memory is free
    with pytest.raises(EngineBuildError, match=r"^caption_prefill.* axis 1 of its input 'caption_memory' is free"):
        build(bundle)
    assert [name.split(".")[0] for name in files_of(bundle)] == ["vision", "vision"]


def test_int8_with_a_zero_point_other_than_zero_is_told(shifted_int8: Bundle) -> None:
    with pytest.raises(EngineBuildError, match=r"node '.*' \(QuantizeLinear\): .*[Nn]on-zero zero point"):
        build(shifted_int8, "int8")


@pytest.fixture
def shifted_int8(boxes_bundle: Bundle) -> Bundle:
    """A tiny bundle whose int8 graph has an unsigned, shifted activation, as ONNX Runtime likes them."""
    bundle = with_every_precision(boxes_bundle)
    file = bundle.path / bundle.graphs["vision"]["int8-s8s8"]
    model = onnx.load(file)
    zero = next(weight for weight in model.graph.initializer if weight.name.endswith("pool8/zero"))
    zero.CopyFrom(helper.make_tensor(zero.name, onnx.TensorProto.UINT8, [], [128]))
    onnx.save(model, file)
    return write_bundle(bundle.path, bundle.spec, bundle.graphs, provenance={})


# Machines that give out.


def test_a_workspace_that_is_too_small_says_which_to_give(boxes_bundle: Bundle) -> None:
    model = onnx.load(boxes_bundle.path / "vision.fp32.onnx")
    bundle = with_vision(boxes_bundle, model.SerializeToString())
    with pytest.raises(
        EngineBuildError, match=r"a workspace of 1 MiB may be too small for it, build with one of 2 MiB"
    ):
        build(bundle, batch_sizes=(256,), workspace_mib=1)
    assert files_of(bundle) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_disk_too_small_for_the_engine_is_refused_in_numbers(
    boxes_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the build by the size of the graph, after it by that of the engine."""
    if moment == "before":
        monkeypatch.setattr(build_needs, "free_disk_bytes", lambda folder: 100)
        match = r"engines: the engine of vision\.fp32\.onnx takes at least 0\.\d MB and 0\.0 MB are free on this disk"
    else:
        monkeypatch.setattr(to_tensorrt, "_run_worker", _worker_without_room)
        match = r"engines: the engine of vision\.fp32\.onnx takes \d\.\d MB and 0\.0 MB are free on this disk"
    with pytest.raises(EngineBuildError, match=match):
        build(boxes_bundle)
    assert not (boxes_bundle.path / "engines").exists() or files_of(boxes_bundle) == []


def _worker_without_room(graph: str, request: dict[str, Any], say: Any, folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_worker, "free_disk_bytes", lambda folder: 100)
        return engine_worker.build_to_file(request, io.StringIO())


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(
    boxes_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def full_disk(path: Path) -> Iterator[Path]:
        yield Path("/dev/full")

    monkeypatch.setattr(to_tensorrt, "replacing_file", full_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        build(boxes_bundle)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(boxes_bundle.path / "engines")
    assert not (boxes_bundle.path / "engines").exists()


@pytest.mark.parametrize(
    ("end", "match"),
    [
        (
            "kill -9 $$",
            r"out of memory at 812 MiB( \(\d+ MiB were free when it began\))?: the builder was killed, as the system "
            r"does when memory runs out; build in low-memory mode, and with a workspace of 128 MiB if .* enough$",
        ),
        (
            """echo '{"error": "out of memory at 900 MiB", "kind": "MemoryError"}'; exit 1""",
            r"^vision\.fp32\.onnx: out of memory at 900 MiB; build in low-memory mode, and with a workspace of 128 MiB",
        ),
        ("kill -11 $$", r"the builder ended with signal 11 at 812 MiB \(it hurts\)$"),
        ("exit 5", r"the builder ended with code 5 at 812 MiB \(it hurts\)$"),
    ],
)
def test_a_builder_that_dies_is_told_with_its_memory(
    boxes_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, match: str
) -> None:
    dying = tmp_path / "python"
    step = '{"phase": "Timing", "done": 1, "total": 9, "peak_mib": 812}'
    dying.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{step}'\necho it hurts >&2\n{end}\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    monkeypatch.setattr(to_tensorrt, "_SECONDS_BETWEEN_LINES", 0.0)
    lines: list[str] = []
    with pytest.raises(EngineBuildError, match=match):
        build(boxes_bundle, progress=lines.append)
    assert "Timing 1/9" in lines[-1]
    assert files_of(boxes_bundle) == []


def test_an_interruption_leaves_nothing(boxes_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_tensorrt, "_SECONDS_BETWEEN_LINES", 0.0)

    def interrupt(line: str) -> None:
        if " s, " in line:  # of a step
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(boxes_bundle, progress=interrupt)
    assert files_of(boxes_bundle) == []


def test_peak_memory_is_that_of_the_process() -> None:
    assert 10 < peak_memory_mib() < 100_000


# The timing cache of TensorRT itself, with a builder made of Python.


@pytest.fixture
def on_an_orin(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pretend that this is an Orin with TensorRT 10.3; gives the jobs that are handed to the builder's process."""
    toolkit = Toolkit("tensorrt", FakeTensorrt("10.3.0"), CudaDevice("Orin (nvgpu)", "sm_87"))
    jobs: list[dict[str, Any]] = []

    def run_worker(graph: str, request: dict[str, Any], say: Any, folder: Path) -> dict[str, Any]:
        jobs.append(request["job"])
        Path(request["out"]).write_bytes(b"a plan")
        if request["timing_cache_out"]:
            Path(request["timing_cache_out"]).write_bytes(b"measured")
        return {"bytes": 6, "profiles": [], "layers": {}, "peak_mib": 1}

    monkeypatch.setattr(to_tensorrt, "load_toolkit", lambda flavour: toolkit)
    monkeypatch.setattr(to_tensorrt, "_run_worker", run_worker)
    return jobs


def test_measured_kernels_are_kept_per_version_and_gpu(boxes_bundle: Bundle, on_an_orin: list[dict[str, Any]]) -> None:
    (entry,) = build_engines(boxes_bundle, "fp32")
    timing = boxes_bundle.path / "engines" / "timing.tensorrt-10.3.0.Orin--nvgpu-.cache"
    assert timing.read_bytes() == b"measured"
    assert on_an_orin[0]["timing_cache"] == str(timing)
    assert on_an_orin[0]["exact_float32"]
    record = entry.engine.record
    assert (record.gpu, record.targets) == ("Orin (nvgpu)", ("sm_87",))
    assert EngineRecord.read(entry.engine.path.with_suffix(".json")) == record


def test_frozen_builds_from_the_timing_cache_alone(boxes_bundle: Bundle, on_an_orin: list[dict[str, Any]]) -> None:
    with pytest.raises(EngineBuildError, match=r"there is no timing cache .*Orin.*so a frozen build makes nothing"):
        build_engines(boxes_bundle, "fp32", frozen=True)
    assert on_an_orin == []
    build_engines(boxes_bundle, "fp32")
    build_engines(boxes_bundle, "fp32", batch_sizes=(2,), frozen=True)
    assert [job["frozen"] for job in on_an_orin] == [False, True]


def test_building_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, yolor_edge.export.engines.to_tensorrt, yolor_edge.export.engines.engine_worker\n"
        "print(sorted({'torch', 'onnx', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_engine_says_for_json_what_its_record_says(boxes_bundle: Bundle) -> None:
    (entry,) = build(boxes_bundle)
    told = entry.to_json()
    assert told["is_new"] is True
    assert told["path"] == str(entry.engine.path)
    assert told["targets"] == ("sm_86",)
    assert dataclasses.asdict(entry.engine.record).items() <= told.items()
