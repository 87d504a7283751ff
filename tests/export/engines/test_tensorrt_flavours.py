"""What each version of each flavour is told, and what is told to people when it cannot serve."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.export.engines.tensorrt_flavours import BuildJob, Toolkit, load_toolkit
from yolor_edge.runtime.environment.cuda_device import CudaDevice
from yolor_edge.runtime.environment.tensorrt_package import installed_flavours
from yolor_edge.runtime.errors import BackendError, EngineBuildError, UsageError

from .fake_tensorrt import PLAN, FakeTensorrt

ORIN = CudaDevice("Orin", "sm_87")
BATCH = ((1, 1, 1), None, None, None)


def job(**changes: Any) -> BuildJob:
    return BuildJob(**{"graph": "folder/vision.onnx", "outputs": ["answer"], "targets": ["sm_87"], **changes})


def build(toolkit: Toolkit, **changes: Any) -> Any:
    return toolkit.build(job(**{"ranges": [{"images": BATCH}], **changes}), lambda *step: None)


def pretend_installed(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """Make only these packages be there; None is one of stubs alone, without code."""

    def find_spec(name: str) -> Any:
        if name not in modules:
            return None
        origin = None if modules[name] is None else f"{name}/__init__.py"
        return importlib.machinery.ModuleSpec(name, None, origin=origin)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    for name, module in modules.items():
        if module is not None:
            monkeypatch.setitem(sys.modules, name, module)


# Strongly typed networks, and no flag that chooses a precision.


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 2), ("10.16.1.11", 2), ("11.0.0.114", 0), ("11.4.0.106", 0)])
def test_a_network_is_strongly_typed_in_every_version(version: str, flags: int) -> None:
    fake = FakeTensorrt(version)
    built = build(Toolkit("tensorrt", fake, ORIN))
    assert built.plan == PLAN
    assert built.profiles == [{"images": ((1, 3, 8, 8),) * 3}]
    assert fake.told == [
        ("create_network", flags),
        ("set_shape", "images", *((1, 3, 8, 8),) * 3),
        ("add_optimization_profile",),
    ]


def test_rtx_is_told_its_compute_capabilities() -> None:
    fake = FakeTensorrt("1.7.1.116")
    build(Toolkit("tensorrt-rtx", fake), targets=["sm_75", "sm_120"], timing_cache="ignored.cache", frozen=True)
    assert fake.told[:5] == [
        ("create_network", 0),
        ("profiling_verbosity", fake.ProfilingVerbosity["DETAILED"]),
        ("num_compute_capabilities", 2),
        ("set_compute_capability", "SM75", 0),
        ("set_compute_capability", "SM120", 1),
    ]
    assert not {"create_timing_cache", "set_flag"} & set(fake.words())


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_settings_reach_the_builder(version: str, tmp_path: Path) -> None:
    fake = FakeTensorrt(version)
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"earlier")
    built = build(
        Toolkit("tensorrt", fake, ORIN), workspace_mib=64, exact_float32=True, timing_cache=str(cache), frozen=True
    )
    assert ("set_memory_pool_limit", "WORKSPACE", 64 << 20) in fake.told
    assert ("clear_flag", "TF32") in fake.told
    assert ("set_flag", "ERROR_ON_TIMING_CACHE_MISS") in fake.told
    assert ("set_flag", "DISABLE_COMPILATION_CACHE") in fake.told
    assert ("create_timing_cache", b"earlier") in fake.told
    assert "builder_optimization_level" not in fake.words()
    assert built.timing_cache is None  # what is frozen is not written again


def test_low_memory_tries_fewer_kernels_in_less_room() -> None:
    fake = FakeTensorrt("10.3.0")
    build(Toolkit("tensorrt", fake, ORIN), low_memory=True)
    assert ("builder_optimization_level", 1) in fake.told
    assert ("max_aux_streams", 0) in fake.told
    assert ("set_memory_pool_limit", "WORKSPACE", 256 << 20) in fake.told
    fake.told.clear()
    build(Toolkit("tensorrt", fake, ORIN), low_memory=True, workspace_mib=32)
    assert ("set_memory_pool_limit", "WORKSPACE", 32 << 20) in fake.told


def test_what_was_measured_is_given_back(tmp_path: Path) -> None:
    fake = FakeTensorrt("10.3.0")
    built = build(Toolkit("tensorrt", fake, ORIN), timing_cache=str(tmp_path / "none yet"))
    assert ("create_timing_cache", b"") in fake.told
    assert built.timing_cache == b"measured"


def test_a_foreign_timing_cache_is_dropped_but_refused_when_frozen(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"foreign")
    fake = FakeTensorrt("10.3.0", foreign_cache=True)
    build(Toolkit("tensorrt", fake, ORIN), timing_cache=str(cache))
    assert [told[1] for told in fake.told if told[0] == "create_timing_cache"] == [b"foreign", b""]
    fake = FakeTensorrt("10.3.0", foreign_cache=True)
    with pytest.raises(EngineBuildError, match=r"measured on another device or by another version.*without frozen"):
        build(Toolkit("tensorrt", fake, ORIN), timing_cache=str(cache), frozen=True)


def test_steps_are_reported() -> None:
    steps: list[tuple[str, int, int]] = []
    toolkit = Toolkit("tensorrt", FakeTensorrt("10.3.0"), ORIN)
    toolkit.build(job(ranges=[{"images": BATCH}]), lambda *step: steps.append(step))
    assert steps == [("Building engine", 0, 2), ("Building engine", 1, 2)]


def test_each_range_is_a_profile_and_fixed_axes_come_from_the_graph() -> None:
    fake = FakeTensorrt("10.3.0", inputs={"tokens": (-1,), "past": (3, -1, 4, -1, 8), "cross": (3, 1, 4, 6, 8)})
    beam, past = (1, 3, 3), (1, 5, 9)
    ranges = {"tokens": [beam], "past": [None, beam, None, past, None], "cross": [None] * 5}
    built = build(Toolkit("tensorrt", fake, ORIN), ranges=[ranges, ranges])
    assert built.profiles == 2 * [
        {"tokens": ((1,), (3,), (3,)), "past": ((3, 1, 4, 1, 8), (3, 3, 4, 5, 8), (3, 3, 4, 9, 8))}
    ]
    assert fake.words().count("add_optimization_profile") == 2


# Targets.


def test_rtx_builds_for_all_but_turing_unless_told() -> None:
    toolkit = Toolkit("tensorrt-rtx", FakeTensorrt("1.7.1.116"))
    assert toolkit.known_targets() == ("sm_75", "sm_86", "sm_120")
    assert toolkit.check_targets(()) == ("sm_86", "sm_120")
    assert toolkit.check_targets(["sm_120", "sm_75", "sm_120"]) == ("sm_75", "sm_120")
    with pytest.raises(UsageError, match=r"tensorrt-rtx 1\.7\.1\.116 cannot build for sm_87; .* sm_75, sm_86, sm_120$"):
        toolkit.check_targets(["sm_86", "sm_87"])


def test_tensorrt_builds_for_the_gpu_here() -> None:
    fake = FakeTensorrt("10.16.1", levels=("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"))
    toolkit = Toolkit("tensorrt", fake, ORIN)
    assert toolkit.known_targets() == ("sm_87", "ampere_plus", "same_compute_capability")
    assert toolkit.check_targets(()) == ("sm_87",)
    assert toolkit.check_targets(["sm_87"]) == ("sm_87",)
    assert toolkit.check_targets(["ampere_plus"]) == ("ampere_plus",)
    assert toolkit.check_targets(["same_compute_capability"]) == ("sm_87", "same_compute_capability")
    with pytest.raises(UsageError, match="cannot build for sm_86; it builds for the GPU of the machine it runs on"):
        toolkit.check_targets(["sm_86"])
    with pytest.raises(UsageError, match="builds for one of ampere_plus, same_compute_capability at a time"):
        toolkit.check_targets(["ampere_plus", "same_compute_capability"])
    build(toolkit, targets=["sm_87", "same_compute_capability"])
    assert ("hardware_compatibility_level", fake.HardwareCompatibilityLevel["SAME_COMPUTE_CAPABILITY"]) in fake.told


def test_an_older_version_does_not_know_newer_levels() -> None:
    with pytest.raises(UsageError, match=r"cannot build for same_compute_capability; .* sm_87, ampere_plus"):
        Toolkit("tensorrt", FakeTensorrt("10.3.0"), ORIN).check_targets(["same_compute_capability"])


def test_tensorrt_without_a_gpu_names_the_other_flavour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolor_edge.export.engines.tensorrt_flavours.cuda_device", lambda: None)
    toolkit = Toolkit("tensorrt", FakeTensorrt("10.3.0"))
    with pytest.raises(BackendError, match=r"only on a machine with an NVIDIA GPU .* flavour tensorrt-rtx"):
        toolkit.check_targets(())


# What goes wrong.


def test_the_parsers_first_message_names_the_node() -> None:
    errors = [("no such\n  operator", "box_head.0/NonZero", "NonZero"), ("another", "later", "Add")]
    with pytest.raises(
        EngineBuildError,
        match=r"^vision\.onnx: tensorrt 10\.3\.0 cannot read it: "
        r"node 'box_head\.0/NonZero' \(NonZero\): no such operator$",
    ):
        build(Toolkit("tensorrt", FakeTensorrt("10.3.0", parser_errors=errors), ORIN))
    with pytest.raises(EngineBuildError, match=r"cannot read it: broken file$"):
        build(Toolkit("tensorrt", FakeTensorrt("10.3.0", parser_errors=[("broken file", "", "")]), ORIN))


def test_other_outputs_are_refused() -> None:
    fake = FakeTensorrt("10.3.0", outputs=("output0", "output1"))
    with pytest.raises(EngineBuildError, match=r"its outputs are output0, output1, expected answer; export"):
        build(Toolkit("tensorrt", fake, ORIN))


def test_a_free_axis_that_nothing_explains_is_refused() -> None:
    fake = FakeTensorrt("10.3.0", inputs={"images": (1, 3, -1, 8)})
    with pytest.raises(EngineBuildError, match="axis 2 of its input 'images' is free"):
        build(Toolkit("tensorrt", fake, ORIN))


@pytest.mark.parametrize(
    ("error", "changes", "match"),
    [
        (
            "Cannot compile 'query/MatMul' for Turing (SM75): FP32 GEMM",
            {"targets": ["sm_75", "sm_86"]},
            "Turing needs fp16 graphs, so leave sm_75 out of the targets or build in fp16",
        ),
        ("no kernel for\nconv", {}, "cannot build it: no kernel for conv$"),
        ("Out of memory (1 GiB)", {}, r"out of memory \(Out of memory \(1 GiB\)\); build in low-memory mode, and with"),
        (
            "Tactic Device request: 9385MB Available: 7649MB. Device memory is insufficient to use tactic.",
            {},
            r"out of memory, a kernel asked for 9385 MiB of GPU memory and 7649 were free; build in low-memory mode",
        ),
        (
            "Requested amount of GPU memory (15485030400 bytes) could not be allocated.",
            {"low_memory": True},
            "out of memory, 14767 MiB of GPU memory were asked for and not free; build with a workspace of 128 MiB",
        ),
        (
            "Could not find any implementation for node conv",
            {"workspace_mib": 8},
            "node conv; a workspace of 8 MiB may be too small for it, build with one of 16 MiB$",
        ),
        ("Could not find any implementation for node conv", {}, "node conv$"),
        ("Timing cache miss at conv", {"frozen": True}, "not in the timing cache, which a frozen build needs"),
    ],
)
def test_the_builders_first_error_is_told(error: str, changes: dict[str, Any], match: str) -> None:
    fake = FakeTensorrt("10.3.0", errors=[error, "and so on"])
    with pytest.raises(EngineBuildError, match=match):
        build(Toolkit("tensorrt", fake, ORIN), **changes)


def test_a_builder_that_does_not_start_is_one_line() -> None:
    with pytest.raises(EngineBuildError, match=r"could not start its builder .*is there a GPU"):
        build(Toolkit("tensorrt", FakeTensorrt("10.3.0", without_gpu=True), ORIN))


def test_an_old_version_is_refused() -> None:
    with pytest.raises(BackendError, match=r"tensorrt 8\.6\.2 is too old, 10\.3 \(JetPack 6\.1\) or newer"):
        Toolkit("tensorrt", FakeTensorrt("8.6.2"), ORIN)


# Which flavour is there.


def test_a_missing_package_says_what_suits_which_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    assert installed_flavours() == ()
    with pytest.raises(BackendError) as raised:
        load_toolkit()
    assert str(raised.value) == (
        "no TensorRT is installed; "
        "for Jetson (comes with JetPack) and any NVIDIA GPU, built on that very device, "
        'install it: pip install "tensorrt>=10.3" (flavour tensorrt); '
        "for desktop and laptop RTX GPUs, built on any Linux x86-64 machine, "
        'install it: pip install "tensorrt-rtx-cu13>=1.7" (flavour tensorrt-rtx)'
    )


def test_stubs_are_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, tensorrt=None, tensorrt_rtx=FakeTensorrt("1.7.1.116"))
    assert installed_flavours() == ("tensorrt-rtx",)
    assert load_toolkit().flavour == "tensorrt-rtx"
    with pytest.raises(BackendError, match=r"'tensorrt' needs the package tensorrt; .*flavour tensorrt-rtx, which"):
        load_toolkit("tensorrt")


def test_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, tensorrt=FakeTensorrt("10.3.0"), tensorrt_rtx=FakeTensorrt("1.7.1.116"))
    assert load_toolkit().flavour == "tensorrt"
    assert load_toolkit("tensorrt-rtx").version == "1.7.1.116"


def test_an_unknown_flavour_is_misuse() -> None:
    with pytest.raises(UsageError, match="unknown flavour 'trt'; the flavours are tensorrt, tensorrt-rtx"):
        load_toolkit("trt")


def test_a_package_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, tensorrt=FakeTensorrt("10.3.0"))

    def fail(name: str) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open\nshared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(BackendError, match=r"does not load \(libnvinfer\.so\.10: cannot open shared object file\)"):
        load_toolkit("tensorrt")
