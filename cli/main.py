"""The command `yolor-edge`: each subcommand is a thin face over one public function with the same arguments.

A subcommand imports what it needs when it runs, so that `--help` is quick and a device without torch can use
the rest. What goes wrong is one line on stderr: exit code 2 for a request that cannot be served as asked, 1
for one that failed.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .spelling import as_typed, backend_name

_PROGRAM = "yolor-edge"
# Where a package is missing: the extras whose packages a command needs, others "train". What evaluate and bench need
# hangs on what they are given: they name the one package.
_EXTRAS = {"export": ("export",), "diff": ("export",), "demo": ("export", "bench"), "evaluate": (), "bench": ()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises for what a user can cause.

    Args:
        argv: The arguments after the program's name; None for those of this process.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    arguments = argparse.Namespace(typed=typed, command="", out=None)
    try:
        _parser().parse_args(typed, arguments)
        return arguments.run(arguments)
    except _Misuse as error:
        return _complain(error, 2)
    except SystemExit as leaving:  # argparse after --help and --version
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        hint = "; continue with --resume and the folder of the run" if arguments.command == "train" else ""
        return _complain(f"interrupted{hint}", 130)
    except ImportError as error:
        text = _import_error_text(error, arguments.command)
        if text is None:
            raise
        return _complain(text, 1)
    except BrokenPipeError:  # whoever read stdout has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(_os_error_text(error, arguments.out), 1)
    except Exception as error:
        code = _exit_code_of(error)
        if code is None:
            raise
        if "No space left on device" in str(error):  # safetensors raises an error of its own
            return _complain(_os_error_text(OSError(errno.ENOSPC, str(error)), arguments.out), code)
        return _complain(as_typed(str(error), arguments), code)


class _Misuse(Exception):
    """Arguments that make no command."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise _Misuse(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from . import __version__

        print(f"{_PROGRAM} {__version__}")
        parser.exit()


def _complain(what: object, code: int) -> int:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")  # over an unfinished line of progress
    print(f"{_PROGRAM}: {' '.join(str(what).split())}", file=sys.stderr, flush=True)
    return code


def _exit_code_of(error: Exception) -> int | None:
    """The exit code of an error that is told in one line; None for one that is a mistake in the program."""
    from .runtime.errors import YolorEdgeError

    if isinstance(error, YolorEdgeError):
        return error.exit_code
    # A loss that is no number; and the error that safetensors raises where others raise an OSError.
    if isinstance(error, FloatingPointError) or type(error).__name__ == "SafetensorError":
        return 1
    return None


def _import_error_text(error: ImportError, command: str) -> str | None:
    """What is missing or broken and what cures it; None where that is a mistake in the program."""
    from .runtime.environment.install import lacking_packages
    from .runtime.environment.opencv import require_opencv
    from .runtime.environment.packages import package_of_module

    module = (error.name or "").partition(".")[0]
    try:
        require_opencv()  # which the other stages import as it comes
    except ImportError as of_opencv:
        return str(of_opencv)
    if not isinstance(error, ModuleNotFoundError) or package_of_module(module) is None:
        return None
    return lacking_packages(command, module, _EXTRAS.get(command, ("train",)))


def _os_error_text(error: OSError, out: str | None) -> str:
    """What the system refused, with the file if it says which, else with the folder that was written to."""
    file = error.filename or out
    where = f"{file}: " if file else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full ({reason}); free some space and run the command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}not permitted ({reason}); choose another folder or change its permissions"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG) and out is not None:
        return f"{where}cannot be made or opened ({reason}); choose another place"
    return f"{where}{reason}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Boxes, instance masks, a semantic map and a caption from one network: "
        "train, export, run, measure.",
        epilog="yolor-edge COMMAND --help explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    from .commands import bench as commands_bench
    from .commands import build as commands_build
    from .commands import compare as commands_compare
    from .commands import demo as commands_demo
    from .commands import diff as commands_diff
    from .commands import doctor as commands_doctor
    from .commands import evaluate as commands_evaluate
    from .commands import export as commands_export
    from .commands import run as commands_run
    from .commands import scenes as commands_scenes
    from .commands import verify as commands_verify

    for add in (
        *(commands_scenes.add, _add_train, commands_evaluate.add, commands_export.add, commands_build.add),
        *(commands_verify.add, commands_diff.add, commands_run.add, commands_bench.add, commands_compare.add),
        *(commands_doctor.add, _add_inspect, commands_demo.add),
    ):
        add(commands)
    return parser


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    details: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
        epilog=f"example:\n  {example}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps everything but the example."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return text
        return super()._fill_text(text, width, indent)


