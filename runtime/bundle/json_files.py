"""JSON files: read or refused in one line, taken apart with all complaints gathered, written for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import YolorEdgeError

MOST_BYTES = 256 << 20
"""Nothing that is read whole as JSON is larger."""


def read_json(path: Path, what: str, error: type[YolorEdgeError], cure: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: Of the file.
        what: It should be, such as "the record of an engine".
        error: What is raised if it holds none.
        cure: What the message tells to do then.

    Raises:
        error: If there is no such file, it cannot be read, is too large or too deep, is not JSON by the standard (which
            has no NaN), or holds no object.
    """

    def refuse(reason: str) -> NoReturn:
        raise error(f"{path}: is not {what} ({reason}); {cure}") from None

    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file; {cure}") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem}); {cure}") from None
    if len(content) > MOST_BYTES:
        refuse(f"larger than {MOST_BYTES >> 20} MiB")
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        refuse("nested too deeply")
    except ValueError as problem:  # UnicodeDecodeError too, and whole numbers of thousands of digits
        refuse(f"not JSON: {problem}")
    if not isinstance(data, dict):
        refuse(f"expected a JSON object, got {_kind(data)}")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def readable_json(value: Any, width: int = 110) -> str:
    """JSON with an object's keys on lines of their own and lists of plain values packed into lines."""
    return _lines(value, "", width)


def _lines(value: Any, indent: str, width: int) -> str:
    inner = indent + "  "
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    is_nested = isinstance(value, dict | list) and any(isinstance(x, dict) for x in _members(value))
    if not isinstance(value, dict | list) or not value or (len(flat) + len(inner) <= width and not is_nested):
        return flat
    if isinstance(value, dict):
        items = [f"{json.dumps(str(key), ensure_ascii=False)}: {_lines(x, inner, width)}" for key, x in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if any(isinstance(x, dict) for x in value):
        return "[\n" + ",\n".join(inner + _lines(x, inner, width) for x in value) + f"\n{indent}]"
    rows = [""]
    for x in value:
        item = json.dumps(x, ensure_ascii=False, allow_nan=False) + ", "
        if rows[-1] and len(inner) + len(rows[-1]) + len(item) > width:
            rows.append("")
        rows[-1] += item
    return "[\n" + "\n".join(inner + row.rstrip() for row in rows).removesuffix(",") + f"\n{indent}]"


def _members(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


class JsonReader:
    """Takes typed values out of parsed JSON and gathers what is missing or wrong, all of it.

    Args:
        data: Parsed JSON, expected to be an object.
        where: What to call it in complaints.
        is_missing: The object itself has been complained about already, so its keys are not.
    """

    def __init__(self, data: Any, where: str, is_missing: bool = False):
        self.where = where
        self.complaints: list[str] = []
        self.data: Mapping[str, Any] = data if isinstance(data, dict) else {}
        self._is_missing = is_missing or not isinstance(data, dict)
        if not isinstance(data, dict) and not is_missing:
            self.complaints.append(f"{where} must be a JSON object, got {_kind(data)}")

    def present(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self.data.get(key) is not None

    def get(self, key: str, kind: type, default: Any) -> Any:
        """The value of `key` if of type `kind`, else `default`. A whole number passes for a float."""
        if key not in self.data:
            if not self._is_missing:
                self.complaints.append(f'{self.where}: key "{key}" is missing')
            return default
        value = self.data[key]
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            self.complaints.append(f'{self.where}: "{key}" must be {_NAMES[kind]}, got {_kind(value)}')
            return default
        try:
            return kind(value)
        except OverflowError:  # a whole number of hundreds of digits
            self.complaints.append(f'{self.where}: "{key}" is too large a number')
            return default

    def section(self, key: str) -> JsonReader:
        """A reader for the object under `key`."""
        value = self.get(key, dict, None)
        return JsonReader(value, f"{self.where}.{key}", is_missing=value is None)

    def strings(self, key: str) -> tuple[str, ...]:
        """The list of strings under `key`."""
        return self.tuple_of(self.get(key, list, []), str, key)

    def integers(self, key: str, count: int | None = None) -> tuple[int, ...]:
        """The list of whole numbers under `key`, of length `count` if given."""
        values = self.tuple_of(self.get(key, list, [0] * (count or 0)), int, key)
        if count is not None and len(values) != count:
            self.complaints.append(f'{self.where}: "{key}" must hold {count} numbers, got {len(values)}')
            return (0,) * count
        return values

    def tuple_of(self, values: Sequence[Any], kind: Callable[[Any], Any], key: str) -> tuple[Any, ...]:
        """`values` as a tuple if all are of `kind`; an empty tuple after a complaint."""
        if not isinstance(values, list | tuple) or any(type(value) is not kind for value in values):
            self.complaints.append(f'{self.where}: "{key}" must be a list of {_PLURALS[kind]}')
            return ()
        return tuple(values)


_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_PLURALS = {str: "strings", int: "whole numbers"}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return _NAMES.get(type(value), type(value).__name__)
