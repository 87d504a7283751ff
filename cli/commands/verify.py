"""`yolor-edge verify`: a bundle's reference inputs, replayed on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_backend, add_json, build_if_asked
from ..output import print_result
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "verify",
        _verify,
        "BUNDLE [options]",
        "replay a bundle's reference inputs on this machine",
        "Compares pixels, raw outputs, boxes, masks, semantic map and caption with the network's results "
        "at export, in every precision of the bundle and on every backend that is installed, and shows for "
        "each stage the input with the largest difference. Exit code 1 if anything differs by more than is allowed.",
        "yolor-edge verify bundles/scenes\n  yolor-edge verify bundles/scenes --backend openvino --precision int8",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--each", action="store_true", help="show every input (default: only the worst of each stage)")
    add_json(parser)
    add_backend(parser, every=True)


def _verify(arguments: argparse.Namespace) -> int:
    from ..runtime.verification.replay import verify_everything

    build_if_asked(arguments)
    found = verify_everything(
        arguments.bundle, arguments.backend, arguments.precision, arguments.threads, arguments.processing
    )
    print_result(arguments, found.to_json(), found.table(arguments.each))
    return 0 if found.passed else 1
