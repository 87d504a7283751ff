"""Results drawn: on one image or two panels, whole or in parts, at any size."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.drawing import TWO_PANELS, DrawOptions, draw, panels
from yolor_edge.runtime.drawing.colours import distinct_colour
from yolor_edge.runtime.drawing.lettering import wrapped
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.model import load
from yolor_edge.runtime.results import Caption, InstanceMasks, Result


def a_result(**others: Any) -> Result:
    """One object with a mask inside its box, a map of which the upper half is sky, and a caption."""
    semantic_map = np.zeros((640, 640), np.uint8)
    semantic_map[320:] = 1
    values: dict[str, Any] = {
        "boxes": np.array([[100, 100, 300, 300]], np.float32),
        "scores": np.array([0.9], np.float32),
        "class_ids": np.array([0], np.int32),
        "masks": InstanceMasks([(150, 150, np.ones((100, 100), np.uint8))], (640, 640)),
        "semantic_map": semantic_map,
        "caption": Caption("a thing under the sky", (), 0.0, 0.0),
        "class_names": ("thing",),
        "semantic_names": ("sky", "grass"),
    }
    return Result((640, 640), **{**values, **others})


def grey_image(size: tuple[int, int] = (640, 640)) -> NDArray[np.uint8]:
    return np.full((*size, 3), 200, np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (10, 20000), (20000, 10), (480, 640), (64, 96), (2500, 4000)])
@pytest.mark.parametrize("is_steady", [False, True])
def test_any_size_can_be_drawn(tiny_bundle: Bundle, size: tuple[int, int], is_steady: bool) -> None:
    image = np.full((*size, 3), (0, 0, 255), np.uint8)
    with load(tiny_bundle, threads=1) as model:
        result = model.predict(image)
    drawing = draw(image, result, TWO_PANELS, is_steady=is_steady)
    assert drawing.dtype == np.uint8
    assert max(drawing.shape) < 4200
    on_image = draw(image, result, semantic=True, caption=True, is_steady=is_steady)
    assert on_image.dtype == np.uint8
    assert on_image.shape == image.shape
    assert np.all(image == (0, 0, 255))  # drawn on a copy


def test_steady_drawings_keep_their_size() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    names = tuple(f"class number {i}" for i in range(40))
    maps = [np.zeros((120, 160), np.uint8), np.arange(120 * 160).reshape(120, 160).astype(np.uint8) % 40]
    captions = ["short", "a sentence that goes on and on " * 12]
    steady, free = set(), set()
    for semantic_map, text in zip(maps, captions, strict=True):
        result = Result((120, 160), semantic_map=semantic_map, semantic_names=names, caption=Caption(text, (), 0, 0))
        steady.add(draw(image, result, TWO_PANELS, is_steady=True).shape)
        free.add(draw(image, result, TWO_PANELS).shape)
    assert (len(steady), len(free)) == (1, 2)


def test_one_panel_shows_boxes_masks_and_labels_on_the_image() -> None:
    image = grey_image()
    result = a_result()
    drawing = draw(image, result)
    assert drawing.shape == image.shape
    assert not np.array_equal(drawing[200, 200], image[200, 200])  # tinted
    assert np.array_equal(drawing[120, 280], image[120, 280])  # in the box, not in the mask
    assert drawing[200, 100].tolist() == list(distinct_colour(0))  # the edge of the box
    assert drawing[90, 101].tolist() == list(distinct_colour(0))  # the plate of the label
    assert np.all(drawing[320:] == 200)  # neither map nor caption
    assert np.array_equal(draw(image[:, :, 0], result), drawing)  # grey


@pytest.mark.parametrize(
    ("change", "top", "bottom", "left", "right"),
    [
        ({"boxes": False}, 97, 303, 97, 303),
        ({"masks": False}, 146, 254, 146, 254),
        ({"labels": False}, 78, 101, 97, 240),
        ({"scores": False}, 78, 101, 97, 240),
        ({"mask_alpha": 0.9}, 150, 250, 150, 250),
        ({"line_width": 9}, 78, 306, 94, 306),
        ({"semantic": True}, 0, 640, 0, 640),
        ({"caption": True}, 600, 640, 0, 640),
    ],
)
def test_a_part_is_off_or_on_in_its_place_alone(
    change: dict[str, Any], top: int, bottom: int, left: int, right: int
) -> None:
    differs = (draw(grey_image(), a_result()) != draw(grey_image(), a_result(), **change)).any(axis=2)
    assert differs[top:bottom, left:right].any()
    differs[top:bottom, left:right] = False
    assert not differs.any()


def test_what_is_off_everywhere_leaves_the_image() -> None:
    nothing = DrawOptions.of_parts([])
    assert np.array_equal(draw(grey_image(), a_result(), nothing), grey_image())
    assert np.array_equal(draw(grey_image(), a_result(), nothing, panels=2), grey_image())


def test_two_panels_have_the_map_beside_and_the_caption_below() -> None:
    drawing = draw(grey_image(), a_result(), panels=2)
    height, width = drawing.shape[:2]
    assert width == 2 * 640 + 6
    assert np.array_equal(drawing[:640, :640], draw(grey_image(), a_result()))
    sky, grass = drawing[100, 900], drawing[500, 900]
    assert sky[0] > sky[2]  # blue
    assert grass[1] > grass[0]  # green
    without = draw(grey_image(), a_result(), panels=2, caption=False)
    assert np.array_equal(drawing[: len(without)], without)
    assert height > len(without) > 640  # the legend
    only = draw(grey_image(), a_result(), panels=2, semantic=False, caption=False)
    assert np.array_equal(only, drawing[:640, :640])


def test_a_result_without_boxes_shows_what_it_has() -> None:
    bare = a_result(boxes=None, scores=None, class_ids=None, masks=None)
    drawing = draw(grey_image(), bare)
    assert drawing.shape == (640, 640, 3)
    assert drawing[100, 100, 0] > drawing[100, 100, 2]  # the sky
    assert (drawing[600:].astype(int).sum(axis=2) < 300).any()  # the bar of the caption
    assert np.array_equal(draw(grey_image(), bare, semantic=False, caption=False), grey_image())


def test_colours_are_those_of_the_palette() -> None:
    green = Result((640, 640), semantic_map=np.zeros((640, 640), np.uint8), semantic_names=("grass",))
    tinted = draw(grey_image(), green, palette=((0, 255, 0),))
    assert tinted[300, 300, 1] > tinted[300, 300, 0]
    named = a_result(semantic_map=None, semantic_names=("thing",))
    assert draw(grey_image(), named, palette=((1, 2, 3),))[200, 100].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": False}, "there is no drawing option 'label', perhaps 'labels'; the options are boxes, masks, "),
        ({"panels": 3}, "panels must be 1 or 2, got 3"),
        ({"panels": "2"}, "panels must be a whole number, got '2' (str)"),
        ({"line_width": 0}, "line_width must be from 1 to 100 pixels, got 0"),
        ({"mask_alpha": 1.5}, "mask_alpha must be from 0 to 1, got 1.5"),
        ({"semantic_alpha": None}, "semantic_alpha must be a number, got None (NoneType)"),
        ({"boxes": None}, "boxes must be True or False, got None (NoneType)"),
        ({"semantic": 1}, "semantic must be True or False or None, got 1 (int)"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        draw(grey_image(), a_result(), **options)


def test_parts_that_are_unknown() -> None:
    with pytest.raises(
        UsageError, match=re.escape("there is no 'mask' to draw, perhaps 'masks'; the parts are boxes,")
    ):
        DrawOptions.of_parts(["mask"])


def test_images_that_are_not_the_results() -> None:
    with pytest.raises(UsageError, match="the image is 640x100, the result is for one of 640x640; pass the image that"):
        draw(grey_image()[:100], a_result())
    for image, what in [
        (np.zeros((640, 640, 3)), "float64 of shape (640, 640, 3)"),
        (np.zeros((640, 640, 4), np.uint8), "uint8 of shape (640, 640, 4)"),
        (np.zeros(640, np.uint8), "uint8 of shape (640,)"),
        ("a.png", "'a.png' (str)"),
    ]:
        wrong: Any = image
        with pytest.raises(
            UsageError, match=re.escape(f"image must be uint8 of shape (h, w, 3) or (h, w), got {what}")
        ):
            draw(wrong, a_result())


def test_a_mask_is_filled_and_traced_on_ground_of_its_own_colour() -> None:
    colour = distinct_colour(0)
    image = np.full((640, 640, 3), colour, np.uint8)
    crop = np.zeros((100, 100), np.uint8)
    crop[:, :60] = 1
    result = a_result(masks=InstanceMasks([(150, 150, crop)], (640, 640)))
    drawing = draw(image, result)
    differs = (np.abs(drawing.astype(int) - colour).sum(axis=2) > 150)[140:260, 140:260]
    assert differs[13:107, 5:75].any(axis=1).all()  # an outline on every row
    assert not differs[10:110, 80:].any()
    white = draw(np.full_like(image, 255), result)
    tinted = 0.7 * 255 + 0.3 * np.array(colour)
    assert np.abs(white[200, 180] - tinted).max() <= 1
    assert white[200, 230].tolist() == [255] * 3  # in the crop, not in the mask


def test_the_legend_leaves_out_what_is_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(panels, "write_text", lambda panel, text, *_: texts.append(text))
    semantic_map = np.zeros((100, 100), np.uint8)
    semantic_map[0, :1] = 2
    semantic_map[1, :50] = 1
    result = Result((100, 100), semantic_map=semantic_map, semantic_names=("sky", "grass", "sand"))
    draw(np.zeros((100, 100, 3), np.uint8), result, TWO_PANELS)
    assert texts == ["sky 99%", "grass 1%"]
    many = (np.arange(100 * 100).reshape(100, 100) % 250).astype(np.uint8)
    texts.clear()
    result = Result((100, 100), semantic_map=many, semantic_names=("x",) * 250)
    draw(np.zeros((100, 100, 3), np.uint8), result, TWO_PANELS)
    assert texts == ["x <1%"]


def test_wrapping_breaks_at_spaces_and_inside_what_is_too_long() -> None:
    lines = wrapped("a red star left of a circle " * 4, 300, 16)
    assert " ".join(lines) == ("a red star left of a circle " * 4).strip()
    assert len(lines) > 2
    broken = wrapped("x" * 200, 300, 16)
    assert "".join(broken) == "x" * 200
    assert len(broken) > 3
    assert wrapped("", 300, 16) == [""]
