"""The whole pipeline through ONNX Runtime, on a model whose answers can be told from the image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.errors import BackendError, BundleError, ImageError, UsageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.model import Model, load

from .tiny_bundle import MAX_LENGTH, VOCABULARY, coloured_patch, log_probs_of, tiny_spec, write_tiny_bundle

EOS = VOCABULARY.index("<eos>")
FORBIDDEN = {VOCABULARY.index(token) for token in ("<pad>", "<unk>", "<bos>")}


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load(tiny_bundle, threads=1) as opened:
        yield opened


# Images of other shapes than the input, whose letterbox pads at the sides, above and below, or not at all.
@pytest.mark.parametrize("colour", ["red", "green", "blue"])
@pytest.mark.parametrize(
    ("size", "patch"),
    [((64, 96), (16, 32, 48, 64)), ((200, 150), (60, 40, 120, 110)), ((100, 400), (20, 40, 80, 160))],
)
def test_all_four_answers(model: Model, size: tuple[int, int], patch: tuple[int, int, int, int], colour: str) -> None:
    result = model.predict(coloured_patch(size, patch, colour))
    assert result.image_size == size
    assert result.boxes is not None
    assert result.scores is not None
    assert result.masks is not None
    assert result.boxes.dtype == np.float32
    assert result.scores.dtype == np.float32
    assert len(result.boxes) == len(result.scores) == len(result.masks) > 0
    assert set(result.detected_names or ()) == {colour}
    assert np.all(np.diff(result.scores) <= 0)
    y1, x1, y2, x2 = patch
    centres = (result.boxes[:, :2] + result.boxes[:, 2:]) / 2
    reach = 32 / min(64 / size[0], 96 / size[1])  # a cell of the coarsest level, in pixels of the image
    assert np.all(centres > np.array([x1, y1]) - reach)
    assert np.all(centres < np.array([x2, y2]) + reach)

    inside = np.zeros(size, bool)
    inside[y1:y2, x1:x2] = True
    union = np.asarray(result.masks.full().any(axis=0))
    edge = reach / 4
    assert not union[: max(0, int(y1 - edge))].any()
    assert not union[:, : max(0, int(x1 - edge))].any()
    assert (union & inside).sum() / inside.sum() > 0.6

    assert result.semantic_map is not None
    assert result.semantic_map.dtype == np.uint8
    assert result.semantic_names[result.semantic_map[(y1 + y2) // 2, (x1 + x2) // 2]] == colour
    assert result.semantic_names[result.semantic_map[0, 0]] == "grey"
    assert result.caption is not None
    assert result.caption.text == f"a {colour} thing here"


def test_a_task_not_asked_for_is_none(model: Model) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    for tasks in ({"boxes"}, {"semantic"}, {"caption"}, {"semantic", "caption"}):
        result = model.predict(image, tasks)
        assert (result.boxes is not None) == (result.scores is not None) == ("boxes" in tasks)
        assert result.masks is None
        assert (result.semantic_map is not None) == ("semantic" in tasks)
        assert (result.caption is not None) == ("caption" in tasks)
        assert "network" in result.timings_ms
        assert ("boxes" in result.timings_ms) == ("boxes" in tasks)
    with_boxes = model.predict(image, {"masks"})
    assert with_boxes.boxes is not None
    assert with_boxes.masks is not None
    assert with_boxes.caption is None


def test_answers_do_not_depend_on_which_tasks_are_asked_for(model: Model) -> None:
    image = coloured_patch((90, 110), (16, 32, 48, 64), "blue")
    everything = model.predict(image).to_json()
    for task, key in (("masks", "objects"), ("semantic", "semantic"), ("caption", "caption")):
        assert model.predict(image, {task}).to_json()[key] == everything[key]


def test_an_image_without_objects(model: Model) -> None:
    result = model.predict(np.full((70, 90, 3), 114, np.uint8))
    assert result.boxes is not None
    assert result.boxes.shape == (0, 4)
    assert result.masks is not None
    assert result.masks.full().shape == (0, 70, 90)
    assert result.to_json()["objects"] == []


@pytest.mark.parametrize("size", [(1, 1), (10, 20000), (2000, 3), (64, 96)])
def test_any_size_and_grey(model: Model, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (0, 0, 255), np.uint8)
    result = model.predict(image)
    assert result.boxes is not None
    assert result.masks is not None
    assert result.semantic_map is not None
    assert result.semantic_map.shape == size
    assert np.all(result.boxes[:, 2:] > result.boxes[:, :2])
    assert np.all(result.boxes >= 0)
    assert np.all(result.boxes <= np.array([size[1], size[0]] * 2))
    grey = model.predict(image[:, :, 0], {"boxes", "semantic"})
    assert grey.image_size == size


def test_the_image_may_be_strided_or_read_only_and_is_not_changed(model: Model) -> None:
    image = coloured_patch((80, 120), (16, 32, 48, 64))
    padded = np.zeros((160, 120, 3), np.uint8)
    padded[::2] = image
    view = padded[::2]
    view.flags.writeable = False
    expected, answer = model.predict(image).to_json(), model.predict(view).to_json()
    assert answer["objects"] == expected["objects"]
    assert answer["semantic"] == expected["semantic"]
    assert np.array_equal(view, image)


@pytest.mark.parametrize(("layout", "code"), [("nv12", cv2.COLOR_YUV2BGR_NV12), ("yuyv", cv2.COLOR_YUV2BGR_YUYV)])
def test_the_bytes_of_a_camera(model: Model, layout: Any, code: int) -> None:
    shape = (90, 80) if layout == "nv12" else (60, 80, 2)
    taken = np.random.default_rng(0).integers(16, 236, shape, np.uint8)
    found = model.predict(taken, layout=layout)
    expected = model.predict(np.asarray(cv2.cvtColor(taken, code), np.uint8))
    assert found.semantic_map is not None and expected.semantic_map is not None
    assert found.caption is not None and expected.caption is not None
    assert found.image_size == (60, 80) == found.semantic_map.shape
    assert np.mean(found.semantic_map == expected.semantic_map) > 0.99  # OpenCV's own rounding differs here and there
    assert found.caption.text == expected.caption.text


@pytest.mark.parametrize("layout", ["bgr", "rgb", "bgra", "rgba", "grey"])
def test_other_orders_of_channels(model: Model, layout: Any) -> None:
    bgr = coloured_patch((80, 120), (16, 32, 48, 64), "blue")
    if layout == "grey":
        bgr = bgr[:, :, 0]
    code = {"rgb": cv2.COLOR_BGR2RGB, "bgra": cv2.COLOR_BGR2BGRA, "rgba": cv2.COLOR_BGR2RGBA}.get(layout)
    given = bgr if code is None else np.asarray(cv2.cvtColor(bgr, code), np.uint8)
    before = given.copy()
    found, expected = model.predict(given, layout=layout).to_json(), model.predict(bgr).to_json()
    assert {**found, "timings_ms": 0} == {**expected, "timings_ms": 0}
    assert np.array_equal(given, before)


@pytest.mark.parametrize(
    ("image", "layout", "message"),
    [
        (np.zeros((60, 80, 4), np.uint8), "rgb", r"an image in RGB order must have shape \(height, width, 3\), got"),
        (np.zeros((60, 80, 3), np.uint8), "bgra", r"an image in BGRA order must have shape \(height, width, 4\), got"),
        (np.zeros((60, 80), np.uint8), "rgb", r"an image in RGB order must have shape \(height, width, 3\), got"),
        (np.zeros((60, 80, 3), np.uint8), "grey", r"a grey image must have shape \(height, width\), got"),
        (np.zeros((80, 80), np.uint8), "nv12", r"an NV12 image must have shape \(height \* 3 / 2, width\)"),
        (np.zeros((60, 80, 3), np.uint8), "yuyv", r"a YUYV image must have shape \(height, width, 2\)"),
        (np.zeros((60, 80, 3), np.uint8), "i420", r"layout must be one of bgr, .*, yuyv, got 'i420'"),
        ("street.jpg", "nv12", "a file has no layout 'nv12'"),
    ],
)
def test_bytes_that_are_not_of_their_layout(model: Model, image: Any, layout: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.predict(image, layout=layout)


def test_thresholds(model: Model) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))

    def scores(**options: Any) -> np.ndarray[Any, Any]:
        found = model.predict(image, {"boxes"}, **options).scores
        assert found is not None
        return found

    everything = scores(score_threshold=0.0)
    assert len(everything) > len(scores()) > len(scores(score_threshold=0.9)) > 0
    assert scores(score_threshold=0.9).min() > 0.9
    assert len(scores(max_detections=2)) == 2
    assert len(scores(iou_threshold=0.0)) < len(scores(iou_threshold=1.0))
    assert len(scores(score_threshold=0.0, class_agnostic=True)) < len(everything)


def test_from_a_file(model: Model, tmp_path: Path) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    write_image(tmp_path / "a.png", image)
    result = model.predict(tmp_path / "a.png")
    assert result.to_json()["objects"] == model.predict(str(tmp_path / "a.png")).to_json()["objects"]
    assert result.to_json()["objects"] == model.predict(image).to_json()["objects"]
    assert result.timings_ms["decode"] > 0
    with pytest.raises(ImageError, match="no such file"):
        model.predict(tmp_path / "b.png")


def test_timings_add_up(model: Model) -> None:
    times = dict(model.predict(coloured_patch((64, 96), (16, 32, 48, 64))).timings_ms)
    stages = ("preprocess", "network", "boxes", "masks", "semantic", "caption")
    assert set(times) == {*stages, "caption_first_token", "caption_per_token", "caption_tokens", "total"}
    assert sum(times[stage] for stage in stages) == pytest.approx(times["total"], rel=0.2, abs=0.5)
    assert times["caption_first_token"] < times["caption"]
    assert times["caption_tokens"] == 5  # four words and the end


def caption_context(model: Model, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(V,) mean of the caption memory, computed through the vision part alone."""
    context = model._parts.context()
    context.prepare(image)
    context.infer(("caption",))
    return context.caption_memory[0].mean(axis=0)


