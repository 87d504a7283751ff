"""What "auto" stands for: measured once, kept with the bundle, and only of what was scored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from yolor_edge.runtime.backends import fastest
from yolor_edge.runtime.backends.base import TensorInfo
from yolor_edge.runtime.backends.fastest import choose_fastest, recorded_speeds
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.diagnosis.bundle_checks import content_checks
from yolor_edge.runtime.environment.cuda_device import CudaDevice
from yolor_edge.runtime.errors import BackendError, UsageError
from yolor_edge.runtime.model import load, with_fastest
from yolor_edge.runtime.options import LoadOptions

Name = tuple[str, str]
Pretend = Callable[[dict[Name, float]], list[Name]]


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """With int8 and fp16 beside fp32, of which int8 was scored."""
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    vision = {kind: "vision.fp32.onnx" for kind in ("fp32", "fp16", "int8-u8s8", "int8-openvino", "int8-s8s8")}
    return write_bundle(
        tmp_path / "bundle",
        tiny_bundle.spec,
        {**tiny_bundle.graphs, "vision": vision},
        provenance={},
        accuracy={kind: {"scores": {"mIoU": 0.5}} for kind in vision if kind.startswith("int8")},
    )


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Lets graphs take so many milliseconds; gives a list of those that were opened to be measured.

    On a clock of its own: machines that run tests are busy.
    """
    opened: list[Name] = []
    now = 0.0

    class Clock:
        def perf_counter(self) -> float:
            return now

    monkeypatch.setattr(fastest, "time", Clock())

    def with_times(times: dict[Name, float]) -> list[Name]:
        class Timed:
            inputs: ClassVar = {"images": TensorInfo("images", ("n", 3, 64, 96), "float32")}

            def __init__(self, name: Name) -> None:
                self.name = name

            def run(self, feed: dict[str, Any]) -> None:
                assert feed["images"].dtype == np.float32
                nonlocal now
                now += times[self.name] / 1000

            def close(self) -> None:
                pass

        def open_graphs(_: Bundle, backend: str, precision: str, *__: object) -> dict[str, Timed]:
            if (backend, precision) not in times:
                raise BackendError(f"{backend} is broken")
            opened.append((backend, precision))
            return {"vision": Timed((backend, precision))}

        monkeypatch.setattr(fastest, "open_graphs", open_graphs)
        monkeypatch.setattr(fastest, "find_spec", lambda name: name in ("onnxruntime", "openvino"))
        return opened

    return with_times


ON_CPU: dict[Name, float] = {
    ("onnxruntime", "fp32"): 9,
    ("onnxruntime", "int8"): 5,
    ("openvino", "fp32"): 7,
    ("openvino", "int8"): 2,
}