# Each command: its arguments, then what it does.


def _add_train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        _train,
        "train a network on a data set in COCO's layout",
        "Writes the folder RUN with RUN/checkpoint in it. A run that was stopped goes on with --resume and "
        "ends with the same result. Progress with the loss of every task is written to stderr.",
        "yolor-edge train --data scenes --size n --epochs 30 --input-size 224x288 --out runs/scenes\n"
        "  yolor-edge train --resume runs/scenes",
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the data set, with annotations/ in it")
    parser.add_argument("--out", metavar="RUN", help="folder of the run; must not hold one yet")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder; takes no other option but --threads"
    )
    parser.add_argument("--size", choices=("n", "s", "m", "l"), help="size of the network (default: n)")
    parser.add_argument("--epochs", type=int, metavar="E", help="passes over the data (default: 100)")
    parser.add_argument(
        "--input-size",
        type=_size,
        metavar="HxW",
        help="input of the network, multiples of 32 (default: 640x640)",
    )
    parser.add_argument(
        "--tasks",
        type=_names,
        metavar="A,B",
        help="of boxes, masks, semantic, caption (default: all with truth)",
    )
    parser.add_argument("--split", metavar="S", help="split to train on (default: the first named train...)")
    parser.add_argument("--name", metavar="NAME", help="what the network calls itself (default: yolor-edge)")
    _add_captioner(parser)
    parser.add_argument(
        "--threads",
        type=int,
        metavar="T",
        help="CPU threads of the training itself, beside the processes that prepare batches (--set workers=2); on a "
        "machine that does other work fewer may be faster, since all threads wait for the slowest (default: all "
        "cores that may be used; with --resume as the run was begun)",
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="another setting, such as batch_size=8; can be repeated; docs/settings.md has them all",
    )


