"""`yolor-edge build`: TensorRT engines from a bundle, into the bundle's cache."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..spelling import flavour_name
from ..termination import terminated_like_interrupted

if TYPE_CHECKING:
    from ..export.engines.to_tensorrt import BuiltEngine


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    from .. import main as cli

    parser = cli._command(
        commands,
        "build",
        _build,
        "build TensorRT engines from a bundle's graphs",
        "Engines lie in BUNDLE/engines with a record of what they fit beside each; what is there already is not built "
        "again. tensorrt builds on the device that runs the engine, such as a Jetson; tensorrt_rtx builds for desktop "
        "RTX GPUs on any machine. The input size is the bundle's: another one is a matter of export.",
        "yolor-edge build bundles/scenes --precision fp16 --flavour tensorrt_rtx --target sm_86,sm_89",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--precision", default="fp16", metavar="P", help="fp32, fp16 or int8 (default: fp16)")
    parser.add_argument(
        "--flavour",
        type=flavour_name,
        metavar="NAME",
        help="tensorrt or tensorrt_rtx (default: the one installed, tensorrt first)",
    )
    parser.add_argument(
        "--target",
        type=_targets,
        default=(),
        metavar="A,B",
        help="compute capabilities such as sm_86 (default: the GPU here, for tensorrt_rtx all from sm_80 on)",
    )
    parser.add_argument(
        "--batch", type=_numbers, default=(1,), metavar="N,M", help="pictures at once; a profile for each (default: 1)"
    )
    parser.add_argument("--size", type=cli._size, metavar="HxW", help="input size to insist on (default: the bundle's)")
    parser.add_argument("--beam", type=int, default=3, metavar="K", help="most sentences of a search (default: 3)")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="most scratch memory of a kernel")
    parser.add_argument(
        "--low-memory", action="store_true", help="build with less memory; the engine may be slower; one profile"
    )
    parser.add_argument("--frozen", action="store_true", help="measure nothing anew: fail if the caches lack something")
    cli._add_json(parser)


def _build(arguments: argparse.Namespace) -> int:
    from .. import main as cli
    from ..export.engines.to_tensorrt import build_engines

    with terminated_like_interrupted():
        built = build_engines(
            arguments.bundle,
            arguments.precision,
            arguments.target,
            arguments.batch,
            sizes=() if arguments.size is None else (arguments.size,),
            flavour=arguments.flavour,
            beam=arguments.beam,
            workspace_mib=arguments.workspace,
            low_memory=arguments.low_memory,
            frozen=arguments.frozen,
            progress=cli._say,
        )
    _choose_captions(built, arguments, cli._say)
    return cli._print(arguments, {"engines": [engine.to_json() for engine in built]}, _table(built))


def _choose_captions(built: Sequence[BuiltEngine], arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Find out which caption decoder is fastest on the GPU here, if there is one and anything new was built."""
    from ..benchmarks.report.caption_choice import choose_after_build
    from ..runtime.backends.registry import backend_of_flavour
    from ..runtime.bundle.bundle import Bundle

    backend = backend_of_flavour(built[0].engine.record.flavour)
    is_new = any(one.is_new for one in built)
    choose_after_build(Bundle.open(arguments.bundle), backend, arguments.precision, arguments.beam, say, is_new)


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


def _targets(text: str) -> tuple[str, ...]:
    """ "a,b" as names; whether they are known is for the flavour to say."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f'expected names with commas between, such as sm_86,sm_89, got "{text}"')
    return names


def _numbers(text: str) -> tuple[int, ...]:
    """ "1,4" as numbers; whether they can be is for the build to say."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected whole numbers with commas between, such as 1,4, got "{text}"'
        ) from None
