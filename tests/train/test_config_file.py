"""A training in a TOML file: written with every default, read back as it was, refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.config import TrainConfig, meanings
from yolor_edge.train.config_file import OPTIONS, config_text, read_config_file


def test_every_setting_is_written_with_its_meaning_and_read_back(tmp_path: Path) -> None:
    config = TrainConfig(epochs=7, learning_rate=3e-5, augment="none", clip_norm=1e20)
    options = {
        "data": 'odd "näme"\\\t',
        "input_size": (64, 96),
        "tasks": ("boxes", "masks"),
        "threads": 2,
        "freeze": (),
    }
    text = config_text(config, options, "a head\nof two lines")
    assert text.startswith("# a head\n# of two lines\n")
    lines = text.splitlines()
    joined = " ".join(line.removeprefix("# ") for line in lines)
    for name, meaning in meanings().items():
        assert any(line.startswith(f"{name} = ") for line in lines)
        assert meaning in joined
    for name, option in OPTIONS.items():
        assert any(line.removeprefix("# ").startswith(f"{name} =") for line in lines)
        assert option.meaning in joined
    assert max(map(len, lines)) <= 120
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    found, read = read_config_file(tmp_path / "config.toml")
    assert read == config
    del options["freeze"]
    assert found == options


def test_what_a_file_does_not_name_is_as_by_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('mosaic = 1\nfrom = "runs/a"\n', encoding="utf-8")
    options, config = read_config_file(path)
    assert options == {"start": "runs/a"}
    assert config == dataclasses.replace(TrainConfig(), mosaic=1.0)
    assert isinstance(config.mosaic, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 3", "there is no setting 'lr', perhaps learning_rate; docs/settings.md lists all of them"),
        ("splitt = 'a'", "there is no setting 'splitt', perhaps split"),
        ('epochs = "many"', 'epochs: expected a whole number, got "many"'),
        ("epochs = true", "epochs: expected a whole number, got true"),
        ("epochs = 1.5", "epochs: expected a whole number, got 1.5"),
        ("mosaic = [1]", "mosaic: expected a number, got [1]"),
        ("amp = 3", "amp: expected text, got 3"),
        ("amp = 2026-01-01", "amp: expected text, got a table or a date"),
        ("amp = 'half'", "amp must be one of auto, off, got 'half'"),
        ("mosaic = 1.5", "mosaic must lie within 0 and 1, got 1.5"),
        ("tasks = 'boxes'", 'tasks: expected a list of texts, got "boxes"'),
        ("input_size = 640", "input_size: expected [height, width], got 640"),
        ("[train]\nepochs = 3", "holds a table [train]; expected lines NAME = VALUE"),
        ("epochs 3", "is not TOML ("),
        (b"\xff", "is not TOML ("),
        (None, "no such file"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read_config_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
