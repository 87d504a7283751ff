"""The parser of the command line: one-line complaints, short help, and the nearest name for one that is not known."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

PROGRAM = "yolor-edge"

# What other tools call things, and what they are called here; of several the first that the command has.
OTHER_COMMANDS = {
    "annotate": "label",
    "autolabel": "label",
    "benchmark": "bench",
    "calibrate": "export",
    "convert": "export",
    "detect": "run",
    "fit": "train",
    "generate": "scenes",
    "infer": "run",
    "inference": "run",
    "info": "inspect",
    "predict": "run",
    "profile": "bench",
    "quantise": "export",
    "quantize": "export",
    "resume": "train",
    "segment": "run",
    "stream": "run",
    "summary": "inspect",
    "test": "evaluate",
    "track": "run",
    "trtexec": "build",
    "val": "evaluate",
    "validate": "evaluate",
}
OTHER_OPTIONS = {
    "--batch": ("--batch-sizes", "--set batch_size=N"),
    "--batch-size": ("--batch-sizes", "--batch", "--set batch_size=N"),
    "--beam": ("--beam-size", "--max-beam-size"),
    "--beams": ("--beam-size", "--max-beam-size"),
    "--checkpoint": ("CHECKPOINT", "BUNDLE"),
    "--conf": ("--score-threshold",),
    "--conf-thres": ("--score-threshold",),
    "--confidence": ("--score-threshold",),
    "--cuda": ("--backend", "--set device=cuda:0"),
    "--dataset": ("--data",),
    "--device": ("--backend", "--set device=cuda:0"),
    "--exist-ok": ("--force",),
    "--fp16": ("--precision fp16",),
    "--fps": ("--camera-fps",),
    "--gpu": ("--backend", "--set device=cuda:0"),
    "--half": ("--precision fp16",),
    "--heads": ("--tasks",),
    "--image": ("--images", "SOURCE"),
    "--images": ("--count", "SOURCE"),
    "--image-size": ("--input-size",),
    "--img": ("--input-size",),
    "--img-size": ("--input-size",),
    "--imgsz": ("--input-size",),
    "--input": ("SOURCE",),
    "--int8": ("--precision int8",),
    "--iou": ("--iou-threshold",),
    "--iou-thres": ("--iou-threshold",),
    "--iterations": ("--runs",),
    "--jobs": ("--threads",),
    "--lr": ("--set learning_rate=X",),
    "--lr0": ("--set learning_rate=X",),
    "--max-batch": ("--batch-sizes",),
    "--max-det": ("--max-detections",),
    "--max-workspace": ("--workspace",),
    "--model": ("BUNDLE", "CHECKPOINT|BUNDLE", "CHECKPOINT", "--size"),
    "--name": ("--out",),
    "--nms": ("--iou-threshold",),
    "--nosave": ("--no-pictures",),
    "--output": ("--out",),
    "--processing": ("--processing",),
    "--project": ("--out",),
    "--save-dir": ("--out",),
    "--save-json": ("--jsonl",),
    "--save-txt": ("--jsonl",),
    "--size": ("--input-size", "--image-size"),
    "--source": ("SOURCE",),
    "--view-img": ("--show",),
    "--weights": ("BUNDLE", "CHECKPOINT|BUNDLE", "CHECKPOINT"),
    "--workers": ("--threads", "--set workers=N"),
}


class Misuse(Exception):
    """Arguments that make no command."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line; it raises `Misuse` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise Misuse(f"{message}; see {self.prog} --help")

    def option_for(self, argument: str) -> str | None:
        """What fills an argument of the command's function: an option, or the name that the help gives a position."""
        for action in self._actions:
            if action.dest == argument:
                return action.option_strings[0] if action.option_strings else str(action.metavar)
        return None


class CommandParser(Parser):
    """The parser of one command, which says what an option of another tool is called here."""

    # typeshed has it as overloads, for namespaces of any type.
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse does it, after a look at the options' names: an unknown one matters more than a missing one."""
        for word in args or ():
            if word == "--":
                break
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                raise Misuse(f"unknown option {name}{self._instead_of(name)}; see {self.prog} --help")
        return super().parse_known_args(args, namespace)

    def _instead_of(self, name: str) -> str:
        positions = [str(action.metavar) for action in self._actions if not action.option_strings]
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for here in OTHER_OPTIONS.get(name.lower().replace("_", "-"), ()):
            if here in positions:
                return f"; {here} is given without an option: {self.prog} {' '.join(positions)}"
            if here.partition(" ")[0] in options:
                return f"; this is called {here} here"
        return meant(name, options)


def meant(name: str, known: Iterable[str]) -> str:
    """ "; perhaps ..." with the nearest of the known names, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.7)
    return f"; perhaps {near[0]}" if near else ""


def check_command(typed: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a command that there is not, with the one that does what was meant.

    Raises:
        Misuse: If the first word is neither an option nor a command.
    """
    if not typed or typed[0].startswith("-") or typed[0] in known:
        return
    name = typed[0]
    instead = OTHER_COMMANDS.get(name.lower())
    hint = f"; this is called {instead} here" if instead else meant(name, known)
    raise Misuse(f'unknown command "{name}"{hint or "; the commands are " + ", ".join(known)}; see {PROGRAM} --help')


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    usage: str,
    summary: str,
    details: str,
    example: str,
    needs_opencv: bool = True,
) -> CommandParser:
    """Add a command to the program's parser.

    Args:
        commands: What `add_subparsers` gave.
        name: Of the command.
        run: What it does with the parsed arguments; returns the exit code.
        usage: What follows its name in the usage line.
        summary: One line, for the list of commands and the head of the help.
        details: What else the help says above the options.
        example: One or more command lines.
        needs_opencv: Whether it cannot run without OpenCV, so that one that is missing or broken is told at once.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        usage=f"{PROGRAM} {name} {usage}",
        description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
        epilog=f"example:\n  {example}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser, needs_opencv=needs_opencv)
    return parser


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps everything but the example."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return text
        return super()._fill_text(text, width, indent)
