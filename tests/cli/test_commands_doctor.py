"""The command `yolor-edge doctor`: its lines, its JSON, and a runtime that does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.main import main
from yolor_edge.runtime.backends.fastest import recorded_speeds
from yolor_edge.runtime.diagnosis import examination as doctor
from yolor_edge.runtime.diagnosis.checks import Check
from yolor_edge.runtime.diagnosis.examination import Diagnosis
from yolor_edge.runtime.images.image_files import write_image

from ..runtime.tiny_bundle import write_tiny_bundle

FOUND = Diagnosis((Check("software", "thing", "problem", "is broken", "mend it"),), ("yolor-edge verify b",))


def test_lines_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(doctor, "doctor", lambda bundle: asked.append(bundle) or FOUND)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == (
        "software\n  problem  thing is broken; mend it\nwhat to type next\n  yolor-edge verify b\n"
    )
    assert main(["doctor", "b", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "passed": False,
        "checks": [{"group": "software", "name": "thing", "state": "problem", "found": "is broken", "cure": "mend it"}],
        "next": ["yolor-edge verify b"],
    }
    assert asked == [None, "b"]


@pytest.mark.parametrize(
    ("module", "name", "found", "cure"),
    [
        ("numpy", "numpy", "is not installed; ", "pip install numpy"),
        (
            *("yolor_edge.runtime._native", "extension", "does not load: "),
            "in a clone, pip install --force-reinstall --no-deps .",
        ),
    ],
)
def test_a_runtime_that_does_not_load_is_told_all_the_same(module: str, name: str, found: str, cure: str) -> None:
    code = f"import sys\nsys.modules[{module!r}] = None\nfrom yolor_edge.main import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"problem  {name}  {found}" in done.stdout
    assert done.stdout.rstrip().endswith(cure)
    done = subprocess.run([sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["checks"][0]["name"] == name


def test_choose_measures_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    assert main(["doctor", "--choose"]) == 2
    assert "--choose needs the BUNDLE to choose for" in capsys.readouterr().err
    main(["doctor", str(bundle.path), "--choose"])
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("auto: ")
    if find_spec("openvino") is not None:
        assert "ok       fastest" in out
        speeds = {one.name for one in recorded_speeds(bundle)}
        assert {"onnxruntime fp32", "openvino fp32"} <= speeds
    write_image(tmp_path / "a.png", np.zeros((64, 96, 3), np.uint8))
    line = [str(bundle.path), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--no-pictures"]
    assert main(["run", *line, "--backend", "auto"]) == 0
    assert capsys.readouterr().err.startswith("auto: ")  # and nothing was measured again