def every_sentence(context: np.ndarray[Any, Any], longest: int) -> list[tuple[float, tuple[int, ...]]]:
    """(log_prob, words) of every sentence of at most `longest` tokens, finished or cut off there."""
    bos = VOCABULARY.index("<bos>")
    found: list[tuple[float, tuple[int, ...]]] = []
    open_ones: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for length in range(1, longest + 1):
        grown = []
        for log_prob, words in open_ones:
            log_probs = log_probs_of([bos, *words], context)
            for token in range(len(VOCABULARY)):
                if token in FORBIDDEN:
                    continue
                if token == EOS:
                    found.append((log_prob + log_probs[token], words))
                else:
                    grown.append((log_prob + log_probs[token], (*words, token)))
        open_ones = grown
        if length == longest:
            found += open_ones
    return found


@pytest.mark.parametrize("colour", ["red", "blue"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sentences(model: Model, colour: str, length_penalty: float) -> None:
    """Only right if the caches are gathered by parent: the decoder counts every word it has written."""
    image = coloured_patch((64, 96), (16, 32, 48, 64), colour)
    longest = 4
    sentences = every_sentence(caption_context(model, image), longest)

    def rank(sentence: tuple[float, tuple[int, ...]]) -> float:
        log_prob, words = sentence
        return log_prob / min(longest, len(words) + 1) ** length_penalty

    log_prob, words = max(sentences, key=rank)
    options = CaptionOptions(beam_size=10, length_penalty=length_penalty, max_length=longest)
    caption = model.predict(image, {"caption"}, caption=options).caption
    assert caption is not None
    assert caption.token_ids == words
    assert caption.log_prob == pytest.approx(log_prob, abs=1e-4)
    assert caption.score == pytest.approx(rank((log_prob, words)), abs=1e-4)


def test_greedy_takes_the_best_token_each_time(model: Model) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64), "green")
    context = caption_context(model, image)
    history = [VOCABULARY.index("<bos>")]
    while history[-1] != EOS and len(history) <= MAX_LENGTH:
        log_probs = log_probs_of(history, context)
        log_probs[list(FORBIDDEN)] = -np.inf
        history.append(int(log_probs.argmax()))
    caption = model.predict(image, {"caption"}, caption=CaptionOptions(beam_size=1)).caption
    assert caption is not None
    assert caption.token_ids == tuple(token for token in history[1:] if token != EOS)


