"""COCO's own words: against Stanford's tokenizer where Java and pycocoevalcap are installed, and by hand."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from yolor_edge.evaluation.caption_tokens import plain_words, ptb_words

TEXTS = [
    "A man's well-worn hat.",
    "It's a dog, isn't it? Don't! He can't and won't.",
    "cannot gonna gotta wanna lemme gimme 'tis 'twas",
    "two/three and/or w/ b/w",
    "$5 and 50% & co. #1 @home £5 €10 5¢",
    "He said \"hello there\" and 'bye'.",
    "text (in brackets) [square] {curly}",
    "a.m. p.m. Mr. Smith St. John etc. e.g. i.e. vs. No. 5",
    "10:30 3:15pm 3.5 1,000 1/2 2-3 1990s '90s 3rd 5'6\" 12x14 2 -3",
    "wait... what -- yes - no \u2014 dash \u2013 en\u2026 ellipsis",
    "the dogs' bowls  and the men's room;semi:colon hello,world end.Begin",
    "café \u201ccurly quotes\u201d \u2018single\u2019 it\u2019s",
    "I'm you're we've he'd she'll ain't y'all o'clock rock'n'roll ma'am d'oh",
    "stop!!! what?? yes!? ;) :)",
    "A man ,woman &child on Main St.",
    "see http://www.flickr.com/photo.jpg or me@mail.com",
]
DROPPED = ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]


def test_agrees_with_the_program_that_coco_runs(tmp_path: Path) -> None:
    found = importlib.util.find_spec("pycocoevalcap.tokenizer")
    if found is None or not found.submodule_search_locations or shutil.which("java") is None:
        pytest.skip("needs pycocoevalcap and Java")
    (jar,) = Path(found.submodule_search_locations[0]).glob("stanford-corenlp*.jar")
    (tmp_path / "texts").write_text("\n".join(TEXTS), encoding="utf-8")
    program = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-encoding", "utf-8"]
    done = subprocess.run(
        [*program, "-preserveLines", "-lowerCase", str(tmp_path / "texts")],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    theirs = [[word for word in line.split() if word not in DROPPED] for line in done.stdout.splitlines()]
    assert [ptb_words(text) for text in TEXTS] == theirs


def test_words_by_hand() -> None:
    assert ptb_words("A man's well-worn hat isn't $5.") == ["a", "man", "'s", "well-worn", "hat", "is", "n't", "$", "5"]
    assert ptb_words("Two dogs (brown), running - fast!") == [
        "two",
        "dogs",
        "-lrb-",
        "brown",
        "-rrb-",
        "running",
        "fast",
    ]
    assert ptb_words(" . ,") == ptb_words("") == []


def test_captions_of_letters_alone_have_the_same_words_in_both(coco_tiny: Path) -> None:
    for file in (coco_tiny / "annotations").glob("captions_*.json"):
        for entry in json.loads(file.read_text())["annotations"]:
            text = entry["caption"]
            if text.replace(" ", "").rstrip(".\n").isalnum():
                assert [word.rstrip(".") for word in ptb_words(text)] == plain_words(text)  # "blvd." is one
