"""`index.html` of a run: curves, scores, what was taught and what is answered, in one page that needs no network.

Everything on it is made of the log and of what lies in the folder, so it is written anew after every epoch, and nothing
is left of what a kill took back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...runtime.bundle.json_files import MOST_BYTES
from ...runtime.files import write_atomically
from ..best import FORMULA, MAIN_SCORES, best_epoch
from ..network.any_network import AnyConfig
from ..progress import duration
from .charts import bars, heat_map, line_chart
from .detections import CONFUSION_SCORE, IOU
from .event_files import EventFiles
from .pictures import legend
from .results_csv import csv_text

PAGE, RESULTS, MATCHES = "index.html", "results.csv", "detections.json"
BATCHES, SAMPLES, EVENTS = "batches", "samples", "tensorboard"
_BY_CLASS = {"box_ap_by_class": "box AP", "mask_ap_by_class": "mask AP", "iou_by_class": "IoU of the map"}
_SECONDS_BETWEEN_LOOKS = 60


class RunPage:
    """The page of a run, and the files beside it that are made of the log.

    Args:
        out: Folder of the run.
        network: What is trained.
        about: Facts in words by what they are, for the head of the page.
        epochs: Of the whole run.
        epochs_done: Of it, as after a resume.
    """

    def __init__(
        self, out: Path, network: AnyConfig, about: Mapping[str, str], epochs: int, epochs_done: int = 0
    ) -> None:
        self._out, self._network, self._about, self._epochs = out, network, dict(about), epochs
        self._events = EventFiles(out / EVENTS, epochs_done)
        self._told = epochs_done

    def write(self, log: Sequence[Mapping[str, Any]], ended: str = "") -> None:
        """Write page, `results.csv` and TensorBoard's files.

        Args:
            log: All entries so far.
            ended: How the run ended, for people; empty while it goes on.
        """
        for entry in log:
            if entry["epoch"] > self._told:
                self._events.add(entry)
                self._told = entry["epoch"]
        write_atomically(self._out / RESULTS, csv_text(log))
        write_atomically(self._out / PAGE, self._html(log, ended))

    def close(self) -> None:
        """Let go of TensorBoard's files."""
        self._events.close()

    def _html(self, log: Sequence[Mapping[str, Any]], ended: str) -> str:
        name = escape(self._network.name)
        refresh = "" if ended else f'<meta http-equiv="refresh" content="{_SECONDS_BETWEEN_LOOKS}">'
        sections = [
            ("Losses", _losses(log)),
            ("Scores", _scores(log)),
            ("Learning rate and time", _rates(log)),
            ("Where boxes go wrong", self._boxes()),
            ("Scores by class", _by_class(log)),
            ("Predictions beside the truth", self._samples()),
            ("What the network was taught first", self._batches()),
            ("Files", self._files()),
        ]
        shown = "".join(f"<section><h2>{title}</h2>{text}</section>\n" for title, text in sections if text)
        facts = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in self._about.items())
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: training</title>{refresh}\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{_STYLE}</style></head><body>\n<header><h1>{name}</h1><p>{escape(self._state(log, ended))}</p>"
            f'<dl class="facts">{facts}</dl></header>\n<main>\n{shown}</main></body></html>\n'
        )

    def _state(self, log: Sequence[Mapping[str, Any]], ended: str) -> str:
        done = log[-1]["epoch"] if log else 0
        took = sum(entry["seconds"] for entry in log)
        if ended:
            return f"{ended} {duration(took)} of training."
        left = (self._epochs - done) * took / done if done else 0.0
        return f"Epoch {done} of {self._epochs} is done" + (
            f", about {duration(left)} of training left." if done else "."
        )

    def _boxes(self) -> str:
        path = self._out / MATCHES
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return ""
        found = json.loads(path.read_text(encoding="utf-8"))
        precision = {
            name: [(i / 100, value) for i, value in enumerate(curve)] for name, curve in found["precision"].items()
        }
        chart = line_chart(precision, 0.0, 1.0, "recall", is_percent_x=True)
        return (
            f"<p>After epoch {found['epoch']}, at an overlap (IoU) of {IOU} with the truth.</p>"
            f'<div class="grid"><figure>{chart}<figcaption>Precision by recall</figcaption></figure></div>'
            f"<h3>Confusion</h3><p>A row is a class of the truth, a column what it was taken for, at a score of "
            f"{CONFUSION_SCORE} or more. The last column are objects that were missed, the last row boxes without an "
            "object.</p>"
            f"{heat_map(found['names'], found['confusion'])}"
        )

    def _samples(self) -> str:
        folder = self._out / SAMPLES
        found = sorted(folder.glob("epoch-*-*.jpg")) if folder.is_dir() else []
        by_epoch: dict[int, dict[int, str]] = {}
        for path in found:
            match = re.fullmatch(r"epoch-(\d+)-(\d+)\.jpg", path.name)
            if match:
                by_epoch.setdefault(int(match[1]), {})[int(match[2])] = path.name
        if not by_epoch:
            return ""

        def rows(epoch: int) -> str:
            return "".join(
                '<div class="pair">'
                + _picture(f"{SAMPLES}/truth-{number}.jpg", "truth")
                + _picture(f"{SAMPLES}/{name}", f"epoch {epoch}")
                + "</div>"
                for number, name in sorted(by_epoch[epoch].items())
            )

        last, *earlier = sorted(by_epoch, reverse=True)
        more = "".join(f"<details><summary>after epoch {epoch}</summary>{rows(epoch)}</details>" for epoch in earlier)
        return _legend(self._network) + rows(last) + more

    def _batches(self) -> str:
        folder = self._out / BATCHES
        names = sorted(path.name for path in folder.glob("*.jpg")) if folder.is_dir() else []
        if not names:
            return ""
        said = {
            "strong": "strong views: boxes, masks and map as the losses see them",
            "weak": "weak views: the captions in the words of the vocabulary",
        }
        shown = "".join(
            _picture(f"{BATCHES}/{name}", f"batch {name.partition('-')[2][:-4]}, {said[name.partition('-')[0]]}")
            for name in names
            if name.partition("-")[0] in said
        )
        return (
            "<p>Every label still has to cover what it names. The map is black where it is unknown; dark stripes are "
            f"where objects may be that nobody labelled.</p>{shown}"
        )

    def _files(self) -> str:
        meaning = {
            "best": "the checkpoint with the best score, which other commands take when they are given this folder",
            "checkpoint": "the checkpoint of the last epoch",
            "config.toml": "every setting, to train alike: yolor-edge train --config",
            RESULTS: "one row an epoch",
            "log.jsonl": "the same with the scores by class",
            MATCHES: "the curves and the confusion above as numbers",
            EVENTS: "for TensorBoard: tensorboard --logdir",
            "nan": "what led to a loss that was no number",
        }
        items = "".join(
            f'<li><a href="{name}{"/" if (self._out / name).is_dir() else ""}">{name}</a> {text}</li>'
            for name, text in meaning.items()
            if (self._out / name).exists() or name == RESULTS
        )
        return f"<ul>{items}</ul>"