def _train(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        others = ("data", "out", "size", "epochs", "input_size", "tasks", "split", "name", "captioner", "set")
        given = [f"--{name.replace('_', '-')}" for name in others if getattr(arguments, name) is not None]
        if given:
            raise _Misuse(f"--resume goes on with the settings of the run; leave out {', '.join(given)}")
        from .train.loop import resume

        checkpoint = resume(arguments.resume, arguments.threads)
    else:
        if arguments.data is None or arguments.out is None:
            raise _Misuse("train needs --data DIR and --out RUN, or --resume RUN; see yolor-edge train --help")
        from .train.config import TrainConfig
        from .train.loop import fit

        settings = [] if arguments.epochs is None else [f"epochs={arguments.epochs}"]
        options = {
            name: getattr(arguments, name)
            for name in ("size", "input_size", "tasks", "name", "captioner")
            if getattr(arguments, name) is not None
        }
        config = TrainConfig().with_settings([*settings, *(arguments.set or [])])
        checkpoint = fit(
            arguments.data,
            arguments.out,
            config=config,
            split=arguments.split,
            threads=arguments.threads,
            **options,
        )
    print(f"checkpoint: {checkpoint.path}")
    return 0


def _add_inspect(commands: Any) -> None:
    parser = _command(
        commands,
        "inspect",
        _inspect,
        "print a network's parameters and FLOPs by part",
        "Of a checkpoint, or of a size that is not trained yet.",
        "yolor-edge inspect --size l --classes 80 --semantic 173 --vocabulary 30522",
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="folder of a checkpoint or of a run")
    parser.add_argument("--size", choices=("n", "s", "m", "l"), help="size of a network instead of a checkpoint")
    parser.add_argument("--classes", type=_amount, metavar="N", help="classes of boxes (default: 80)")
    parser.add_argument("--semantic", type=_amount, metavar="N", help="classes of the semantic map (default: 173)")
    parser.add_argument("--vocabulary", type=_amount, metavar="N", help="words of the captions (default: 10202)")
    parser.add_argument(
        "--input-size",
        type=_size,
        metavar="HxW",
        help="multiples of 32 (default: the checkpoint's, or 640x640)",
    )
    parser.add_argument("--heads", type=_names, metavar="A,B", help="tasks (default: all)")
    _add_captioner(parser)
    _add_into(parser)
    _add_json(parser)


def _inspect(arguments: argparse.Namespace) -> int:
    from .train.network.cost import inspect_network

    write = _into(arguments)
    found = inspect_network(_network_config(arguments), arguments.input_size)
    write(found.table())
    return _print(arguments, found.to_json(), found.table())


def _amount(text: str) -> int:
    """A number of classes or words."""
    number, most = int(text), 100_000  # with which a network still fits into memory
    if number > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {number}")
    return number


def _network_config(arguments: argparse.Namespace) -> Any:
    from .runtime.bundle.tokenizer import SPECIALS
    from .train.config import CAPTIONERS, TASKS, NetworkConfig

    if (arguments.checkpoint is None) == (arguments.size is None):
        raise _Misuse("inspect needs a CHECKPOINT or --size, one of the two; see yolor-edge inspect --help")
    counts = {
        "--classes": arguments.classes,
        "--semantic": arguments.semantic,
        "--vocabulary": arguments.vocabulary,
    }
    if arguments.checkpoint is not None:
        given = [name for name, count in counts.items() if count is not None]
        given += ["--captioner"] if arguments.captioner is not None else []
        if given:
            raise _Misuse(f"a checkpoint has its own classes, words and captioner; leave out {', '.join(given)}")
        from .train.checkpoint import Checkpoint

        config = Checkpoint.open(arguments.checkpoint).config
        absent = [task for task in arguments.heads or () if task not in config.tasks]
        if absent:
            raise _Misuse(f"the network has no head for {', '.join(absent)}; it has {', '.join(config.tasks)}")
        return config.with_tasks(arguments.heads) if arguments.heads else config
    for name, count in counts.items():
        if count is not None and count < 1:
            raise _Misuse(f"{name} must be at least 1, got {count}")
    classes, semantic, words = (
        80 if arguments.classes is None else arguments.classes,
        173 if arguments.semantic is None else arguments.semantic,
        10202 if arguments.vocabulary is None else arguments.vocabulary,
    )
    return NetworkConfig(
        size=arguments.size,
        tasks=arguments.heads or TASKS,
        class_names=tuple(f"class {i}" for i in range(classes)),
        category_ids=tuple(range(1, classes + 1)),
        semantic_names=tuple(f"class {i}" for i in range(semantic)),
        semantic_category_ids=tuple(range(1, semantic + 1)),
        vocabulary=(*SPECIALS, *(f"word{i}" for i in range(words)))[:words],
        input_size=arguments.input_size or (640, 640),
        **CAPTIONERS[arguments.captioner or "catr"],
    )


# Arguments and outputs that several commands share.


def _add_captioner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--captioner",
        choices=("catr", "grit"),
        help="decoder of the captions: catr, over a grid of the picture, or grit, with gated layers over the grid and "
        "the likeliest cells of boxes and semantic classes (default: catr)",
    )


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        type=backend_name,
        default="onnxruntime",
        metavar="NAME",
        help="what runs a bundle (default: onnxruntime)",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="P",
        help="of a bundle's graphs: fp32, fp16, int8, or auto, which the bundle recommends (default: fp32)",
    )
    parser.add_argument("--threads", type=int, metavar="T", help="CPU threads of a bundle (default: all cores)")
    _add_post_processing(parser)
    _add_build_if_missing(parser)


