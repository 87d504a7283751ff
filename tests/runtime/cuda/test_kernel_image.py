"""Compiling the CUDA kernels: for every GPU asked for, by every compiler that is here, and only once."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.cuda.kernels import kernel_image as images
from yolor_edge.runtime.cuda.kernels.kernel_image import Compiler, Nvcc, Nvrtc, find_nvcc
from yolor_edge.runtime.errors import BackendError, BackendMissingError

TARGETS = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
# Each kernel, and the threads of a block of it.
KERNELS = {
    "fill_taps": 256,
    "fill_axis": 256,
    "fill_nearest": 256,
    "letterbox": 256,
    "resample_map": 256,
    "collect_candidates": 256,
    "decode_cells": 256,
    "rank_candidates": 256,
    "compact_candidates": 256,
    "select_boxes": 512,
    "fill_masks": 256,
    "find_leaders": 256,
    "fill_semantic": 64,
}


def nvrtc() -> Nvrtc:
    for library in images._nvrtc_libraries():
        try:
            return Nvrtc(library)
        except OSError:
            continue
    pytest.skip("there is no NVRTC")


def nvcc() -> str:
    found = find_nvcc()
    if found is None:
        pytest.skip("there is no nvcc")
    return found


def included(sources: list[Path]) -> set[Path]:
    """The sources and what they include of ours, and what those include."""
    found: set[Path] = set()
    while sources:
        path = sources.pop()
        if path in found:
            continue
        found.add(path)
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            sources += [each for each in (images.SOURCES / name, path.parent / name) if each.is_file()]
    return found


def test_what_the_cpu_shares_with_the_gpu_and_nothing_else_lies_in_shared():
    shared = set((images.SOURCES / "shared").iterdir())
    gpu = included([images.ENTRY])
    cpu = included([path for path in images.SOURCES.glob("**/*.cpp")])
    assert shared == {path for path in gpu & cpu if path.suffix == ".hpp" and path.parent.name != "cuda"}
    # So an edit of the CPU's kernels alone, those of captions for one, leaves the digest as it is.
    assert set(images.source_files()) == gpu


@pytest.mark.parametrize("target", TARGETS)
def test_nvrtc_compiles_the_kernels_for_every_gpu(target: int):
    compiler = nvrtc()
    if target not in compiler.targets():
        pytest.skip(f"{compiler.name} does not know sm_{target}")
    image = compiler.compile(f"sm_{target}")
    assert image.startswith(b"\x7fELF")
    for kernel in KERNELS:
        assert kernel.encode() in image


def test_nvcc_compiles_the_kernels_without_a_warning_and_within_what_a_gpu_has(tmp_path: Path):
    compiler = nvcc()
    known = subprocess.run([compiler, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    targets = [target for target in TARGETS if f"compute_{target}" in known]
    assert targets
    command = [compiler, *images.OPTIONS, "-c", "-o", str(tmp_path / "kernels.o"), "-Xptxas", "-v", "--threads", "2"]
    command.append(f"-I{images.SOURCES}")
    command += ["-Werror", "all-warnings", str(images.ENTRY)]
    for target in targets:
        command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = re.findall(
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers(.*?)\n",
        done.stderr,
        re.DOTALL,
    )
    assert {(name, int(target)) for name, target, *_ in compiled} == {(k, t) for k in KERNELS for t in targets}
    for name, target, spills, registers, rest in compiled:
        shared = re.search(r"(\d+) bytes smem", rest)
        # Two blocks find room in the 65,536 registers of a multiprocessor; 48 KiB is what every GPU gives a block.
        assert int(spills) == 0, (name, target)
        assert 2 * KERNELS[name] * int(registers) <= 1 << 16, (name, target, registers)
        assert shared is None or int(shared[1]) <= 48 << 10, (name, target)


def test_nvcc_makes_an_image_too():
    compiler = Nvcc(nvcc())
    assert re.match(r"nvcc .*\d", compiler.name)
    assert compiler.compile("sm_87").startswith(b"\x7fELF")


def test_a_gpu_newer_than_the_compiler_gets_code_that_the_driver_finishes():
    image = nvrtc().compile("sm_999")
    assert b".target sm_" in image
    assert image.endswith(b"\0")


class Counting:
    """A compiler that says how often it was asked."""

    name = "counting 1.0"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def compile(self, compute_capability: str) -> bytes:
        self.asked.append(compute_capability)
        return b"image of " + compute_capability.encode()


def test_an_image_is_compiled_once_for_each_gpu(tmp_path: Path):
    compiler = Counting()
    for _ in range(2):
        assert images.kernel_image("sm_87", tmp_path / "new", compiler) == b"image of sm_87"
        assert images.kernel_image("sm_75", tmp_path / "new", compiler) == b"image of sm_75"
    assert compiler.asked == ["sm_87", "sm_75"]
    for kept in (tmp_path / "new").iterdir():
        kept.write_bytes(kept.read_bytes()[:-3])  # a broken disk
    assert images.kernel_image("sm_87", tmp_path / "new", compiler) == b"image of sm_87"
    assert len(compiler.asked) == 3


def test_another_compiler_or_source_makes_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiler = Counting()
    images.kernel_image("sm_87", tmp_path, compiler)
    compiler.name = "counting 1.1"
    images.kernel_image("sm_87", tmp_path, compiler)
    monkeypatch.setattr(images, "source_digest", lambda: "changed")
    images.kernel_image("sm_87", tmp_path, compiler)
    assert len(compiler.asked) == 3


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    compiler: Compiler = Counting()
    assert images.kernel_image("sm_87", blocked / "kernels", compiler) == b"image of sm_87"


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert images.cache_folder() == Path("/somewhere/yolor-edge/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert images.cache_folder() == Path("/home/me/.cache/yolor-edge/kernels")


def test_without_a_compiler_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "_nvrtc_libraries", lambda: iter(["/no/such/libnvrtc.so"]))
    monkeypatch.setattr(images, "find_nvcc", lambda: None)
    with pytest.raises(BackendMissingError, match=r'neither NVRTC nor nvcc: pip install "cuda-bindings>=12\.8,<13"'):
        images.find_compiler()


def test_a_gpu_older_than_the_compiler_is_refused():
    with pytest.raises(BackendError, match=r"no longer compiles for sm_50, its oldest is sm_75"):
        images._target("sm_50", [75, 80], "NVRTC 13.0")


def test_source_that_does_not_compile_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "kernels.cu"
    broken.write_text("__global__ void kernel() { nonsense; }")
    monkeypatch.setattr(images, "ENTRY", broken)
    with pytest.raises(BackendError, match=r'cannot compile the kernels for sm_87: .*"nonsense" is undefined') as error:
        nvrtc().compile("sm_87")
    assert "\n" not in str(error.value)
    with pytest.raises(BackendError, match=r'cannot compile the kernels for sm_87: .*"nonsense" is undefined'):
        Nvcc(nvcc()).compile("sm_87")


def ship_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch, made_for: dict[str, int], **changed: Any) -> None:
    """Kernels compiled beforehand in a folder, as `make kernels` records them."""
    image = b"image of all"
    record = {"sources": images.source_digest(), "options": list(images.OPTIONS), "cuda_majors": made_for}
    record |= {"sha256": hashlib.sha256(image).hexdigest(), **changed}
    (folder / "kernels.fatbin").write_bytes(image)
    (folder / "kernels.json").write_text(json.dumps(record))
    monkeypatch.setattr(images, "COMPILED", folder / "kernels.fatbin")
    monkeypatch.setattr(images, "RECORD", folder / "kernels.json")


def test_kernels_compiled_beforehand_are_used_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ship_kernels(tmp_path, monkeypatch, {"sm_75": 12, "sm_87": 12, "sm_110": 13, "ptx": 13})
    monkeypatch.delenv(images.GIVEN, raising=False)
    monkeypatch.setattr(images, "find_compiler", lambda: pytest.fail("nothing is to be compiled"))
    monkeypatch.setattr(images, "driver_cuda", lambda: (12, 6))
    assert images.kernel_image("sm_87", tmp_path / "cache") == b"image of all"
    assert not (tmp_path / "cache").exists()
    counting = Counting()
    monkeypatch.setattr(images, "find_compiler", lambda: counting)
    assert images.kernel_image("sm_86", tmp_path / "cache") == b"image of sm_86"
    assert images.misfit("sm_86", (12, 6)) == "they are not for sm_86"
    assert images.misfit("sm_110", (12, 6)) == "they are of CUDA 13 for sm_110, the driver runs 12.6"
    assert images.misfit("sm_110", (13, 0)) == ""
    assert images.misfit("sm_130", (13, 2)) == ""  # newer than all, which the driver compiles the PTX for
    assert images.misfit("sm_130", (12, 9)) == "they are of CUDA 13 for sm_130, the driver runs 12.9"
    assert images.misfit("sm_87", None) == "they are of CUDA 12 for sm_87, the driver runs none"


def test_kernels_compiled_beforehand_of_other_sources_are_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "driver_cuda", lambda: (13, 0))
    monkeypatch.delenv(images.GIVEN, raising=False)
    monkeypatch.setattr(images, "find_compiler", Counting)
    for changed, reason in (
        ({"sources": "of last week"}, "they are of other sources"),
        ({"options": []}, "they are of other sources"),
        ({"sha256": "0"}, f"{tmp_path}/kernels.fatbin was altered"),
        ({"cuda_majors": []}, f"{tmp_path}/kernels.json is damaged"),
    ):
        ship_kernels(tmp_path, monkeypatch, {"sm_87": 12}, **changed)
        assert images.misfit("sm_87", (13, 0)) == reason
        assert images.kernel_image("sm_87", tmp_path / "cache") == b"image of sm_87"
    (tmp_path / "kernels.json").unlink()
    assert images.misfit("sm_87", (13, 0)) == "there are none"


def test_kernels_that_were_really_compiled_beforehand_are_whole():
    if not images.RECORD.exists():
        pytest.skip("make kernels was not run")
    if "other sources" in images.misfit("sm_87", (13, 0)):
        pytest.skip("make kernels was run before the sources were changed")
    assert images.misfit("sm_87", (13, 0)) == ""
    assert images.misfit("sm_999", (13, 0)) == ""
    packed = images.COMPILED.read_bytes()
    assert packed.startswith(b"\x50\xed\x55\xba")  # of a fat binary


def test_an_image_made_elsewhere_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLOR_EDGE_CUDA_KERNELS", str(tmp_path / "kernels.fatbin"))
    with pytest.raises(BackendError, match=r"YOLOR_EDGE_CUDA_KERNELS=.*: cannot be read \(No such file"):
        images.kernel_image("sm_87")
    (tmp_path / "kernels.fatbin").write_bytes(b"made elsewhere")
    assert images.kernel_image("sm_87") == b"made elsewhere"
