"""A training described in a TOML file, one `name = value` a line: read with complaints, written with every default.

Beside the settings (`TrainConfig`) the file may hold what is otherwise given as options: data, network and start.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.errors import UsageError
from .config import TrainConfig, meanings, meant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # of the extra train, where Python has none


class Option(NamedTuple):
    """An option of `yolor-edge train` that a file may hold.

    Attributes:
        argument: The argument of `fit` that it fills.
        expected: What its value has to be, for people.
        accepts: Whether a value is that.
        meaning: For the comment.
    """

    argument: str
    expected: str
    accepts: Callable[[Any], bool]
    meaning: str


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_text_or_texts(value: Any) -> bool:
    return _is_text(value) or (_are_texts(value) and bool(value))


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_count(one) for one in value)


OPTIONS = {
    "data": Option("data", "text or a list of texts", _is_text_or_texts, "Folder of the data set, or several."),
    "split": Option("split", "text", _is_text, "Split to train on."),
    "size": Option("size", "text", _is_text, "Size of the network: n, s, m or l."),
    "input_size": Option("input_size", "[height, width]", _is_size, "Input of the network, multiples of 32."),
    "tasks": Option("tasks", "a list of texts", _are_texts, "Tasks to train: boxes, masks, semantic, caption."),
    "captioner": Option("captioner", "text", _is_text, "Kind of the caption decoder: catr or grit."),
    "name": Option("name", "text", _is_text, "Name of the network."),
    "from": Option("start", "text", _is_text, "Weights to start from: a checkpoint, a run or an official .pt file."),
    "freeze": Option("freeze", "a list of texts", _are_texts, "Parts that stay as they are in the start."),
    "vocabulary": Option("vocabulary", "text", _is_text, "Words of the captions of an official .pt file."),
    "teacher": Option("teacher", "text", _is_text, "Network to learn from beside the data: a checkpoint or a bundle."),
    "threads": Option("threads", "a whole number", _is_count, "CPU threads of the training itself."),
}
"""By their names in the file."""


def read_config_file(path: str | Path) -> tuple[dict[str, Any], TrainConfig]:
    """What a file says: arguments of `fit` by their names, and the settings, those not named at their defaults.

    Raises:
        UsageError: If it cannot be read or is not TOML, a name is unknown, or a value is not what it has to be.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected a TOML file, as config.toml in the folder of a run") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML ({error}); expected lines such as batch_size = 8") from None
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name in OPTIONS:
            option = OPTIONS[name]
            if not option.accepts(value):
                raise UsageError(f"{path}: {name}: expected {option.expected}, got {_shown(value)}")
            options[option.argument] = tuple(value) if isinstance(value, list) else value
        elif name in fields:
            settings[name] = _setting(path, name, value, fields[name].default)
        elif isinstance(value, dict):
            raise UsageError(f"{path}: holds a table [{name}]; expected lines NAME = VALUE above all tables")
        else:
            near = meant(name, [*fields, *OPTIONS])
            raise UsageError(f"{path}: there is no setting {name!r}{near}; docs/settings.md lists all of them")
    try:
        return options, TrainConfig(**settings)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _setting(path: Path, name: str, value: Any, default: Any) -> Any:
    """The value as the type of its field; a whole number is a number too."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    kind = type(default)
    if type(value) is kind:
        return value
    if kind is float and _is_count(value):
        return float(value)
    raise UsageError(f"{path}: {name}: expected {kinds[kind]}, got {_shown(value)}")


def config_text(config: TrainConfig, options: Mapping[str, Any], head: str) -> str:
    """The file that `read_config_file` reads back as these: every setting, with its meaning as a comment.

    Args:
        config: The settings.
        options: Arguments of `fit` by their names; those without a value are written as comments.
        head: The first lines, without the marks of a comment.
    """
    try:
        said = meanings()
    except ValueError:  # python -OO has no docstrings.
        said = {}
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for name, option in OPTIONS.items():
        value = options.get(option.argument)
        line = f"# {name} =" if value is None or value == () else f"{name} = {_toml(value)}"
        lines += ["", *_comment(option.meaning), line]
    for name, value in config.to_json().items():
        lines += ["", *_comment(said.get(name, "")), f"{name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 110)]


def _toml(value: Any) -> str:
    """A text, number, flag or list as TOML writes it, which is almost as JSON does."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _shown(value: Any) -> str:
    text = (
        _toml(value) if isinstance(value, str | int | float | list) and not _has_table(value) else "a table or a date"
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def _has_table(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_table(one) for one in value)
    return not isinstance(value, str | int | float)
