"""Compiles the GPU's kernels beforehand, for every GPU at once, into the package, where `make wheels` takes them from.

python scripts/make_kernels.py

nvcc is needed, of CUDA 13 for Thor (sm_110). Where NVRTC of an older CUDA is there too, as the package of PyPI that
`make venv` installs, it compiles what it knows: drivers run what was compiled by an older CUDA, not by a newer one, and
those of JetPack 6 are of CUDA 12.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from yolor_edge.runtime.cuda.kernels import kernel_image as images
from yolor_edge.runtime.cuda.kernels.kernel_image import Compiler, Nvcc, Nvrtc, find_nvcc
from yolor_edge.runtime.files import write_atomically

OLDEST = 75  # TensorRT 10.3 to 11 know Turing and what came after it


def main() -> str:
    """Compile and pack; returns a line about it."""
    nvcc = find_nvcc()
    fatbinary = None if nvcc is None else shutil.which("fatbinary", path=str(Path(nvcc).resolve().parent))
    if nvcc is None or fatbinary is None:
        sys.exit("make: nvcc and fatbinary are not there, which compile the kernels; install the CUDA toolkit")
    # By rising CUDA, so that the oldest that knows a GPU compiles for it.
    compilers = sorted([*nvrtcs(), (Nvcc(nvcc), nvcc_targets(nvcc))], key=lambda one: major_of(one[0]))
    targets = sorted({target for _, known in compilers for target in known if target >= OLDEST})
    cuda_majors: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [fatbinary, "-64", f"--create={folder}/kernels.fatbin"]
        for target in targets:
            compiler = next(one for one, known in compilers if target in known)
            (Path(folder) / f"{target}.cubin").write_bytes(compiler.compile(f"sm_{target}"))
            command.append(f"--image3=kind=elf,sm={target},file={folder}/{target}.cubin")
            cuda_majors[f"sm_{target}"] = major_of(compiler)
        # For the driver to finish on GPUs that are newer than all of these.
        compiler = next(one for one, known in compilers if targets[-1] in known)
        (Path(folder) / "newest.ptx").write_bytes(compiler.compile("sm_999").rstrip(b"\0"))
        command.append(f"--image3=kind=ptx,sm={targets[-1]},file={folder}/newest.ptx")
        cuda_majors["ptx"] = major_of(compiler)
        subprocess.run(command, check=True)
        packed = (Path(folder) / "kernels.fatbin").read_bytes()
    record = {
        "sources": images.source_digest(),
        "options": list(images.OPTIONS),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "cuda_majors": cuda_majors,
        "compilers": [compiler.name for compiler, _ in compilers],
    }
    write_atomically(images.COMPILED, packed)
    write_atomically(images.RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return f"{images.COMPILED}: {len(packed)} bytes, {', '.join(f'{t} by CUDA {m}' for t, m in cuda_majors.items())}"


def nvrtcs() -> list[tuple[Compiler, list[int]]]:
    """The first NVRTC that loads, and the GPUs it knows."""
    for library in images._nvrtc_libraries():
        with contextlib.suppress(OSError):
            compiler = Nvrtc(library)
            return [(compiler, compiler.targets())]
    return []


def nvcc_targets(nvcc: str) -> list[int]:
    """The GPUs that nvcc knows."""
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    return [int(line.removeprefix("compute_")) for line in done.stdout.split()]


def major_of(compiler: Compiler) -> int:
    """Of the CUDA that a compiler is of: "NVRTC 12.9", "nvcc Build cuda_13.0.r13.0/compiler.36424714_0"."""
    found = re.search(r"(\d+)\.\d+", compiler.name)
    if found is None:
        sys.exit(f"make: {compiler.name} does not say its CUDA")
    return int(found[1])


if __name__ == "__main__":
    print(main())
