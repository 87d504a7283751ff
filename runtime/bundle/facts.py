"""Everything that a bundle tells about itself, for people and as JSON; nothing of it is loaded or run."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineMismatchError
from .bundle import Bundle
from .engines import ENGINES_FOLDER, EngineRecord

_WIDTH, _INDENT = 100, 14


@dataclass(frozen=True)
class EngineFacts:
    """An engine of the cache: its file, what its record says, or why that cannot be read."""

    file: str
    record: EngineRecord | None
    complaint: str = ""

    def line(self) -> str:
        if self.record is None:
            return f"{self.file}: {self.complaint}"
        size = self.record.engine_bytes / 1e6
        return f"{self.file}: {', '.join(self.record.targets)}, {size:.1f} MB, {_short(self.record.engine_sha256)}"

    def to_json(self) -> dict[str, Any]:
        record = None if self.record is None else self.record.to_json()
        return {"file": self.file, "record": record, "complaint": self.complaint}


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle holds.

    Attributes:
        bundle: Opened, so every digest is that of its file.
        engines: Those of its cache.
    """

    bundle: Bundle
    engines: tuple[EngineFacts, ...]

    def table(self) -> str:
        """For people: digests shortened, vocabulary counted."""
        return "\n".join(self._lines())

    def to_json(self) -> dict[str, Any]:
        """All of it, the vocabulary and the table of every layer of int8 too."""
        bundle = self.bundle
        return {
            "path": str(bundle.path),
            "digest": bundle.digest,
            "licence": bundle.licence,
            "model": bundle.spec.to_json(),
            "graphs": {part: dict(files) for part, files in bundle.graphs.items()},
            "caption_weights": dict(bundle.caption_weights),
            "precisions": list(bundle.precisions),
            "accuracy": dict(bundle.accuracy),
            "parity": dict(bundle.parity),
            "provenance": dict(bundle.provenance),
            "engines": [engine.to_json() for engine in self.engines],
            "files": dict(bundle.files),
        }

    def _lines(self) -> Iterator[str]:
        bundle, spec = self.bundle, self.bundle.spec
        rule, limits, graph = spec.preprocess, spec.thresholds, spec.graph
        yield f"{bundle.path}: {spec.name}, {_short(bundle.digest)}"
        yield from _entry("licence", [bundle.licence or "unknown"])
        yield from _entry("tasks", spec.tasks)
        yield from _entry(
            "input",
            [
                f"{rule.input_size[0]}x{rule.input_size[1]} {rule.channel_order}",
                f"pixels times {rule.scale:.6g}",
                f"padded with {rule.pad_value}",
                f"lengths rounded {rule.rounding.replace('_', ' ')}",
            ],
        )
        if "boxes" in spec.tasks:
            levels = f"at strides {', '.join(map(str, spec.strides))}" if spec.box_count is None else ""
            yield from _entry(
                "boxes", [f"{spec.cells} {levels}".strip(), f"coded {spec.box_coding}", spec.score_coding]
            )
            given = f"score {limits.score:g}", f"IoU {limits.iou:g}", f"at most {limits.max_detections} boxes"
            yield from _entry("thresholds", given)
        built_in = [f"batch {graph.batch}" if graph.batch else "any batch"]
        built_in += [f"the {graph.top_k} best cells"] if graph.top_k else []
        built_in += ["finished semantic map"] if graph.semantic_map else []
        yield from _entry("graph", built_in)
        for title, names in (("classes", spec.class_names), ("semantic", spec.semantic_names)):
            if names:
                yield from _entry(title, [f"{len(names)}: {names[0]}", *names[1:]])
        if spec.caption is not None:
            words = len(spec.caption.vocabulary)
            yield from _entry("captions", [f"{words} words", f"at most {spec.caption.max_length} in a caption"])
        for kind in bundle.graphs["vision"]:
            yield from _entry(kind, self._precision(kind), "; ")
        for engine in self.engines:
            yield from _entry("engine", [engine.line()])
        for title, value in bundle.provenance.items():
            yield from _entry(title.removesuffix("_sha256").replace("_", " "), [_plain(value)])
        for name, digest in bundle.files.items():
            yield from _entry("file", [f"{name} {(bundle.path / name).stat().st_size / 1e6:.2f} MB {_short(digest)}"])

    def _precision(self, kind: str) -> list[str]:
        """Files, scores and comparisons of a precision."""
        bundle = self.bundle
        names = [files[kind] for files in bundle.graphs.values() if kind in files]
        size = sum((bundle.path / name).stat().st_size for name in names) / 1e6
        found = [f"{', '.join(names)} {size:.1f} MB"]
        scored = bundle.accuracy.get(kind, {})
        reference, scores = scored.get("reference", {}), scored.get("scores", {})
        if scores:
            lost = [f"{name} {reference.get(name, 0):.4f} -> {value:.4f}" for name, value in scores.items()]
            places = [
                f"{one['backend']} {one['version']} ({one['cpu']}{', ' if 'how' in one else ''}{one.get('how', '')})"
                for one in scored.get("scored_on", ())
            ]
            where = f" in {' and '.join(places)}" if places else ""
            found.append(f"scored{where}, fp32 -> {kind.partition('-')[0]}: {', '.join(lost)}")
        elif kind != "fp32":
            found.append("not scored")
        if "int8_flops_share" in scored:
            found.append(f"{scored.get('int8_flops_share', 0):.1%} of the FLOPs in int8")
        checks = bundle.parity.get("onnx_fp32" if kind == "fp32" else kind, [])
        if checks:
            passed = sum(bool(check.get("passed")) for check in checks)
            found.append(f"{passed} of {len(checks)} comparisons passed")
        return found


def inspect_bundle(bundle: Bundle | str | os.PathLike[str]) -> BundleFacts:
    """What a bundle knows: tasks, classes, words, thresholds, input, precisions with scores, engines, digests, licence.

    Args:
        bundle: A bundle or its folder.

    Raises:
        BundleError: If it is no bundle, or a file is missing or altered.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    engines = []
    for file in sorted((opened.path / ENGINES_FOLDER).glob("[!.]*.engine")):
        try:
            engines.append(EngineFacts(file.name, EngineRecord.read(file.with_suffix(".json"))))
        except EngineMismatchError as error:
            engines.append(EngineFacts(file.name, None, str(error)))
    return BundleFacts(opened, tuple(engines))


def _entry(title: str, values: Sequence[str], between: str = ", ") -> Iterator[str]:
    """A line with its title, wrapped under itself."""
    text = between.join(values)
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{title:<{_INDENT - 1}} ",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(value: Any) -> str:
    """A JSON value in words: "epochs 16, data (name scenes)"; scores without those of single classes."""
    if isinstance(value, Mapping):
        parts = (
            f"{name} ({_plain(v)})" if isinstance(v, Mapping) else f"{name} {_plain(v)}"
            for name, v in value.items()
            if v not in (None, [], {}, "") and not name.endswith("_by_class") and name != "intervals"
        )
        return ", ".join(parts)
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    text = str(value)
    is_digest = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return _short(text) if is_digest else text


def _short(digest: str) -> str:
    return f"sha256 {digest[:12]}"
