"""The CUDA kernels for one GPU: compiled beforehand, or else at first use by the compiler that is there.

A wheel holds them compiled for every GPU (`make kernels`: kernels.fatbin, and kernels.json that says of what). They are
used where they are of the very sources beside them, for this GPU, and of a CUDA that the driver runs. Elsewhere, as
after an install from source, what a GPU runs is made by NVRTC, the compiler as a library, which comes with the CUDA
toolkit, with JetPack and as a package of PyPI, or by nvcc where there is no NVRTC. That takes a second or two once; the
result lies in a cache under the digest of the source, the GPU's architecture and the compiler's version. For devices
that have neither, YOLOR_EDGE_CUDA_KERNELS names a cubin, fatbin or PTX made elsewhere:
nvcc -fatbin --fmad=false -std=c++17 -arch=sm_87 -Iruntime/csrc -o kernels.fatbin runtime/csrc/cuda/kernels.cu
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...environment.cuda_device import driver_cuda
from ...environment.install import cuda_extra, install_command
from ...errors import BackendError, BackendMissingError
from ...files import write_atomically

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
ENTRY = SOURCES / "cuda" / "kernels.cu"
# No multiplication is fused with an addition, so that results are those of the CPU's kernels.
OPTIONS = ("--fmad=false", "--std=c++17")
# What `make kernels` writes; neither is tracked, and a source install has none.
COMPILED = Path(__file__).with_name("kernels.fatbin")
RECORD = COMPILED.with_suffix(".json")

GIVEN = "YOLOR_EDGE_CUDA_KERNELS"


class Compiler(Protocol):
    """Makes an image of the kernels."""

    @property
    def name(self) -> str:
        """With its version, for the cache and for people."""
        ...

    def compile(self, compute_capability: str) -> bytes:
        """A cubin for a GPU such as "sm_87", or PTX for the driver to finish where it is newer than the compiler.

        Raises:
            BackendError: If it fails.
        """
        ...


def kernel_image(compute_capability: str, cache: Path | None = None, compiler: Compiler | None = None) -> bytes:
    """The kernels for a GPU: compiled beforehand, from the cache, or compiled into it.

    Args:
        compute_capability: Such as "sm_87".
        cache: The folder; None for `cache_folder()`. Where it cannot be written, nothing is kept.
        compiler: None for what was compiled beforehand, or else for the one that is there.

    Raises:
        BackendMissingError: If there is no compiler.
        BackendError: If it fails, or the file that YOLOR_EDGE_CUDA_KERNELS names cannot be read.
    """
    given = os.environ.get(GIVEN)
    if given and compiler is None:
        try:
            return Path(given).read_bytes()
        except OSError as error:
            raise BackendError(f"{GIVEN}={given}: cannot be read ({error.strerror})") from error
    if compiler is None and not misfit(compute_capability, driver_cuda()):
        return COMPILED.read_bytes()
    chosen = compiler or find_compiler()
    folder = cache or cache_folder()
    key = hashlib.sha256(f"{source_digest()} {' '.join(OPTIONS)} {chosen.name}".encode()).hexdigest()[:16]
    path = folder / f"{compute_capability}-{key}.bin"
    image = _kept(path)
    if image is not None:
        return image
    image = chosen.compile(compute_capability)
    with contextlib.suppress(OSError):  # a home that cannot be written costs a second at every start, and no more
        write_atomically(path, hashlib.sha256(image).digest() + image)
    return image


def misfit(compute_capability: str, cuda: tuple[int, int] | None) -> str:
    """Why the kernels that were compiled beforehand cannot be used; empty if they can.

    Args:
        compute_capability: Of the GPU, such as "sm_87".
        cuda: The newest that the driver runs; None if that is not known.
    """
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        is_whole = hashlib.sha256(COMPILED.read_bytes()).hexdigest() == record["sha256"]
        made_for: dict[str, int] = record["cuda_majors"]  # of the compiler, by target; that of the PTX under "ptx"
        newest = max(int(target.removeprefix("sm_")) for target in made_for if target != "ptx")
        is_of_these_sources = record["sources"] == source_digest() and record["options"] == list(OPTIONS)
    except FileNotFoundError:
        return "there are none"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{RECORD} is damaged"
    if not is_whole:
        return f"{COMPILED} was altered"
    if not is_of_these_sources:
        return "they are of other sources"
    is_newer = int(compute_capability.removeprefix("sm_")) > newest
    major = made_for.get("ptx" if is_newer else compute_capability)
    if major is None:
        return f"they are not for {compute_capability}"
    if cuda is None or cuda < (major, 0):
        runs = "none" if cuda is None else f"{cuda[0]}.{cuda[1]}"
        return f"they are of CUDA {major} for {compute_capability}, the driver runs {runs}"
    return ""


def cache_folder() -> Path:
    """Where images are kept: yolor-edge/kernels in XDG_CACHE_HOME or else in the home's .cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    return Path(base) / "yolor-edge" / "kernels"