def _losses(log: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for entry in log for name in entry["losses"]))
    curves = {name: [(e["epoch"], e["losses"][name]) for e in log if name in e["losses"]] for name in names}
    if len(names) > 1:
        curves = {"sum": [(entry["epoch"], sum(entry["losses"].values())) for entry in log], **curves}
    return _grid({name: line_chart({name: curve}) for name, curve in curves.items()})


def _scores(log: Sequence[Mapping[str, Any]]) -> str:
    best = best_epoch(log)
    if best is None:
        return "<p>No epoch was scored: the data has no validation split, or its turn has not come.</p>"
    scored = [entry for entry in log if entry.get("score") is not None]
    curves = {
        label: [
            (entry["epoch"], entry["validation"]["scores"][name])
            for entry in scored
            if entry["validation"]["scores"].get(name) is not None
        ]
        for name, label in MAIN_SCORES.items()
    }
    curves = {"score": [(e["epoch"], e["score"]) for e in scored], **{n: c for n, c in curves.items() if c}}
    chart = line_chart(curves, 0.0, mark=(best, f"best: epoch {best}"))
    at_best, last = next(entry for entry in scored if entry["epoch"] == best), scored[-1]
    ends = [at_best, last] if best != last["epoch"] else [last]
    rows = {
        label: [_score(entry, name) for entry in ends]
        for name, label in {"": "score", **MAIN_SCORES}.items()
        if _score(last, name) is not None
    }
    trouble = "".join(
        f'<p class="bad">Epoch {entry["epoch"]} was not scored: {escape(entry["validation_error"])}</p>'
        for entry in log
        if "validation_error" in entry
    )
    columns = [f"best: {best}", f"last: {last['epoch']}"][-len(ends) :]
    return (
        f"<p>The best epoch so far is <b>{best}</b>, by its score: {FORMULA}.</p>{trouble}"
        f'<div class="grid"><figure>{chart}<figcaption>Scores, the best epoch marked</figcaption></figure>'
        f"<div>{bars(rows, columns)}</div></div>"
    )


def _score(entry: Mapping[str, Any], name: str) -> float | None:
    return entry["validation"]["scores"].get(name) if name else entry["score"]


def _rates(log: Sequence[Mapping[str, Any]]) -> str:
    return _grid(
        {
            "learning rate": line_chart({"learning rate": [(e["epoch"], e["learning_rate"]) for e in log]}, 0.0),
            "seconds an epoch": line_chart({"seconds": [(e["epoch"], e["seconds"]) for e in log]}, 0.0),
        }
    )


