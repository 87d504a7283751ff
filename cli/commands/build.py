"""`yolor-edge build`: TensorRT engines from a bundle, into the bundle's cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..options import add_json, numbers, size, targets, with_dashes
from ..output import print_result, say
from ..parsing import add_command
from ..termination import terminated_like_interrupted

if TYPE_CHECKING:
    from ..export.engines.to_tensorrt import BuiltEngine


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "build",
        _build,
        "BUNDLE [options]",
        "build TensorRT engines from a bundle's graphs",
        "Engines are cached in BUNDLE/engines, each with a record of what it fits; one that is there already is not "
        "built again. tensorrt builds on the device that runs the engine, such as a Jetson; tensorrt-rtx builds for "
        "desktop RTX GPUs on any machine.",
        "yolor-edge build bundles/scenes --precision fp16 --flavour tensorrt-rtx --target sm_86,sm_89",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    add_json(parser)
    engine = parser.add_argument_group("engines")
    engine.add_argument("--precision", default="fp16", metavar="P", help="fp32, fp16 or int8 (default: fp16)")
    engine.add_argument(
        "--flavour",
        type=with_dashes,
        metavar="NAME",
        help="tensorrt or tensorrt-rtx (default: the one installed, tensorrt first)",
    )
    engine.add_argument(
        "--target",
        dest="targets",
        type=targets,
        default=(),
        metavar="A,B",
        help="compute capabilities such as sm_86 (default: the GPU here, for tensorrt-rtx all from sm_80 on)",
    )
    engine.add_argument(
        "--batch-sizes",
        type=numbers,
        default=(1,),
        metavar="N,M",
        help="one optimisation profile per batch size (default: 1)",
    )
    engine.add_argument(
        "--input-size", type=size, metavar="HxW", help="fail unless the bundle has this input size (default: any)"
    )
    engine.add_argument(
        "--max-beam-size", type=int, metavar="K", help="largest beam size of the captions (default: the model's own)"
    )
    builder = parser.add_argument_group("builder")
    builder.add_argument(
        "--workspace",
        dest="workspace_mib",
        type=int,
        metavar="MIB",
        help="scratch memory that a kernel may use (default: as TensorRT sets it)",
    )
    builder.add_argument(
        "--low-memory",
        action="store_true",
        help="build with less memory; the engine may be slower, and one profile spans all batch sizes",
    )
    builder.add_argument("--frozen", action="store_true", help="use cached kernel timings only; fail on a cache miss")


def _build(arguments: argparse.Namespace) -> int:
    from ..export.engines.to_tensorrt import build_engines

    with terminated_like_interrupted():
        built = build_engines(
            arguments.bundle,
            arguments.precision,
            arguments.targets,
            arguments.batch_sizes,
            arguments.input_size,
            flavour=arguments.flavour,
            max_beam_size=arguments.max_beam_size,
            workspace_mib=arguments.workspace_mib,
            low_memory=arguments.low_memory,
            frozen=arguments.frozen,
            progress=say,
        )
    _choose_captions(built, arguments)
    print_result(arguments, {"engines": [engine.to_json() for engine in built]}, _table(built))
    return 0


def _choose_captions(built: Sequence[BuiltEngine], arguments: argparse.Namespace) -> None:
    """Find out which caption decoder is fastest on the GPU here, if there is one and anything new was built."""
    from ..benchmarks.report.caption_choice import choose_after_build
    from ..runtime.backends.registry import backend_of_flavour
    from ..runtime.bundle.bundle import Bundle

    backend = backend_of_flavour(built[0].engine.record.flavour)
    is_new = any(one.is_new for one in built)
    beam = arguments.max_beam_size
    choose_after_build(Bundle.open(arguments.bundle), backend, arguments.precision, beam, say, is_new)


def _table(built: Sequence[BuiltEngine]) -> str:
    lines = [f"{'graph':26} {'engine':>9} {'seconds':>8} {'peak':>9} {'layers':>18}  file"]
    for entry in built:
        record = entry.engine.record
        if entry.is_new:
            seconds, peak = f"{record.build['seconds']:.1f}", f"{record.build['peak_mib']} MiB"
        else:
            seconds, peak = "cached", "-"
        layers = ", ".join(f"{count} {name}" for name, count in record.build.get("layers", {}).items()) or "-"
        size = f"{record.engine_bytes / 1e6:.1f} MB"
        lines.append(f"{record.graph:26} {size:>9} {seconds:>8} {peak:>9} {layers:>18}  {entry.engine.path.name}")
    record = built[0].engine.record
    lines.append(f"{record.flavour} {record.version} for {', '.join(record.targets)}; in {built[0].engine.path.parent}")
    return "\n".join(lines)
