"""Finding the images that annotations name, however the tool that wrote them spells names and folders."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from .complaints import Complaints, Notes

_ENTRY_LIMIT = 2_000_000  # files below one folder that are looked at to find a name


def posix_name(name: str) -> str:
    """A file name of an annotation file with "/" between its parts and none in front, where it is relative."""
    cleaned = name.replace("\\", "/")
    return str(PurePosixPath(cleaned)) if cleaned else cleaned


def names_in(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def find_images(
    folders: Sequence[Path], exact: Sequence[Path], names: Sequence[str], complaints: Complaints, notes: Notes
) -> tuple[Path, list[str]]:
    """Where the named images lie.

    A name is looked for as it is, then with "\\" as "/", then by its last parts alone, in another Unicode form or case,
    anywhere below `folders`: tools write folders of the machine that they ran on.

    Args:
        folders: That may hold the images, the likeliest first.
        exact: Further folders that only a whole name is looked for in.
        names: As the annotations have them.
        complaints: Gets the names that are not found, or found several times.
        notes: Gets how many were found under another name.

    Returns:
        A folder, and each image's path relative to it (absolute for one that lies elsewhere).
    """
    there = [folder for folder in (*folders, *exact) if folder.is_dir()]
    main, found = there[0] if there else folders[0], [""] * len(names)
    listed = {folder: names_in(folder) for folder in there}
    missing: list[int] = []
    for i, name in enumerate(names):
        direct = next((folder for folder in there if name in listed[folder]), None)
        if direct is None:
            cleaned = posix_name(name)
            direct = next((folder for folder in there if "/" in cleaned and _is_file(folder, cleaned)), None)
            name = cleaned
        if direct is None:
            missing.append(i)
        else:
            found[i] = name if direct == main else str(direct / name)
    if missing and not any(folder in folders for folder in there):
        others = f" (nor {', '.join(map(str, folders[1:]))})" if len(folders) > 1 else ""
        complaints.add(folders[0], f"no such folder{others}, expected the images of the split")
        return main, found
    indices = {folder: _index_below(folder) for folder in there if missing and folder in folders}
    for i in missing:
        place, problem = _nearest(indices, posix_name(names[i]))
        if place is None:
            complaints.add(main, problem, names[i])
            continue
        notes.add("found under another name", f"{names[i]} as {place}")
        found[i] = str(place.relative_to(main)) if place.is_relative_to(main) else str(place)
    return main, found


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _parts(path: PurePosixPath) -> list[str]:
    """The parts of a path from its end on, in a form that does not tell Unicode forms and case apart."""
    return [unicodedata.normalize("NFC", part).casefold() for part in reversed(path.parts) if part != "/"]


def _index_below(folder: Path) -> dict[str, list[Path]]:
    """All files below a folder by their last part."""
    index: dict[str, list[Path]] = {}
    for path in _walk(folder):
        index.setdefault(_parts(PurePosixPath(path.name))[0], []).append(path)
    return index


def _walk(folder: Path) -> Iterator[Path]:
    seen, count = set(), 0
    for place, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            below.clear()
            continue
        seen.add(real)
        for name in files:
            count += 1
            if count > _ENTRY_LIMIT:
                return
            yield Path(place, name)


def _nearest(indices: dict[Path, dict[str, list[Path]]], name: str) -> tuple[Path | None, str]:
    """The one file that agrees with the most parts of a name from its end on; or None and what is the matter."""
    wanted = PurePosixPath(name)
    keys = _parts(wanted)
    for folder, index in indices.items():
        candidates = index.get(keys[0], []) if keys else []
        if not candidates:
            continue

        def agreement(path: Path, folder: Path = folder) -> tuple[int, int]:
            own = _parts(PurePosixPath(path.relative_to(folder).as_posix()))
            same = next(
                (n for n, (a, b) in enumerate(zip(own, keys, strict=False)) if a != b), min(len(own), len(keys))
            )
            return same, int(path.name == wanted.name)

        ranked = sorted(candidates, key=agreement)
        if len(ranked) == 1 or agreement(ranked[-1]) > agreement(ranked[-2]):
            return ranked[-1], ""
        return None, "several images have the name that the annotations list"
    return None, "images are missing that the annotations list"