def _add_post_processing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--post-processing",
        choices=("gpu", "cpu"),
        help="where pictures are letterboxed and answers made of the network's outputs; the answers are the same "
        "(default: gpu with the TensorRT backends, cpu with the others)",
    )


def _add_build_if_missing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--build-if-missing",
        action="store_true",
        help="build the TensorRT engines that are missing for this device first; without it nothing is built",
    )


def _backend(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.build_if_missing:
        from .missing_engines import build_as_asked

        build_as_asked(arguments, _say)
    names = ("backend", "precision", "threads", "post_processing")
    return {name: getattr(arguments, name) for name in names}


def _add_caption(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beam-size", type=int, metavar="K", help="of the caption search; 1 is greedy (default: 3)")
    parser.add_argument(
        "--caption-decoder",
        metavar="D",
        help="what writes a bundle's captions: native, native-int8 (faster, now and then another word) or graph "
        "(default: what was fastest when engines were built here, else native where the bundle has its weights)",
    )
    parser.add_argument(
        "--caption-budget-ms", type=float, metavar="MS", help="a caption not finished by then ends with what it has"
    )


def _caption(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the caption's options that were given."""
    names = ("beam_size", "caption_decoder", "caption_budget_ms")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")


def _print(arguments: argparse.Namespace, content: dict[str, Any], text: str) -> int:
    print(json.dumps(content, indent=2, ensure_ascii=False) if arguments.json else text, flush=True)
    return 0


def _add_into(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--into",
        metavar="FILE:NAME",
        help="also write command and result into FILE, between the lines <!-- NAME --> and <!-- /NAME -->",
    )


def _into(arguments: argparse.Namespace) -> Callable[[str], None]:
    """What writes a result between the marker lines of --into; checked now, before the work is done."""
    if arguments.into is None:
        return lambda text: None
    from .runtime.errors import UsageError
    from .runtime.files import write_atomically

    file, _, name = arguments.into.rpartition(":")
    if not file or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise _Misuse(f'--into: expected FILE:NAME such as README.md:demo-scores, got "{arguments.into}"')
    path = Path(file)
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    command = shlex.join([_PROGRAM, *_without_into(arguments.typed)])

    def write(text: str) -> None:
        try:
            content = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file; --into changes a file that is there") from None
        places = len(pattern.findall(content))
        if places != 1:
            raise UsageError(f"{path}: has {places} places <!-- {name} --> ... <!-- /{name} -->, expected one")
        if text:
            block = f"```console\n$ {command}\n{text}\n```\n"
            write_atomically(path, pattern.sub(lambda found: found[1] + block + found[2], content))

    write("")
    return write


def _without_into(typed: Sequence[str]) -> list[str]:
    left = []
    words = iter(typed)
    for word in words:
        if word == "--into":
            next(words, None)
        elif not word.startswith("--into="):
            left.append(word)
    return left


def _size(text: str) -> tuple[int, int]:
    """ "HxW" as (height, width)."""
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f'expected HEIGHTxWIDTH such as 480x640, got "{text}"')
    return int(found[1]), int(found[2])


def _names(text: str) -> tuple[str, ...]:
    """ "a,b" as names; whether they are known is for the command to say."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f'expected names with commas between, such as boxes,masks, got "{text}"')
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _counter(what: str) -> Callable[[int, int], None]:
    """Progress on stderr: one line rewritten on a terminal, ten lines in a file."""
    counters = _counters()
    return lambda done, total: counters(what, done, total)


def _counters() -> Callable[[str, int, int], None]:
    def show(what: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            sys.stderr.write(f"\r\x1b[K{what} {done}/{total}{end}")
            sys.stderr.flush()
        elif done == total or 10 * done // total != 10 * (done - 1) // total:
            _say(f"{what} {done}/{total}")

    return show
