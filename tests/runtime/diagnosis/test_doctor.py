"""The doctor on machines made of files: a desktop, a Jetson, broken ones; and on bundles with engines."""

from __future__ import annotations

import ctypes
import json
import platform
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.cuda.kernels import kernel_image
from yolor_edge.runtime.cuda.kernels.kernel_image import GIVEN, FoundCompiler, compilers_here
from yolor_edge.runtime.diagnosis import examination
from yolor_edge.runtime.diagnosis.checks import Check
from yolor_edge.runtime.diagnosis.examination import Diagnosis, doctor, opencv_checks
from yolor_edge.runtime.diagnosis.gpu_checks import suiting_flavours
from yolor_edge.runtime.environment.install import install_command
from yolor_edge.runtime.environment.installed_packages import Found
from yolor_edge.runtime.environment.opencv_build import OpencvBuild
from yolor_edge.runtime.environment.packages import PACKAGES, TRIED_OUT

from ..bundle.test_engines import add_engine
from ..cuda.test_kernel_image import ship_kernels
from ..fake_cuda import FakeDriver

VERSIONS = {"onnxruntime": "1.32.0", "tensorrt": "10.3.0", "tensorrt-rtx": "1.7.1"}


def write(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def jetson(root: Path, release: str = "R36 (release), REVISION: 4.3", package: str = "6.2+b77") -> Path:
    write(root, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(root, "proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    write(root, "etc/nv_tegra_release", f"# {release}, GCID: 38968081\n")
    write(root, "var/lib/dpkg/status", f"Package: nvidia-jetpack\nVersion: {package}\n\n")
    return root


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the fakes of packages say; a test may change it. Only ONNX Runtime is there."""
    said: dict[str, dict[str, Any]] = {"onnxruntime": {"version": "1.32.0", "offers": ("CPUExecutionProvider",)}}
    monkeypatch.setattr(
        examination, "look_for", lambda: tuple(Found(PACKAGES[n], **said.get(n, {})) for n in TRIED_OUT)
    )
    return said


@pytest.fixture(autouse=True)
def no_driver_and_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(examination, "compilers_here", lambda: (FoundCompiler("NVRTC 12.9", "/lib/libnvrtc.so.12"),))
    monkeypatch.setattr(kernel_image, "RECORD", Path("/nowhere/kernels.json"))
    monkeypatch.delenv(GIVEN, raising=False)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def install_driver(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)


def check(found: Diagnosis, name: str) -> Check:
    (one,) = [check for check in found.checks if check.name == name]
    return one


def test_this_machine_is_examined_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor()
    assert {c.group for c in found.checks} == {"software", "computer", "gpu", "sources"}
    assert check(found, "numpy").state == "ok"
    assert check(found, "kernels").found
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    table = found.table().splitlines()
    assert table[0] == "software"
    assert len(table) == len(found.checks) + 4 + 1 + len(found.next_commands)
    assert found.next_commands[-1].startswith(("yolor-edge doctor ", "pip install "))


def test_an_empty_machine_has_nothing_broken(packages: dict[str, Any], tmp_path: Path) -> None:
    found = doctor(root=tmp_path)
    assert found.exit_code == 0
    assert check(found, "GPU") == Check("gpu", "GPU", "none", "no NVIDIA GPU and no driver; bundles run on the CPU")
    for name in ("memory", "governor"):
        assert (check(found, name).state, check(found, name).found) == ("none", "the system does not say")
    assert check(found, "cameras").state == "none"
    assert check(found, "openvino").found == "not installed; another backend runs bundles"
    # What is missing comes with its cure, and what needs none is not called missing.
    assert all(bool(one.cure) for one in found.checks if one.state == "missing")


def test_without_a_backend_the_next_thing_is_to_install_one(packages: dict[str, Any], tmp_path: Path) -> None:
    packages.clear()
    found = doctor(root=tmp_path)
    assert check(found, "onnxruntime").cure == 'pip install "onnxruntime>=1.18"'
    assert found.next_commands == ('pip install "onnxruntime>=1.18"',)
    assert found.exit_code == 0


def test_a_broken_package_is_told_with_its_cure(packages: dict[str, Any], tmp_path: Path) -> None:
    packages["onnxruntime"] = {"version": "1.32.0", "error": "ImportError: libstdc++.so.6: version not found"}
    found = doctor(root=tmp_path)
    one = check(found, "onnxruntime")
    assert one.state == "problem"
    assert one.found == "1.32.0 is installed but does not load: ImportError: libstdc++.so.6: version not found"
    assert one.cure == "pip install --force-reinstall --no-deps onnxruntime"
    assert found.next_commands == (one.cure,)
    assert found.exit_code == 1
    assert found.to_json()["passed"] is False


def test_packages_that_overwrite_each_other(packages: dict[str, Any], tmp_path: Path) -> None:
    packages["onnxruntime"]["rivals"] = ("onnxruntime", "onnxruntime-gpu")
    one = check(doctor(root=tmp_path), "onnxruntime")
    assert one.state == "problem"
    assert "onnxruntime and onnxruntime-gpu overwrite each other's files" in one.found
    assert one.cure == "pip uninstall -y onnxruntime onnxruntime-gpu, then install one"


def test_opencv_with_everything_and_with_nothing() -> None:
    full = opencv_checks(OpencvBuild("4.8.0", (), "GTK+", True, True))
    assert [one.state for one in full] == ["ok"] * 4
    assert full[0].found == "4.8.0 (of the system)"
    bare = opencv_checks(OpencvBuild("5.0.0", ("opencv-python-headless", "opencv-python"), None, False, False))
    assert [one.state for one in bare] == ["problem", "missing", "missing", "missing"]
    assert bare[0].cure.startswith("pip uninstall -y opencv-python-headless opencv-python, then")
    assert "fdsink | yolor-edge run BUNDLE - --camera-size WIDTHxHEIGHT" in bare[2].cure


def test_a_jetson_with_all_that_it_needs(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages["tensorrt"] = {"version": "10.3.0"}
    install_driver(monkeypatch, FakeDriver())
    found = doctor(root=jetson(tmp_path))
    assert check(found, "Jetson").found == "NVIDIA Jetson Orin Nano Developer Kit, L4T R36.4.3, JetPack 6.2+b77"
    assert check(found, "power mode").state == "none"
    assert check(found, "driver").found == "version unknown, CUDA up to 12.6"
    assert check(found, "GPU").found == "Orin, sm_87, 8.0 GiB"
    assert check(found, "TensorRT").found == "for sm_87: tensorrt; installed: tensorrt"
    assert (check(found, "CUDA in Python").state, check(found, "CUDA in Python").cure) == (
        "missing",
        install_command("cuda12"),
    )
    assert found.exit_code == 0
    packages["cuda-python"] = {"version": "12.9.4"}
    assert check(doctor(root=tmp_path), "CUDA in Python").found == "through cuda-python 12.9.4"
    packages["cuda-python"] = {"version": "13.5.0"}  # what pip takes without an upper bound
    one = check(doctor(root=tmp_path), "CUDA in Python")
    assert (one.state, one.cure) == ("problem", install_command("cuda12"))
    assert one.found == "cuda-python 13.5.0 is of a newer CUDA than the driver, which runs 12.6"


def test_on_a_jetson_nothing_is_advised_that_has_no_wheel(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "10", "12"))
    install_driver(monkeypatch, FakeDriver())
    one = check(doctor(root=jetson(tmp_path)), "ONNX Runtime")
    assert (one.state, one.cure) == ("none", "")
    assert one.found.endswith("; there is no wheel of onnxruntime-gpu for aarch64 and Python 3.10")


def test_a_jetson_without_tensorrt_in_its_environment(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(monkeypatch, FakeDriver())
    one = check(doctor(root=jetson(tmp_path)), "TensorRT")
    assert one.state == "missing"
    assert one.cure == "it comes with JetPack: make the virtual environment with --system-site-packages"


def test_an_old_jetpack(packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages["tensorrt"] = {"version": "8.6.2"}
    install_driver(monkeypatch, FakeDriver())
    found = doctor(root=jetson(tmp_path, "R36 (release), REVISION: 3.0", "6.0+b106"))
    assert check(found, "Jetson").state == "problem"
    assert check(found, "Jetson").cure == "update to JetPack 6.1 or newer, which brings TensorRT 10.3"
    assert "8.6.2 is older than 10.3" in check(found, "tensorrt").found
    assert check(found, "TensorRT").found == "for sm_87: tensorrt; what is installed of it cannot be used"
    assert found.exit_code == 1


def test_a_jetson_in_a_container_without_its_driver(packages: dict[str, Any], tmp_path: Path) -> None:
    one = check(doctor(root=jetson(tmp_path)), "driver")
    assert one.state == "problem"
    assert "no libcuda.so.1" in one.found
    assert "--runtime nvidia" in one.cure


def test_a_gpu_on_the_bus_without_a_driver(packages: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n")  # a network card
    assert check(doctor(root=tmp_path), "GPU").state == "none"
    write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")
    assert check(doctor(root=tmp_path), "driver").state == "problem"


def test_a_driver_that_does_not_answer(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(monkeypatch, FakeDriver("cuInit"))
    assert check(doctor(root=tmp_path), "driver").state == "none"  # a library without any GPU is no fault
    write(tmp_path, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri\n")
    one = check(doctor(root=tmp_path), "driver")
    assert one.state == "problem"
    assert one.found == "560.35.03, CUDA up to 12.6; does not answer: CUDA_ERROR_NO_DEVICE"


def test_a_driver_without_its_functions_is_a_line_not_an_error(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    found = doctor(root=tmp_path)
    one = check(found, "GPU")
    assert one.state == "problem"
    assert one.found.startswith("could not be looked at: AttributeError: ")
    assert check(found, "cameras").state == "none"  # what comes after it is still looked at


@pytest.mark.parametrize(
    ("capability", "architecture", "is_jetson", "flavours"),
    [
        ("sm_87", "aarch64", True, ("tensorrt",)),
        ("sm_89", "x86_64", False, ("tensorrt", "tensorrt-rtx")),
        ("sm_89", "aarch64", False, ("tensorrt",)),
        ("sm_90", "x86_64", False, ("tensorrt",)),
        ("sm_70", "x86_64", False, ()),
        ("sm_53", "aarch64", True, ()),
    ],
)
def test_flavours_by_gpu(capability: str, architecture: str, is_jetson: bool, flavours: tuple[str, ...]) -> None:
    assert suiting_flavours(capability, architecture, is_jetson) == flavours


def test_limits_governor_and_instruction_sets(packages: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "model name : Test CPU\nflags : sse2 avx2 fma\n")
    write(tmp_path, "proc/meminfo", "MemTotal:        8388608 kB\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", f"{2 << 30}\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    write(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n")
    found = doctor(root=tmp_path)
    assert check(found, "memory").found == "8.0 GiB, limited to 2.0 GiB by the control group"
    assert check(found, "processor").found.startswith("Test CPU; ")
    assert check(found, "processor").found.endswith(" cores usable, limited to 1.5 by the control group")
    assert "performance" in check(found, "governor").cure
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert check(doctor(root=tmp_path), "memory").found == "8.0 GiB"


def test_cameras_in_the_order_of_their_numbers(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 10, 2):
        write(tmp_path, f"dev/video{number}")
    assert check(doctor(root=tmp_path), "cameras").found == "/dev/video0, /dev/video2, /dev/video10"
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "video2")
    one = check(doctor(root=tmp_path), "cameras")
    assert (one.state, one.found) == ("problem", "video2: not permitted")
    assert one.cure.startswith("sudo usermod -aG video $USER")


def test_displays(packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert check(doctor(root=tmp_path), "display").found == "WAYLAND_DISPLAY=wayland-0"
    monkeypatch.delenv("WAYLAND_DISPLAY")
    assert check(doctor(root=tmp_path), "display").state == "none"


@pytest.mark.parametrize("broken", ["look_for", "describe_hardware", "opencv_build", "cuda_driver", "governors"])
def test_whatever_fails_is_a_line_and_the_others_follow(
    broken: str, packages: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = getattr(examination, broken)

    def fail(*arguments: Any) -> Any:
        if arguments and arguments[0] == tmp_path / "nowhere":
            return unbroken(*arguments)
        raise RuntimeError("of a kind\nnobody thought of")

    monkeypatch.setattr(examination, broken, fail)
    found = doctor(tiny_bundle.path, tmp_path)
    failed = [
        one for one in found.checks if one.found == "could not be looked at: RuntimeError: of a kind nobody thought of"
    ]
    assert failed
    assert {one.state for one in failed} == {"problem"}
    assert check(found, "precisions").state == "ok"
    assert found.next_commands
    assert found.exit_code == 1


def test_the_compiler_of_the_gpu_s_kernels(
    packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "kernel compiler"
    assert check(doctor(root=tmp_path), name) == Check("gpu", name, "ok", "NVRTC 12.9 in /lib/libnvrtc.so.12")
    monkeypatch.setattr(examination, "compilers_here", tuple)
    one = check(doctor(root=tmp_path), name)
    assert one == Check("gpu", name, "none", "neither NVRTC nor nvcc; only for NVIDIA GPUs")
    install_driver(monkeypatch, FakeDriver())
    one = check(doctor(root=tmp_path), name)
    assert one.state == "missing"
    assert one.found.startswith("neither NVRTC nor nvcc, one of which compiles the kernels")
    assert one.found.endswith("; the kernels that were compiled beforehand are not used: there are none")
    assert one.cure.startswith('pip install "cuda-bindings>=12.8,<13"') and " brings NVRTC, or" in one.cure
    assert one.cure.endswith("; --processing cpu does without")
    monkeypatch.setenv(GIVEN, str(tmp_path / "kernels.fatbin"))
    one = check(doctor(root=tmp_path), name)
    assert (one.state, one.found) == ("problem", f"{GIVEN} names {tmp_path}/kernels.fatbin, which cannot be read")
    write(tmp_path, "kernels.fatbin")
    assert check(doctor(root=tmp_path), name).found == f"not needed: {GIVEN} names {tmp_path}/kernels.fatbin"


def test_kernels_compiled_beforehand(packages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship_kernels(tmp_path, monkeypatch, {"sm_87": 12})
    install_driver(monkeypatch, FakeDriver())
    one = check(doctor(root=tmp_path), "kernel compiler")
    assert (one.state, one.found) == (
        "ok",
        "not needed: the kernels that were compiled beforehand fit the GPU and driver",
    )
    ship_kernels(tmp_path, monkeypatch, {"sm_87": 13})
    one = check(doctor(root=tmp_path), "kernel compiler")
    assert one.found == (
        "NVRTC 12.9 in /lib/libnvrtc.so.12; the kernels that were compiled beforehand are not used: "
        "they are of CUDA 13 for sm_87, the driver runs 12.6"
    )


def test_compilers_are_found_for_real() -> None:
    for found in compilers_here():
        assert found.name.startswith(("NVRTC ", "nvcc ")) and any(c.isdigit() for c in found.name)
        assert Path(found.path).exists()


def test_onnx_runtime_on_a_gpu(
    packages: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(monkeypatch, FakeDriver(name=b"GTX 1080", capability=(6, 1)))  # too old for any TensorRT
    found = doctor(tiny_bundle.path, tmp_path)
    assert check(found, "ONNX Runtime").state == "missing"
    assert check(found, "ONNX Runtime").cure.endswith(' && pip install "onnxruntime-gpu>=1.18"')
    assert check(found, "TensorRT").cure == "run the bundle on the CPU, or with --backend onnxruntime-cuda"
    assert "--backend" not in found.next_commands[1]
    packages["onnxruntime"]["offers"] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    found = doctor(tiny_bundle.path, tmp_path)
    one = check(found, "ONNX Runtime")
    assert (one.state, one.found) == ("ok", "1.32.0 has its CUDA provider, for --backend onnxruntime-cuda")
    assert " --backend onnxruntime-cuda --out answers" in found.next_commands[1]
    packages.pop("onnxruntime")
    one = check(doctor(tiny_bundle.path, tmp_path), "ONNX Runtime")
    assert (one.found, one.cure) == ("not installed", 'pip install "onnxruntime-gpu>=1.18"')


# Bundles.


def test_a_whole_bundle(packages: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path, "dev/video1")
    found = doctor(tiny_bundle.path, tmp_path)
    assert check(found, "files").state == "ok"
    assert "64x96, boxes, masks, semantic, caption" in check(found, "files").found
    assert check(found, "precisions").found == "fp32"
    assert not any(one.name == "fastest" for one in found.checks)  # there is nothing to choose
    assert check(found, "engines").found == "not needed without an NVIDIA GPU"
    name = tiny_bundle.path
    assert found.next_commands == (
        f"yolor-edge verify {name}",
        f"yolor-edge run {name} {tmp_path}/dev/video1 --out answers",
        f"yolor-edge bench {name} --out report",
    )


def test_a_camera_and_a_display_are_to_be_looked_at(
    packages: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "dev/video0")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(examination, "opencv_build", lambda: OpencvBuild("4.8.0", (), "GTK+", True, True))
    assert doctor(tiny_bundle.path, tmp_path).next_commands[1].endswith("/dev/video0 --show --out answers")


def test_a_spoilt_bundle(packages: dict[str, Any], own_bundle: Path, tmp_path: Path) -> None:
    (own_bundle / "vision.fp32.onnx").write_bytes(b"")
    found = doctor(own_bundle, tmp_path)
    one = check(found, "files")
    assert one.state == "problem"
    assert "vision.fp32.onnx was altered" in one.found
    assert "\n" not in one.found
    assert found.exit_code == 1
    assert found.next_commands[0] == f"yolor-edge export CHECKPOINT --out {own_bundle} --force"
    assert "no such folder" in check(doctor(tmp_path / "gone", tmp_path), "files").found


def test_a_folder_that_is_no_bundle(packages: dict[str, Any], own_bundle: Path, tmp_path: Path) -> None:
    def next_after(path: Path) -> tuple[str, ...]:
        found = doctor(path, tmp_path / "root")
        assert check(found, "files").state == "problem"
        return found.next_commands

    assert next_after(tmp_path) == (f"yolor-edge doctor {own_bundle}",)
    one = check(doctor(tmp_path, tmp_path / "root"), "files")
    assert (one.found, one.cure) == (f"{tmp_path}: is no bundle, but holds {own_bundle}", "name that")
    write(tmp_path, "run/checkpoint/checkpoint.json", "{}")
    assert next_after(tmp_path / "run")[0] == f"yolor-edge export {tmp_path}/run --out bundles/mine"
    write(tmp_path, "notes/todo.txt")  # which export would not replace
    assert next_after(tmp_path / "notes")[0] == "yolor-edge export CHECKPOINT --out bundles/mine"
    assert next_after(tmp_path / "gone")[0] == f"yolor-edge export CHECKPOINT --out {tmp_path}/gone"


def test_without_a_bundle_one_that_lies_here_is_named(
    packages: dict[str, Any], own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo-out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert doctor(root=tmp_path / "root").next_commands[0] == "yolor-edge export CHECKPOINT --out bundles/mine"
    (tmp_path / "demo-out" / "bundle").symlink_to(own_bundle)
    assert doctor(root=tmp_path / "root").next_commands == (
        "yolor-edge doctor demo-out/bundle",
        "yolor-edge run demo-out/bundle PICTURES --out answers",
    )
    (tmp_path / "demo-out" / "bundle").rename(tmp_path / "mine")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "mine").rename(tmp_path / "bundles" / "mine")
    assert doctor(root=tmp_path / "root").next_commands[0] == "yolor-edge doctor bundles/mine"


def test_what_is_no_bundle_is_not_to_be_written_over(packages: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "checkpoint/checkpoint.json")
    for asked, words in (
        (tmp_path / "checkpoint", f"{tmp_path}/checkpoint"),
        (tmp_path, f"{tmp_path}"),  # as after train, whose run holds its checkpoint
        ("", "CHECKPOINT"),
    ):
        found = doctor(asked, tmp_path)
        assert found.next_commands == (
            f"yolor-edge export {words} --out bundles/mine",
            "yolor-edge doctor bundles/mine",
        )


def test_engines_without_a_gpu(packages: dict[str, Any], own_bundle: Path, tmp_path: Path) -> None:
    engine = add_engine(Bundle.open(own_bundle))
    one = check(doctor(own_bundle, tmp_path / "root"), "vision fp32")
    assert one.state == "none"
    assert one.found == (
        f"engines/{engine.path.name} does not fit here: needs tensorrt-rtx 1.7.1, which is not installed; "
        "needs an NVIDIA GPU (sm_80, sm_86), there is none here"
    )


def test_an_engine_that_fits(
    packages: dict[str, Any], own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages["tensorrt-rtx"] = {"version": "1.7.1"}
    install_driver(monkeypatch, FakeDriver(name=b"RTX 3080", capability=(8, 6)))
    add_engine(Bundle.open(own_bundle))
    found = doctor(own_bundle, tmp_path / "root")
    assert check(found, "vision fp32").state == "ok"
    assert not any(command.startswith("yolor-edge build") for command in found.next_commands)
    run = doctor(own_bundle, tmp_path / "root").next_commands[1]
    assert "--backend tensorrt-rtx --precision fp32 --out" in run
    monkeypatch.setattr(examination, "compilers_here", tuple)
    run = doctor(own_bundle, tmp_path / "root").next_commands[1]
    assert "--backend tensorrt-rtx --precision fp32 --processing cpu --out" in run


def test_no_engine_that_fits_brings_the_command_that_builds_one(
    packages: dict[str, Any], own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages["tensorrt-rtx"] = {"version": "1.8.0"}
    install_driver(monkeypatch, FakeDriver(name=b"RTX 4090", capability=(8, 9)))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    add_engine(Bundle.open(own_bundle))
    found = doctor(own_bundle, tmp_path / "root")
    one = check(found, "vision fp32")
    assert "built by tensorrt-rtx 1.7.1, here it is 1.8.0" in one.found
    assert "built for sm_80, sm_86, here it is sm_89" in one.found
    build = f"yolor-edge build {own_bundle} --precision fp32 --flavour tensorrt-rtx --target sm_89"
    assert check(found, "engines").cure == f"build with: {build}"
    assert found.next_commands[0] == build
    assert found.exit_code == 0
    packages.pop("onnxruntime")  # engines run without it
    found = doctor(own_bundle, tmp_path / "root")
    assert found.next_commands[0] == build
    assert "--backend tensorrt-rtx --precision fp32" in found.next_commands[2]


def test_openvino_alone_runs_bundles(packages: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path) -> None:
    packages.clear()
    packages["openvino"] = {"version": "2026.4.1", "offers": ("CPU",)}
    found = doctor(tiny_bundle.path, tmp_path)
    assert check(found, "openvino").found == "2026.4.1: CPU"
    assert " --backend openvino --out answers" in found.next_commands[1]


def test_damaged_engines(packages: dict[str, Any], own_bundle: Path, tmp_path: Path) -> None:
    engine = add_engine(Bundle.open(own_bundle))
    engine.path.write_bytes(b"other bytes")
    (own_bundle / "engines" / "stray.engine").write_bytes(b"of unknown origin")
    found = doctor(own_bundle, tmp_path / "root")
    assert "was altered" in check(found, "vision fp32").found
    assert check(found, "vision fp32").state == "problem"
    assert "stray.engine" in check(found, "engine").found
    assert found.exit_code == 1
