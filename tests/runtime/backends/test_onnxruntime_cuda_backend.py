"""ONNX Runtime's CUDA provider: never a silent fall-back to the CPU."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from yolor_edge.runtime import load
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import BackendError, UsageError

from ..tiny_bundle import INPUT_SIZE

MODULE = "yolor_edge.runtime.backends.onnxruntime_cuda_backend"


class Binding:
    """Notes what is bound, and holds real arrays."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, tuple[str, int]] = {}
        self.answers: list[Any] = []

    def bind_cpu_input(self, name: str, array: Any) -> None:
        assert array.flags.c_contiguous
        self.inputs[name] = array

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.outputs[name] = (device, index)

    def get_outputs(self) -> list[Any]:
        return self.answers


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.SimpleNamespace]:
    """An onnxruntime with a CUDA provider, which computes on the CPU; what it was told is in what this gives."""

    def install(active: tuple[str, ...] = ("CUDAExecutionProvider", "CPUExecutionProvider")) -> types.SimpleNamespace:
        told = types.SimpleNamespace(options=None, providers=None, bindings=[], fails=False)

        class Session:
            def __init__(self, path: str, options: Any, providers: Any):
                told.options, told.providers = options, providers
                self.real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs

            def get_providers(self) -> list[str]:
                return list(active)

            def io_binding(self) -> Binding:
                told.bindings.append(Binding())
                return told.bindings[-1]

            def run_with_iobinding(self, binding: Binding) -> None:
                if told.fails:
                    raise RuntimeError("CUDA failure 700: an illegal memory access\nand more")
                found = self.real.run(list(binding.outputs), binding.inputs)
                binding.answers = [types.SimpleNamespace(numpy=lambda array=array: array) for array in found]

        fake = types.ModuleType("onnxruntime")
        fake.__dict__.update(onnxruntime.__dict__)
        fake.__dict__["InferenceSession"] = Session
        fake.__dict__["get_available_providers"] = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        monkeypatch.delitem(sys.modules, MODULE, raising=False)
        return told

    return install


@pytest.fixture(autouse=True)
def _import_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_an_onnxruntime_without_the_provider_is_refused(tiny_bundle: Bundle) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(BackendError, match=r"has no CUDA provider, .*: pip install \"onnxruntime-gpu>=1\.18\"") as e:
        load(tiny_bundle, "onnxruntime-cuda")
    assert "\n" not in str(e.value)


def test_a_model_answers_through_bound_memory(
    tiny_bundle: Bundle, pretended: Callable[..., types.SimpleNamespace]
) -> None:
    image = np.full((50, 70, 3), 114, np.uint8)
    image[10:30, 20:40] = (0, 0, 255)
    with load(tiny_bundle, threads=1) as model:
        expected: Any = model.predict(image)
    told = pretended()
    with load(tiny_bundle, "onnxruntime-cuda") as model:
        found: Any = model.predict(image)
    assert np.array_equal(found.boxes, expected.boxes) and found.caption == expected.caption
    assert told.providers == [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})]


def test_graphs_that_compute_shapes_may_do_so_on_the_cpu(
    tmp_path: Path, pretended: Callable[..., types.SimpleNamespace]
) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [2])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), ir_version=9)
    (tmp_path / "shapes.onnx").write_bytes(model.SerializeToString())
    told = pretended()
    module = importlib.import_module(MODULE)
    module.open_graph(tmp_path / "shapes.onnx", None).close()
    assert told.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "0"


def test_outputs_that_are_not_wanted_stay_on_the_gpu(
    tiny_bundle: Bundle, pretended: Callable[..., types.SimpleNamespace]
) -> None:
    told = pretended()
    graph = open_graphs(tiny_bundle, "onnxruntime-cuda", parts=("vision",))["vision"]
    assert told.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    images = np.zeros((1, 3, *INPUT_SIZE), np.float32)
    assert list(graph.run({"images": images}, ["prototypes"])) == ["prototypes"]
    bound = told.bindings[-1].outputs
    assert bound["prototypes"] == ("cpu", 0)
    assert {place for name, place in bound.items() if name != "prototypes"} == {("cuda", 0)}
    with pytest.raises(UsageError, match="there is no output 'depth'"):
        graph.run({"images": images}, ["depth"])
    told.fails = True
    with pytest.raises(BackendError, match=r"ONNX Runtime failed \(CUDA failure 700: an illegal memory access\)"):
        graph.run({"images": images})
    graph.close()
    with pytest.raises(BackendError, match="the graph is closed"):
        graph.run({"images": images})


def test_a_provider_that_did_not_start_is_refused(
    tiny_bundle: Bundle, pretended: Callable[..., types.SimpleNamespace]
) -> None:
    pretended(active=("CPUExecutionProvider",))
    with pytest.raises(
        BackendError, match="did not start its CUDA provider and would run on CPUExecutionProvider; its"
    ):
        load(tiny_bundle, "onnxruntime-cuda")
