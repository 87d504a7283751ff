"""What somebody sees who works in a terminal: names of the package, and answers in one line each."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yolor_edge.runtime as runtime
from yolor_edge.runtime import Frame, InstanceMasks, Result, UsageError, errors, model
from yolor_edge.runtime.results import Caption
from yolor_edge.runtime.stream import stream

from ..fake_model import FakeModel, picture


def test_the_package_shows_its_public_names() -> None:
    assert dir(runtime) == sorted(runtime.__all__)
    assert all(getattr(runtime, name) is not None for name in runtime.__all__)


def test_errors_that_docstrings_name_are_public() -> None:
    described = "".join(
        str(each.__doc__) for each in (model.load, model.Model, model.Model.predict, model.Model.stream, stream.Stream)
    )
    named = {name for name in re.findall(r"\b[A-Z]\w+Error\b", described) if hasattr(errors, name)}
    assert {"EngineMismatchError", "BackendError"} <= named <= set(runtime.__all__)


def test_crops_have_names_and_are_tuples() -> None:
    crop = np.ones((2, 3), np.uint8)
    (found,) = InstanceMasks([(4, 5, crop)], (10, 20)).crops()
    assert (found.y0, found.x0, found.crop) == (4, 5, crop) == found
    y0, x0, pixels = found
    assert (y0, x0) == (4, 5)
    assert pixels is crop


def test_answers_in_one_line() -> None:
    masks = InstanceMasks([(4, 5, np.ones((2, 3), np.uint8))], (480, 640))
    assert repr(masks) == "InstanceMasks(1 of 640x480 pixels)"
    assert repr(Result((480, 640))) == "Result(640x480 pixels)"
    result = Result(
        (480, 640),
        boxes=np.zeros((1, 4), np.float32),
        masks=masks,
        semantic_map=np.zeros((480, 640), np.uint8),
        caption=Caption("a star", (1, 2), 0.0, 0.0),
        timings_ms={"total": 12.345},
    )
    assert repr(result) == "Result(640x480 pixels, 1 boxes, 1 masks, semantic map, caption 'a star', 12.3 ms)"
    image = np.zeros((480, 640, 3), np.uint8)
    assert repr(Frame("left", image, None, 3)) == "Frame('left', 3, image of shape (480, 640, 3))"
    assert repr(Frame("a.mp4", image, None, 3, position_s=0.12)).endswith("(480, 640, 3), position_s=0.12)")
    assert repr(Frame("b.png", None, "b.png: cut short", 0)) == "Frame('b.png', 0, error='b.png: cut short')"


def test_a_model_and_its_answers_in_one_line() -> None:
    fake = FakeModel()
    assert repr(fake.model).startswith("Model('tiny', boxes, caption, input ")
    good, bad = fake.model.stream([picture(1), None])  # type: ignore[list-item]
    assert re.fullmatch(
        r"StreamResult\(Frame\('frame 0', 0, image of shape \(4, 4, 3\)\), "
        r"Result\(4x4 pixels, 1 boxes, caption 'image 1', "
        r"[\d.]+ ms\), dropped=0, caption='image 1' of 0, latency_ms=[\d.]+\)",
        repr(good),
    )
    assert repr(bad).startswith("StreamResult(Frame('frame 1', 1, error='frame 1: expected an image")
    fake.model.close()
    assert repr(fake.model).endswith(", closed)")


def test_true_is_no_camera() -> None:
    with pytest.raises(UsageError, match=r"source must be a path, .* got bool"):
        FakeModel().model.stream(True)
