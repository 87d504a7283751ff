"""The optional packages: what each is imported as, which extra brings it, and where there is a wheel of it.

This table is read by the registry of backends, doctor, and the messages about packages that are missing. The smallest
version of each stands in pyproject.toml alone, from where it gets into the metadata of the installed package.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """An optional package.

    Attributes:
        name: For people, and what doctor and the backends call it.
        module: What is imported.
        distributions: What it may be installed as, the one that the extra brings first; those that bring the same
            module overwrite each other.
        extras: Of pyproject.toml that bring it, the narrowest first. Of `cuda12` and `cuda13` the driver chooses.
        wheels: A marker (PEP 508) of the platforms that have a wheel; empty for all. pip would compile it elsewhere,
            or find nothing.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    extras: tuple[str, ...]
    wheels: str = ""


_X86 = "platform_machine == 'x86_64' or platform_machine == 'AMD64'"
_NOWHERE = "sys_platform == 'none'"

PACKAGES = {
    package.name: package
    for package in (
        Package(
            "opencv",
            "cv2",
            (
                *("opencv-python-headless", "opencv-python"),
                *("opencv-contrib-python-headless", "opencv-contrib-python"),
            ),
            ("opencv",),
        ),
        Package(
            "onnxruntime", "onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"), ("onnxruntime",)
        ),
        Package(
            "onnxruntime-gpu",
            "onnxruntime",
            ("onnxruntime-gpu",),
            ("onnxruntime-gpu",),
            wheels=f"{_X86} or (platform_machine == 'aarch64' and python_version >= '3.11')",
        ),
        Package("pyav", "av", ("av",), ("video",)),
        Package("openvino", "openvino", ("openvino",), ("openvino",)),
        Package("tensorrt", "tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), ("tensorrt",)),
        Package(
            "tensorrt-rtx",
            "tensorrt_rtx",
            ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
            ("tensorrt-rtx",),
            wheels=_X86,
        ),
        Package("pycuda", "pycuda.driver", ("pycuda",), ("pycuda",), wheels=_NOWHERE),
        Package("cuda-python", "cuda.bindings.driver", ("cuda-bindings", "cuda-python"), ("cuda12", "cuda13")),
        Package("torch", "torch", ("torch",), ("train", "export")),
        Package("safetensors", "safetensors", ("safetensors",), ("train", "export")),
        Package("pycocotools", "pycocotools", ("pycocotools",), ("bench", "train", "export")),
        Package("tensorboard", "tensorboard", ("tensorboard",), ("tensorboard",)),
        Package("onnx", "onnx", ("onnx",), ("export",)),
        Package("onnxscript", "onnxscript", ("onnxscript",), ("export",)),
    )
}
# What doctor tries out: all that runs bundles, or leads to a GPU.
TRIED_OUT = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "pycuda", "cuda-python")


def package_of_module(module: str) -> Package | None:
    """The package that is imported as this, or as a part of this; None for one that is not in the table."""
    top = module.partition(".")[0]
    return next((package for package in PACKAGES.values() if package.module.partition(".")[0] == top), None)
