"""`yolor-edge verify`: a bundle's golden inputs, replayed on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from ..main import _add_build_if_missing, _add_json, _add_post_processing, _backend, _command, _print
from ..spelling import backend_name


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = _command(
        commands,
        "verify",
        _verify,
        "replay a bundle's golden inputs on this machine",
        "Compares pixels, raw outputs, boxes, masks, semantic map and caption with what the network answered "
        "when it was exported, in every precision of the bundle and on every backend that is installed, and shows the "
        "input on which a stage came off worst. Exit code 1 if anything differs by more than is allowed.",
        "yolor-edge verify bundles/scenes\n  yolor-edge verify bundles/scenes --backend openvino --precision int8",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--backend", type=backend_name, metavar="NAME", help="only this backend (default: all that are installed)"
    )
    parser.add_argument("--precision", metavar="P", help="only this precision (default: all that the bundle holds)")
    parser.add_argument("--threads", type=int, metavar="T", help="CPU threads (default: all cores)")
    _add_post_processing(parser)
    parser.add_argument("--each", action="store_true", help="show every input, not only the worst of each stage")
    _add_build_if_missing(parser)
    _add_json(parser)


def _verify(arguments: argparse.Namespace) -> int:
    from ..runtime.verification.replay import verify_everything

    found = verify_everything(arguments.bundle, **_backend(arguments))
    _print(arguments, found.to_json(), found.table(arguments.each))
    return 0 if found.passed else 1
