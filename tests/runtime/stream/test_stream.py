"""What a stream answers: the same as one image at a time, in order, whatever happens to single images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import StreamResult, load
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.errors import BackendError, ImageError, UsageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.images.preprocess import PixelLayout
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.sources.sources import Frame, open_source

from ..fake_model import FakeModel, picture, stream_threads
from ..tiny_bundle import COLOURS, coloured_patch

SIZES = ((64, 96), (200, 150), (100, 400), (64, 96))


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load(tiny_bundle, threads=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert stream_threads() == []


def patches(count: int) -> list[NDArray[np.uint8]]:
    """Images whose colours and sizes change all the time."""
    return [coloured_patch(SIZES[i % 4], (16, 32, 48, 64), COLOURS[i % 3]) for i in range(count)]


def assert_same_answers(found: StreamResult, image: NDArray[np.uint8], model: Model, **options: Any) -> None:
    assert found.error is None
    assert found.result is not None
    assert found.frame.image is image
    one, other = found.result.to_json(), model.predict(image, **options).to_json()
    assert {**one, "timings_ms": 0} == {**other, "timings_ms": 0}


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_answers_are_those_of_predict_in_order(model: Model, in_flight: int) -> None:
    images = [*patches(12), coloured_patch((50, 70), (5, 5, 30, 40))[:, :, 0]]
    with model.stream(images, in_flight=in_flight, drop="none") as stream:
        answers = list(stream)
    assert [answer.frame.index for answer in answers] == list(range(13))
    for answer, image in zip(answers, images, strict=True):
        assert_same_answers(answer, image, model)
        assert answer.result is not None
        assert answer.caption is answer.result.caption
        assert answer.caption_frame == answer.frame.index
        assert answer.dropped == 0
        assert answer.latency_ms >= answer.result.timings_ms["total"]
        assert {"preprocess", "network", "boxes", "caption"} <= set(answer.result.timings_ms)
    assert list(stream) == []


def test_bytes_of_a_camera_in_their_layout(model: Model) -> None:
    """NV12 and YUYV frames from an iterable, as frames or as arrays, are those of predict; odd ones are an error."""
    generator = np.random.default_rng(5)
    cases: tuple[tuple[PixelLayout, tuple[int, ...], tuple[int, ...]], ...] = (
        ("nv12", (90, 80), (91, 80)),
        ("yuyv", (60, 80, 2), (60, 80, 3)),
        ("rgba", (60, 80, 4), (60, 80, 3)),
        ("rgb", (60, 80, 3), (60, 80)),
        ("grey", (60, 80), (60, 80, 3)),
    )
    for layout, shape, bad in cases:
        images = [generator.integers(0, 256, shape, np.uint8) for _ in range(4)]
        frames = [images[0], Frame("camera", images[1], None, 1), np.zeros(bad, np.uint8), *images[2:]]
        for caption_every in (1, "scene-change"):
            answers = list(model.stream(frames, caption_every=caption_every, layout=layout, drop="none"))
            assert answers.pop(2).error is not None
            for answer, image in zip(answers, images, strict=True):
                assert answer.result is not None
                tasks = None if answer.result.caption is not None else ("boxes", "masks", "semantic")
                assert_same_answers(answer, image, model, tasks=tasks, layout=layout)
                assert answer.result.image_size == (60, 80)


def test_a_layout_is_for_bytes_alone(model: Model, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", patches(1)[0])
    for source in (tmp_path, str(tmp_path / "a.png"), 0, open_source(tmp_path)):
        with pytest.raises(UsageError, match="layout 'nv12' is for an iterable of arrays; files"):
            model.stream(source, layout="nv12")
    with pytest.raises(UsageError, match=r"layout must be one of bgr, .*, nv12, yuyv, got 'i420'"):
        model.stream([], layout="i420")  # type: ignore[arg-type]


def test_with_openvino_too(tiny_bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    images = patches(12)
    with load(tiny_bundle, "openvino", threads=1) as opened, opened.clone() as clone:
        for answer, image in zip(clone.stream(images, in_flight=3), images, strict=True):
            assert_same_answers(answer, image, opened)


def test_options_reach_the_network_and_the_search(model: Model) -> None:
    options: dict[str, Any] = {
        "score_threshold": 0.9,
        "iou_threshold": 0.9,
        "max_detections": 2,
        "class_agnostic": True,
        "caption": CaptionOptions(beam_size=1, max_length=3),
    }
    (image,) = patches(1)
    (answer,) = model.stream([image], **options)
    assert_same_answers(answer, image, model, **options)
    assert answer.result is not None and answer.caption is not None
    assert answer.result.boxes is not None and len(answer.result.boxes) == 2
    assert answer.caption.text == "a red thing"


def test_a_folder_a_source_and_frames(model: Model, tmp_path: Path) -> None:
    for i, image in enumerate(patches(3)):
        write_image(tmp_path / f"{i}.png", image)
    for source in (tmp_path, str(tmp_path), open_source(tmp_path), list(open_source(tmp_path))):
        answers = list(model.stream(source, {"boxes"}))
        assert [answer.frame.name for answer in answers] == ["0.png", "1.png", "2.png"]
        assert all(answer.result is not None and answer.result.detected_names for answer in answers)
    frames = [Frame("left", image, None, 10 * i + 7) for i, image in enumerate(patches(3))]
    assert [answer.caption_frame for answer in model.stream(frames, caption_every=2)] == [7, 7, 27]


def test_a_video(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "patch.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for _ in range(7):
        writer.write(coloured_patch((64, 96), (16, 32, 48, 64), "blue"))
    writer.release()
    with model.stream(path) as stream:
        texts = [answer.result and answer.result.caption and answer.result.caption.text for answer in stream]
    assert texts == ["a blue thing here"] * 7


def test_pictures_between_captions_carry_the_last_one() -> None:
    fake = FakeModel()
    answers = list(fake.model.stream(map(picture, range(8)), caption_every=3, in_flight=3))
    own = [answer.result is not None and answer.result.caption is not None for answer in answers]
    assert own == [True, False, False, True, False, False, True, False]
    assert [answer.caption_frame for answer in answers] == [0, 0, 0, 3, 3, 3, 6, 6]
    assert [answer.caption and answer.caption.text for answer in answers] == [f"image {i // 3 * 3}" for i in range(8)]
    assert sorted(n for stage, n in fake.stages if stage == "caption") == [0, 3, 6]


def test_captions_when_the_scene_changes(model: Model) -> None:
    colours = ("red", "red", "green", "green", "green", "red")
    images = [coloured_patch((64 + i, 96), (16, 32, 48, 64), colour) for i, colour in enumerate(colours)]
    answers = list(model.stream(images, caption_every="scene-change"))
    assert [answer.caption_frame for answer in answers] == [0, 0, 2, 2, 2, 5]
    assert [answer.caption and answer.caption.text for answer in answers] == [f"a {c} thing here" for c in colours]


def test_without_the_caption_task(model: Model) -> None:
    answers = list(model.stream(patches(4), {"boxes", "semantic"}, caption_every=2, wait_for_captions=False))
    assert [(answer.caption, answer.caption_frame) for answer in answers] == [(None, None)] * 4
    assert all(answer.result is not None and answer.result.semantic_map is not None for answer in answers)


def test_where_only_captions_are_asked_for_the_network_rests_between_them() -> None:
    fake = FakeModel()
    answers = list(fake.model.stream(map(picture, range(6)), {"caption"}, caption_every=3))
    assert [answer.caption_frame for answer in answers] == [0, 0, 0, 3, 3, 3]
    assert {number for _, number in fake.stages} == {0, 3}


def test_one_bad_picture_does_not_end_the_stream(tmp_path: Path) -> None:
    good, empty = picture(1), np.empty((0, 4, 3), np.uint8)
    items = [
        Frame("a.png", good, None, 0),
        Frame("b.png", None, "b.png: cut short", 1),
        Frame("c.png", None, None, 2),
        np.zeros((4, 4, 3), np.float32),
        empty,
        good,
        good,
    ]
    fake = FakeModel()
    with fake.model.stream(items, caption_every=2) as stream:  # type: ignore[arg-type]
        answers = list(stream)
    assert [answer.error for answer in answers] == [
        None,
        "b.png: cut short",
        "cannot be read",
        "frame 3: image must be uint8 with values 0 to 255, got float32",
        "frame 4: image must have at least one pixel, got shape (0, 4, 3)",
        None,
        None,
    ]
    assert [answer.result is None for answer in answers] == [answer.error is not None for answer in answers]
    assert [answer.caption_frame for answer in answers] == [0, 0, 0, 0, 0, 0, 6]
    assert (stream.statistics.read, stream.statistics.answered, stream.statistics.failed) == (7, 3, 4)


def test_an_iterable_of_paths_and_of_what_is_no_picture(model: Model, tmp_path: Path) -> None:
    first, last = patches(2)
    write_image(tmp_path / "a.png", first)
    items = [tmp_path / "a.png", None, str(tmp_path / "gone.png"), 7, first.tolist(), last, Frame("x", None)]
    answers = list(model.stream(items, {"boxes"}))  # type: ignore[arg-type]
    assert [answer.frame.index for answer in answers] == list(range(7))
    assert [answer.error for answer in answers] == [
        None,
        "frame 1: expected an image as an array or a path, or a Frame, got None (NoneType)",
        f"{tmp_path / 'gone.png'}: no such file",
        "frame 3: expected an image as an array or a path, or a Frame, got 7 (int)",
        "frame 4: expected an image as an array or a path, or a Frame, got list",
        None,
        "cannot be read",
    ]
    assert answers[0].frame.name == str(tmp_path / "a.png")
    for answer, image in ((answers[0], first), (answers[5], last)):
        assert answer.result is not None
        expected = model.predict(image, {"boxes"})
        assert np.array_equal(np.asarray(answer.result.boxes), np.asarray(expected.boxes))
    (answer,) = model.stream([tmp_path / "a.png"], layout="nv12")
    assert answer.error == f"{tmp_path / 'a.png'}: a file has no layout 'nv12'; pass its pixels as an array"


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish", "caption"])
@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_failing_network_ends_the_stream_after_the_answers_before(stage: str, in_flight: int) -> None:
    def fail(at: str, number: int) -> None:
        if at == stage and number == 4:
            raise BackendError("the device is gone")

    fake = FakeModel(fail)
    seen = []
    stream = fake.model.stream(map(picture, range(100)), in_flight=in_flight)
    with pytest.raises(BackendError, match=r"^the device is gone$"):
        seen.extend(answer.frame.index for answer in stream)
    assert seen == [0, 1, 2, 3]
    assert list(stream) == []
    assert sum(context.is_closed for context in fake.contexts) >= 1  # one that failed is not used again
    fake.hook = lambda stage, number: None
    assert [answer.frame.index for answer in fake.model.stream(map(picture, range(3)))] == [0, 1, 2]


def test_a_failing_source_ends_the_stream_after_the_answers_before(model: Model) -> None:
    def source() -> Iterator[NDArray[np.uint8]]:
        yield from patches(3)
        raise ImageError("camera 0: on fire")

    seen = []
    with model.stream(source()) as stream, pytest.raises(ImageError, match=r"^camera 0: on fire$"):
        seen.extend(answer.frame.index for answer in stream)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_flight": 0}, "in_flight must be a number from 1 to 64, got 0"),
        ({"in_flight": True}, "in_flight must be a number from 1 to 64, got True"),
        ({"in_flight": 65}, "in_flight must be a number from 1 to 64, got 65"),
        ({"drop": "newest"}, "drop must be one of auto, oldest, none, got 'newest'"),
        ({"caption_every": 0}, 'caption_every must be a number of at least 1 or "scene-change", got 0'),
        ({"caption_every": "never"}, "caption_every must be a number of at least 1 or \"scene-change\", got 'never'"),
        ({"score_threshold": 2.0}, "score"),
        ({"in_flight": "2"}, "in_flight must be a number from 1 to 64, got '2'"),
        ({"drop": 3}, "drop must be one of auto, oldest, none, got 3"),
        ({"wait_for_captions": "no"}, r"wait_for_captions must be True or False or None, got 'no' \(str\)"),
        ({"caption": CaptionOptions(beam_size=0)}, "beam_size must be from 1"),
        ({"tasks": {"smell"}}, "smell"),
    ],
)
def test_bad_options(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.stream(patches(1), **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3.5, "source must be a path, .* got float"),
        (b"a.png", "source must be a path, .* got bytes"),
        (picture(0), "source must be a path, .* got ndarray"),
        ("no-such-file.png", "no such file"),
    ],
)
def test_bad_sources(model: Model, source: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.stream(source)


def test_statistics(model: Model) -> None:
    with model.stream(patches(20), caption_every=4) as stream:
        before = stream.statistics
        answers = list(stream)
    found = stream.statistics
    assert (before.answered, before.fps) == (0, 0.0)
    assert (found.read, found.answered, found.failed, found.dropped, found.captioned) == (20, 20, 0, 0, 5)
    assert found.fps > 0
    assert found.seconds > 0
    assert found.seconds == stream.statistics.seconds  # it stands still after the end
    stages = {"decode", "wait", "preprocess", "network", "boxes", "masks", "semantic", "total", "latency"}
    assert stages | {"caption", "caption_first_token", "caption_per_token"} == set(found.stages_ms)
    middle = sorted(answer.latency_ms for answer in answers)
    assert middle[9] <= found.stages_ms["latency"] <= middle[10]