def _by_class(log: Sequence[Mapping[str, Any]]) -> str:
    scored = [entry for entry in log if entry.get("score") is not None]
    if not scored:
        return ""
    scores = scored[-1]["validation"]["scores"]
    found = {label: scores.get(name) or {} for name, label in _BY_CLASS.items()}
    parts = []
    for labels in (("box AP", "mask AP"), ("IoU of the map",)):
        columns = [label for label in labels if found[label]]
        names = dict.fromkeys(name for label in columns for name in found[label])
        if names:
            values = {name: [found[label].get(name) for label in columns] for name in names}
            ordered = sorted(values.items(), key=lambda item: -(item[1][0] or 0.0))
            parts.append(f'<div class="wide">{bars(dict(ordered), columns)}</div>')
    return f"<p>After epoch {scored[-1]['epoch']}.</p>{''.join(parts)}" if parts else ""


def _grid(charts: Mapping[str, str]) -> str:
    figures = "".join(f"<figure>{svg}<figcaption>{escape(name)}</figcaption></figure>" for name, svg in charts.items())
    return f'<div class="grid">{figures}</div>'


def _picture(name: str, caption: str) -> str:
    return (
        f'<figure><a href="{escape(name)}"><img src="{escape(name)}" alt="{escape(caption)}" loading="lazy"></a>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _legend(network: AnyConfig) -> str:
    names = legend(network)
    if not names or len(names) > 60:
        return ""
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in names)
    return f'<ul class="key">{items}</ul>'


_STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--faint:#5c6570;--paper:#fff;--card:#f4f6f8;--line:#d8dde3;
--right:34,139,84;--wrong:205,80,30;--c0:#0063a8;--c1:#c9480a;--c2:#00805c;--c3:#a8438c;--c4:#5a7fd6;--c5:#9a6b00;--c6:#8a2be2;--c7:#57606a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--faint:#9aa4af;--paper:#14171a;--card:#1e2227;--line:#353c44;
--right:70,180,120;--wrong:235,120,60;--c0:#58b0ff;--c1:#ff8a4c;--c2:#3ecf9e;--c3:#e68ac9;--c4:#9db8ff;--c5:#e0b040;
--c6:#c79bff;--c7:#aab4bf}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;font:1rem/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper)}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:0 0 .5rem}h3{font-size:1rem;margin:1rem 0 .25rem}
p{margin:.25rem 0 .75rem}a{color:var(--c0)}.bad{color:var(--c1)}.none{color:var(--faint)}
section{margin:2rem 0 0;border-top:1px solid var(--line);padding-top:1rem}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0;font-size:.9rem}
.facts dt{color:var(--faint)}.facts dd{margin:0;overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1rem}
.grid>div{min-width:0;overflow-x:auto}
figure{margin:0;background:var(--card);border-radius:.5rem;padding:.5rem}
figcaption{font-size:.85rem;color:var(--faint);padding:.25rem .25rem 0}
svg{display:block;width:100%;height:auto}svg text{fill:var(--faint);font:10px system-ui,sans-serif}
.grid svg .grid,svg path.grid{stroke:var(--line);stroke-width:1;fill:none}
svg polyline{fill:none;stroke-linejoin:round}svg .mark{stroke:var(--faint);stroke-dasharray:3 3}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem .9rem;margin:.25rem 0 .5rem;padding:0;font-size:.85rem}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:.2em;margin-right:.35em}
img{display:block;width:100%;height:auto;border-radius:.25rem}main>section>figure{margin-bottom:1rem}
main>section>figure img{width:auto;max-width:100%}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:.5rem;margin-bottom:1rem}
summary{cursor:pointer;padding:.25rem 0}
.wide{overflow-x:auto;margin-bottom:1rem}table{border-collapse:collapse;font-size:.85rem}
th{font-weight:500;text-align:left;padding:.15rem .5rem;white-space:nowrap}thead th{color:var(--faint)}
.heat td{min-width:2.2rem;text-align:center;padding:.2rem;border:1px solid var(--line);
font-variant-numeric:tabular-nums}
.heat thead th{padding:.25rem 0;vertical-align:bottom;text-align:center}
.heat thead span{writing-mode:vertical-rl;transform:rotate(180deg);display:inline-block}
.heat .right{background:color-mix(in srgb,rgb(var(--right)) var(--share),transparent)}
.heat .wrong{background:color-mix(in srgb,rgb(var(--wrong)) var(--share),transparent)}
.bars{width:100%;max-width:40rem}.bars td{width:40%;padding:.1rem .5rem .1rem 0}
.bar{display:block;padding:0 .4rem;border-radius:.2rem;font-variant-numeric:tabular-nums;
background:linear-gradient(90deg,color-mix(in srgb,var(--c0) 35%,transparent) var(--share),var(--card) var(--share))}
ul{padding-left:1.2rem}
"""