def test_what_is_fastest_is_measured_once(bundle: Bundle, pretend: Pretend) -> None:
    opened = pretend(ON_CPU)
    lines: list[str] = []
    found = choose_fastest(bundle, say=lines.append)
    assert (found.backend, found.precision) == ("openvino", "int8")
    assert [one.name for one in found.speeds] == [
        "openvino int8",
        "onnxruntime int8",
        "openvino fp32",
        "onnxruntime fp32",
    ]
    assert sorted(opened) == sorted(ON_CPU)
    assert lines == [
        "measuring which is the fastest here: onnxruntime fp32, onnxruntime int8, openvino fp32, openvino int8 ..."
    ]
    assert found.line().startswith("auto: openvino int8, ") and "(measured on this machine, " in found.line()
    opened.clear()
    # One backend, and another precision, are chosen by the same measurement.
    assert choose_fastest(bundle, "onnxruntime").precision == "int8"
    assert choose_fastest(bundle, precision="fp32").backend == "openvino"
    assert not opened
    choose_fastest(bundle, threads=1)  # which is another machine, as it were
    assert len(opened) == 4 and len(recorded_speeds(bundle)) == 8
    opened.clear()
    choose_fastest(bundle, "onnxruntime", anew=True)
    assert sorted(opened) == [("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert len(recorded_speeds(bundle)) == 8
    Bundle.open(bundle.path)  # what was measured is not part of what is sealed


def test_doctor_shows_what_was_measured_and_what_was_not_scored(bundle: Bundle, pretend: Pretend) -> None:
    pretend(ON_CPU)
    checks = {check.name: check for check in content_checks(bundle, ("onnxruntime", "openvino"))}
    assert checks["fastest"].cure == f"or now: yolor-edge doctor {bundle.path} --choose"
    assert checks["fp16 scores"].found == "fp16 was never scored, its bundle was made without a data set"
    choose_fastest(bundle)
    checks = {check.name: check for check in content_checks(bundle, ("onnxruntime", "openvino"))}
    assert (
        checks["fastest"].found.startswith("openvino int8 2.0 ms, onnxruntime int8 5.0 ms")
        and "; measured with " in checks["fastest"].found
    )


def test_another_version_is_measured_anew(bundle: Bundle, pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = pretend(ON_CPU)
    choose_fastest(bundle, "openvino")
    opened.clear()
    monkeypatch.setattr(fastest, "backend_version", lambda name: "9.9")
    choose_fastest(bundle, "openvino")
    assert opened == [("openvino", "fp32"), ("openvino", "int8")]


def test_what_was_not_scored_is_not_taken(bundle: Bundle, pretend: Pretend) -> None:
    opened = pretend(ON_CPU)
    unscored = replace(bundle, accuracy={})
    assert choose_fastest(unscored, "openvino").precision == "fp32"
    assert not opened
    assert choose_fastest(unscored, "openvino", "int8").precision == "int8"


def test_fp32_stays_where_int8_is_hardly_faster(bundle: Bundle, pretend: Pretend) -> None:
    pretend({("onnxruntime", "fp32"): 30, ("onnxruntime", "int8"): 29.5})
    assert choose_fastest(bundle, "onnxruntime").precision == "fp32"


def test_what_does_not_run_is_told_and_passed_over(bundle: Bundle, pretend: Pretend) -> None:
    pretend({name: ms for name, ms in ON_CPU.items() if name[0] == "onnxruntime"})
    lines: list[str] = []
    assert choose_fastest(bundle, say=lines.append).backend == "onnxruntime"
    assert "openvino int8 cannot be measured: openvino is broken" in lines
    lines.clear()
    assert choose_fastest(bundle, say=lines.append).backend == "onnxruntime"
    assert not lines  # nor is it tried anew at every start
    assert "openvino" not in {one.name: one for one in content_checks(bundle)}["fastest"].found
    pretend({})
    with pytest.raises(BackendError, match="openvino is broken"):
        choose_fastest(bundle, "openvino")


def test_a_bundle_that_cannot_be_written_costs_the_measurement_only(
    bundle: Bundle, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    pretend(ON_CPU)
    monkeypatch.setattr(fastest, "write_speeds", refuse)
    assert choose_fastest(bundle).precision == "int8"


def test_engines_are_chosen_among_those_that_are_built(
    bundle: Bundle, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = CudaDevice("Test GPU", "sm_86")
    built: list[str] = []
    opened = pretend({("tensorrt", "fp16"): 2, ("tensorrt", "int8"): 4})
    monkeypatch.setattr(fastest, "find_spec", lambda name: name in ("onnxruntime", "openvino", "tensorrt"))
    monkeypatch.setattr(fastest, "cuda_device", lambda: device)
    monkeypatch.setattr(fastest, "_built", lambda *_: built)
    scored = replace(bundle, accuracy={**bundle.accuracy, "fp16": {"scores": {"mIoU": 0.5}}})
    # Nothing is built yet: what a build would be for.
    assert choose_fastest(scored, "tensorrt").precision == "fp16" and not opened
    built += ["int8"]
    assert choose_fastest(scored, "tensorrt").precision == "int8" and not opened
    built += ["fp16"]
    found = choose_fastest(scored, "tensorrt")
    assert found.precision == "fp16" and {one.machine for one in found.speeds} == {"Test GPU"}


def test_unknown_names_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="unknown backend 'openvno'"):
        choose_fastest(bundle, "openvno")
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        load(bundle, "auto", "fp8")


def test_load_takes_what_is_fastest(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """With the backends themselves."""
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    lines: list[str] = []
    how = with_fastest(bundle, LoadOptions("auto", "auto", threads=1), lines.append)
    assert how.backend in ("onnxruntime", "openvino") and how.precision == "fp32"
    assert lines[-1].startswith(f"auto: {how.backend} fp32")
    with load(bundle, "auto", "auto", threads=1) as model:
        assert model.predict(np.zeros((64, 96, 3), np.uint8)).boxes is not None
