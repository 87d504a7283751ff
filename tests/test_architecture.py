"""The house stands: imports follow the allowed arrows, read from the sources, and no two rooms are in a circle.

docs/architecture.md says what each room is for. A room is a stage, or inside `runtime` a folder or a file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOTS = ("cli", "runtime", "train")
STAGES = ("benchmarks", "cli", "evaluation", "export", "runtime", "train")

# From the ground up: a room imports those of its own set.
ALLOWED: dict[str, set[str]] = {
    "runtime": set(),
    "evaluation": {"runtime"},
    "train": {"evaluation", "runtime"},
    "export": {"train", "evaluation", "runtime"},
    "benchmarks/report": {"evaluation", "runtime"},
    "benchmarks/studies": {"benchmarks/report", "export", "train", "evaluation", "runtime"},
    "benchmarks": {"benchmarks/report", "runtime"},
    "cli": {"benchmarks/report", "benchmarks", "export", "train", "evaluation", "runtime"},
}
# Inside runtime, each room may import those of the lines above its own.
FLOORS: tuple[set[str], ...] = (
    {"errors", "progress", "_native"},
    {"arguments"},
    {"files", "environment"},
    {"drawing", "images"},
    {"results"},
    {"bundle", "sources", "tracking"},
    {"cuda"},
    {"backends"},
    {"captions"},
    {"options"},
    {"vision"},
    {"execution"},
    {"stream"},
    {"model"},
    {"runner", "verification", "diagnosis"},
)


def imports() -> Iterator[tuple[str, str]]:
    """Each (file, imported file) of the package, as paths from the root without suffix."""
    files = [path.relative_to(ROOT) for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py"))]
    known = {_module(file) for file in files} | {("runtime", "_native")}
    for file in files:
        package = _module(file) if file.name == "__init__.py" else _module(file)[:-1]
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = _up(package, node.level - 1) + tuple((node.module or "").split(".") if node.module else ())
                base = base if base and base[0] in STAGES else ("cli", *base)
                for name in node.names:
                    target = (*base, name.name) if (*base, name.name) in known else base
                    yield "/".join(_module(file)), "/".join(target)


def _module(file: Path) -> tuple[str, ...]:
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _up(package: tuple[str, ...], levels: int) -> tuple[str, ...]:
    inside = package[1:] if package[0] == "cli" else package  # cli is the root of the package
    return inside[: len(inside) - levels]


def stage_of(file: str) -> str:
    first, _, rest = file.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == "benchmarks" and "/" in rest else first


def room_of(file: str) -> str:
    return file.split("/")[1] if "/" in file else ""


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Names on a circle, if there is one."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next((c for other in sorted(arrows.get(name, ())) if (c := visit(other, [*path, name]))), [])
        done.add(name)
        return found

    return next((found for name in sorted(arrows) if (found := visit(name, []))), [])


def test_a_stage_imports_only_the_stages_below_it() -> None:
    wrong = {
        (file, other)
        for file, other in imports()
        if stage_of(file) != stage_of(other) and stage_of(other) not in ALLOWED[stage_of(file)]
    }
    assert not wrong


def test_a_room_of_the_runtime_imports_only_the_rooms_below_it() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    pairs = {(f, o) for f, o in imports() if f.startswith("runtime/") and o.startswith("runtime")}
    assert {room_of(file) for file, _ in pairs} <= set(floor), "a new room of the runtime needs its floor here"
    wrong = {
        (file, other)
        for file, other in pairs
        if room_of(file) != room_of(other) and floor[room_of(file)] <= floor.get(room_of(other), len(FLOORS))
    }
    assert not wrong


@pytest.mark.parametrize("level", ["files", "folders"])
def test_there_is_no_circle(level: str) -> None:
    arrows: dict[str, set[str]] = {}
    for file, other in imports():
        pair = (file, other) if level == "files" else (file.rpartition("/")[0], other.rpartition("/")[0])
        if level == "folders":  # files at these roots are rooms of their own
            pair = (file if pair[0] in ROOTS else pair[0], other if pair[1] in ROOTS else pair[1])
        if pair[0] != pair[1]:
            arrows.setdefault(pair[0], set()).add(pair[1])
    assert circle(arrows) == []


def test_torch_and_other_heavy_packages_stay_where_they_are_needed() -> None:
    heavy = {"torch", "onnx", "onnxscript", "safetensors", "pycocotools", "matplotlib"}
    for stage in ("runtime", "cli"):
        for path in (ROOT / stage).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not heavy & {name.partition(".")[0] for name in names}, path


def house() -> dict[str, set[str]]:
    """The arrows between rooms: a stage, or inside `runtime` a folder or a file."""

    def room(file: str) -> str:
        return "/".join(file.split("/")[:2]) if file.startswith("runtime/") else file.split("/")[0]

    arrows: dict[str, set[str]] = {}
    for file, other in imports():
        arrows.setdefault(room(file), set()).update({room(other)} - {room(file)})
        arrows.setdefault(room(other), set())
    return arrows


if __name__ == "__main__":  # python tests/test_architecture.py counts what there is
    rooms = house()

    def height(name: str) -> int:
        return 1 + max((height(other) for other in rooms[name]), default=0)

    print(f"{len(rooms)} rooms, {max(map(height, rooms))} floors, {sum(map(len, rooms.values()))} arrows")