def source_files() -> list[Path]:
    """All files of the kernels' source, by rising name."""
    return sorted((SOURCES / "cuda").iterdir()) + sorted((SOURCES / "shared").iterdir())


def source_digest() -> str:
    """Of the text of all source files."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def find_compiler() -> Compiler:
    """NVRTC where there is one, else nvcc.

    Raises:
        BackendMissingError: If there is neither.
    """
    for library in _nvrtc_libraries():
        try:
            return Nvrtc(library)
        except OSError:
            continue
    nvcc = find_nvcc()
    if nvcc is not None:
        return Nvcc(nvcc)
    raise BackendMissingError(
        "the GPU's kernels are compiled when first used, and there is neither NVRTC nor nvcc: "
        f"{install_command(cuda_extra())}, or install the CUDA toolkit; post-processing on the CPU does without "
        '(<processing> "cpu")',
        argument="processing",
    )


@dataclass(frozen=True)
class FoundCompiler:
    """A compiler of this machine.

    Attributes:
        name: With its version.
        path: Of the library or the program.
    """

    name: str
    path: str


def compilers_here() -> tuple[FoundCompiler, ...]:
    """NVRTC and nvcc, as far as they are there and answer, the one that is used first."""
    found = []
    for library in _nvrtc_libraries():
        with contextlib.suppress(OSError, AttributeError, BackendError):  # it is none, or a broken one
            found.append(FoundCompiler(Nvrtc(library).name, _path_of_library(library)))
            break
    nvcc = find_nvcc()
    if nvcc is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            release = re.search(r"release ([\d.]+)", _run([nvcc, "--version"]).stdout)
            found.append(FoundCompiler(f"nvcc {release[1] if release else 'of unknown version'}", nvcc))
    return tuple(found)


def _path_of_library(library: str) -> str:
    """Where a library that is loaded lies, which the system found by its name."""
    if "/" in library:
        return library
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            path = line.partition("/")
            if path[1] and Path(path[2]).name.startswith(library):
                return f"/{path[2]}"
    return library


def find_nvcc() -> str | None:
    """The path of nvcc, looked for on the PATH and where the toolkit is installed by default."""
    return shutil.which("nvcc") or next(iter(sorted(glob.glob("/usr/local/cuda*/bin/nvcc"), reverse=True)), None)


class Nvrtc:
    """NVRTC, reached by itself: no package is needed beside the library.

    Args:
        library: Its file or name.

    Raises:
        OSError: If it cannot be loaded.
    """

    def __init__(self, library: str):
        # Of the same folder, where it does not look by itself; not kept, since loaded is loaded.
        for builtins in glob.glob(f"{Path(library).parent}/libnvrtc-builtins.so*") if "/" in library else ():
            ctypes.CDLL(builtins)
        self._library = ctypes.CDLL(library)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"

    def targets(self) -> list[int]:
        """The architectures it knows, such as 87, rising."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return sorted(found)

    def compile(self, compute_capability: str) -> bytes:
        """See `Compiler`."""
        target = _target(compute_capability, self.targets(), self.name)
        folders = [f"--include-path={folder}" for folder in (SOURCES, ENTRY.parent)]
        options = [f"--gpu-architecture={target}", *OPTIONS, *folders]
        program = ctypes.c_void_p()
        source, name = ENTRY.read_bytes(), str(ENTRY).encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source, name, 0, None, None)
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            code = self._library.nvrtcCompileProgram(program, len(options), given)
            if code != 0:
                log = self._text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
                raise BackendError(f"{self.name} cannot compile the kernels for {compute_capability}: {_one_line(log)}")
            kind = "CUBIN" if target.startswith("sm_") else "PTX"
            return self._text(program, f"nvrtcGet{kind}Size", f"nvrtcGet{kind}")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, size_call: str, call: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(size_call, program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(call, program, text)
        return text.raw

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            meaning = self._library.nvrtcGetErrorString(code).decode(errors="replace")
            raise BackendError(f"{name} failed: {meaning}")


@dataclass(frozen=True)
class Nvcc:
    """nvcc, the compiler as a program.

    Attributes:
        path: Of it.
    """

    path: str

    @property
    def name(self) -> str:
        """With its version."""
        lines = _run([self.path, "--version"]).stdout.splitlines()
        return f"nvcc {lines[-1].strip() if lines else ''}"

    def compile(self, compute_capability: str) -> bytes:
        """See `Compiler`."""
        known = [int(line.removeprefix("compute_")) for line in _run([self.path, "--list-gpu-arch"]).stdout.split()]
        target = _target(compute_capability, known, "nvcc")
        kind = "-cubin" if target.startswith("sm_") else "-ptx"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "kernels"
            done = _run([self.path, kind, f"-arch={target}", *OPTIONS, f"-I{SOURCES}", "-o", str(out), str(ENTRY)])
            if done.returncode != 0:
                text = _one_line(done.stderr)
                raise BackendError(f"{self.path} cannot compile the kernels for {compute_capability}: {text}")
            return out.read_bytes() + (b"" if kind == "-cubin" else b"\0")


def _target(compute_capability: str, known: list[int], compiler: str) -> str:
    """The architecture itself, or where it is newer than the compiler the newest virtual one."""
    wanted = int(compute_capability.removeprefix("sm_"))
    if wanted in known:
        return f"sm_{wanted}"
    below = [architecture for architecture in known if architecture < wanted]
    if not below:
        raise BackendError(
            f"{compiler} no longer compiles for {compute_capability}, its oldest is sm_{min(known)}; "
            "install an older CUDA toolkit"
        )
    return f"compute_{max(below)}"


def _nvrtc_libraries() -> Iterator[str]:
    """Where NVRTC may be: in packages of NVIDIA's, where the system looks, in the toolkit's folder."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        yield from _newest(f"{folder}/*/lib/libnvrtc.so*")
        yield from _newest(f"{folder}/*/bin/**/nvrtc64_*_0.dll")
    if sys.platform == "win32":
        yield from ("nvrtc64_130_0.dll", "nvrtc64_120_0.dll")
        return
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
    yield from _newest("/usr/local/cuda*/lib64/libnvrtc.so*")


def _newest(pattern: str) -> list[str]:
    return sorted((path for path in glob.glob(pattern, recursive=True) if ".alt." not in path), reverse=True)


def _kept(path: Path) -> bytes | None:
    """An image of the cache, if it is there and whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    image = content[32:]
    return image if hashlib.sha256(image).digest() == content[:32] else None


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def _one_line(log: str) -> str:
    return next((line.strip() for line in log.splitlines() if "error" in line), " ".join(log.split())[:200])