def test_caption_lengths(model: Model) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    for shortest, longest in itertools.product((0, 5), (6,)):
        options = CaptionOptions(min_length=shortest, max_length=longest)
        caption = model.predict(image, {"caption"}, caption=options).caption
        assert caption is not None
        assert shortest <= len(caption.token_ids) <= longest
    caption = model.predict(image, {"caption"}, caption=CaptionOptions(max_length=2)).caption
    assert caption is not None
    assert len(caption.token_ids) <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size must be from 1 to 10, got 0"),
        ({"beam_size": 11}, "beam_size must be from 1 to 10, got 11"),
        ({"max_length": 7}, "max_length must be from 1 to the model's 6, got 7"),
        ({"max_length": 3, "min_length": 3}, r"min_length must be from 0 to max_length - 1 \(2\), got 3"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number, got nan"),
    ],
)
def test_bad_caption_options(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.predict(np.zeros((8, 8, 3), np.uint8), caption=CaptionOptions(**options))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "image must be uint8 with values 0 to 255, got float32"),
        (np.zeros((8, 8, 4), np.uint8), r'image has 4 channels, .* say what they are with layout="bgra" or'),
        (np.zeros((8, 8, 2), np.uint8), r'image has 2 channels, .* say what they are with layout="yuyv"$'),
        (np.zeros((8, 8, 5), np.uint8), r"image must have shape \(height, width, 3\) .* got \(8, 8, 5\)"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"got \(1, 3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"at least one pixel, got shape \(0, 8, 3\)"),
        ([[1]], "image must be a numpy array or the path of an image, got list"),
    ],
)
def test_bad_images(model: Model, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model.predict(image)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": {"semantic_map"}}, "unknown task 'semantic_map', perhaps 'semantic'; the tasks are boxes, masks"),
        ({"tasks": {"depth"}}, "unknown task 'depth'; the tasks are boxes, masks, semantic, caption"),
        ({"tasks": set()}, "no task asked for"),
        ({"score_threshold": 1.0}, r"score_threshold must be in \[0, 1\), got 1.0"),
        ({"iou_threshold": 2.0}, r"iou_threshold must be in \[0, 1\], got 2.0"),
        ({"max_detections": 0}, "max_detections must be from 1 to 1000000, got 0"),
    ],
)
def test_bad_arguments(model: Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.predict(np.zeros((8, 8, 3), np.uint8), **arguments)


def test_a_model_with_one_task(tmp_path: Path) -> None:
    with load(write_tiny_bundle(tmp_path / "b", ("semantic",)), threads=1) as model:
        result = model.predict(coloured_patch((64, 96), (16, 32, 48, 64)))
        assert result.boxes is None
        assert result.caption is None
        assert result.semantic_map is not None
        with pytest.raises(UsageError, match="tiny: has no 'boxes' task, it has semantic"):
            model.predict(np.zeros((8, 8, 3), np.uint8), {"boxes"})


def test_closed_models_say_so(tiny_bundle: Bundle) -> None:
    model = load(tiny_bundle, threads=1)
    model.close()
    model.close()
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        model.predict(np.zeros((8, 8, 3), np.uint8))


def test_graphs_that_do_not_fit_the_spec(tiny_bundle: Bundle) -> None:
    graphs = open_graphs(tiny_bundle, threads=1)
    with pytest.raises(BundleError, match="there is no 'caption_step' graph"):
        Model(tiny_spec(), {part: graphs[part] for part in ("vision", "caption_prefill")})
    with pytest.raises(BundleError, match=r"vision has an unknown input 'tokens'.*vision has no output 'class_logits'"):
        Model(tiny_spec(), {**graphs, "vision": graphs["caption_step"]})


def test_graphs_refuse_what_they_cannot_take(tiny_bundle: Bundle) -> None:
    graph = open_graphs(tiny_bundle, threads=1)["vision"]
    assert graph.inputs["images"].shape == ("batch", 3, 64, 96)
    images = np.zeros((2, 3, 64, 96), np.float32)
    assert graph.run({"images": images}, ["prototypes"])["prototypes"].shape == (2, 3, 16, 24)
    for feed, message in (
        ({}, "input 'images' is missing"),
        ({"images": images, "x": images}, "there is no input 'x'"),
        ({"images": images.astype(np.float64)}, "'images' must be float32, got float64"),
        ({"images": images[:, :, :32]}, r"must have shape \(batch, 3, 64, 96\), got \(2, 3, 32, 96\)"),
    ):
        with pytest.raises(UsageError, match=message):
            graph.run(feed)
    with pytest.raises(UsageError, match="there is no output 'depth'"):
        graph.run({"images": images}, ["depth"])
    graph.close()
    with pytest.raises(BackendError, match="the graph is closed"):
        graph.run({"images": images})


def test_threads_may_share_a_model(model: Model) -> None:
    images = [coloured_patch((64, 96), (16, 32, 48, 64), colour) for colour in ("red", "green", "blue")] * 4
    with ThreadPoolExecutor(3) as pool:
        captions = list(pool.map(lambda image: model.predict(image).caption, images))
    assert [c.text.split()[1] for c in captions if c is not None] == ["red", "green", "blue"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": "a"}, r"^score_threshold must be a number or None, got 'a' \(str\)$"),
        ({"iou_threshold": [0.5]}, r"^iou_threshold must be a number or None, got list$"),
        ({"score_threshold": True}, r"^score_threshold must be a number or None, got True \(bool\)$"),
        ({"max_detections": 2.5}, r"^max_detections must be a whole number or None, got 2\.5 \(float\)$"),
        ({"class_agnostic": "no"}, r"^class_agnostic must be True or False, got 'no' \(str\)$"),
        ({"caption": "no"}, r"^caption must be CaptionOptions or None, got 'no' \(str\); tasks says whether to write"),
        ({"caption": False}, r"^caption must be CaptionOptions or None, got False \(bool\)"),
        ({"caption": CaptionOptions(beam_size="3")}, r"^beam_size must be a whole number or None, got '3' \(str\)$"),  # type: ignore[arg-type]
        ({"caption": CaptionOptions(budget_ms="x")}, r"^budget_ms must be a number or None, got 'x' \(str\)$"),  # type: ignore[arg-type]
        ({"caption": CaptionOptions(forbidden_words=(1,))}, "^forbidden_words must be a collection of names, got one"),  # type: ignore[arg-type]
        ({"tasks": 5}, r"^tasks must be a collection of names, got 5 \(int\)$"),
        ({"tasks": ["boxes", 5]}, r"^tasks must be a collection of names, got one with 5 \(int\)$"),
        ({"tasks": {"boxes": True}}, r"^tasks must be a collection of names, got dict$"),
        ({"layout": ["rgb"]}, "^layout must be one of bgr, "),
    ],
)
def test_arguments_of_another_type(model: Model, options: Any, message: str) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    with pytest.raises(UsageError, match=message) as caught:
        model.predict(image, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=message):
        model.stream([image], **options)


def test_numbers_of_numpy_are_numbers(model: Model) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    numbers: Any = np.float32(0.5), np.float64(0.5), np.int64(1)
    score, iou, most = numbers
    found = model.predict(image, {"boxes"}, score_threshold=score, iou_threshold=iou, max_detections=most)
    assert found.boxes is not None and len(found.boxes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": "two"}, r"^threads must be a whole number or None, got 'two' \(str\)$"),
        ({"threads": 1.0}, r"^threads must be a whole number or None, got 1\.0 \(float\)$"),
        ({"backend": 3}, r"^backend must be text, got 3 \(int\)$"),
        ({"precision": 16}, r"^precision must be text, got 16 \(int\)$"),
        ({"caption_decoder": ["native"]}, r"^caption_decoder must be text or None, got list$"),
        ({"processing": True}, r"^processing must be text or None, got True \(bool\)$"),
        ({"bundle": 3}, r"^bundle must be a path, got 3 \(int\)$"),
        ({"bundle": None}, r"^bundle must be a path, got None \(NoneType\)$"),
    ],
)
def test_a_bundle_is_loaded_with_what_makes_sense(tiny_bundle: Bundle, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(**{"bundle": tiny_bundle, **options})
