"""What files are is found in them, not in their names."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolor_edge.runtime.errors import ImageError, UsageError
from yolor_edge.runtime.images.image_files import decode_image, read_image, write_image
from yolor_edge.runtime.runner.video_file import VideoFile
from yolor_edge.runtime.sources.file_kinds import kind_of
from yolor_edge.runtime.sources.sources import Source, open_source

SIZE = (48, 64)


def picture(index: int = 0) -> np.ndarray:
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[8:24, 4 + index : 20 + index] = (0, 0, 200)
    return image


def write_clip(path: Path, frames: int = 12, fps: float = 25.0) -> Path:
    code = {".avi": "MJPG", ".flv": "FLV1", ".ts": "MPG2"}.get(path.suffix, "mp4v")
    writer = cv2.VideoWriter(str(path.absolute()), cv2.VideoWriter.fourcc(*code), fps, SIZE[::-1])
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {path.suffix}")
    for index in range(frames):
        writer.write(picture(index))
    writer.release()
    return path


@pytest.mark.parametrize("suffix", [".avi", ".flv", ".mp4", ".ts"])
@pytest.mark.parametrize("name", ["clip.mts", "clip", "clip.PNG", "2024-05-06T10:20:30.dat"])
def test_a_video_is_one_under_any_name(suffix: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(write_clip(tmp_path / f"made{suffix}"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    source = open_source(name)
    frames = list(source)
    assert source.kind == "video" and len(frames) == 12
    assert all(frame.error is None for frame in frames)


def test_a_video_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    shutil.move(write_clip(tmp_path / "clip.mp4"), name)
    assert len([frame for frame in open_source(name) if frame.image is not None]) == 12
    out = tmp_path / os.fsdecode(b"\xe9t\xe9.mp4")
    with VideoFile.open(out, out, 25.0, picture()) as video:
        video.write(picture())
    assert len([frame for frame in open_source(out) if frame.image is not None]) == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".pgm", ".bmp", ".jp2"])
def test_an_image_is_one_under_any_name(suffix: str, tmp_path: Path) -> None:
    done, data = cv2.imencode(suffix, picture())
    if not done:
        pytest.skip(f"this OpenCV writes no {suffix}")
    file = tmp_path / "made.mp4"
    file.write_bytes(data.tobytes())
    assert kind_of(file) == "image"
    (frame,) = open_source(file)
    assert frame.image is not None and frame.image.shape == (*SIZE, 3)


def test_what_a_folder_holds_beside_images_is_named(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        write_image(tmp_path / f"a{suffix}", picture())
    shutil.move(tmp_path / "a.jpg", tmp_path / "b.jfif")
    write_clip(tmp_path / "i.mp4")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / ".hidden").write_text("none")
    said: list[str] = []
    source = open_source(tmp_path, report=said.append)
    assert [frame.name for frame in source] == ["a.png", "b.jfif"]
    assert said == [f"{tmp_path}: left out what is no image: i.mp4 (a video), notes.txt"]
    assert [frame.name for frame in open_source(str(tmp_path / "*.*"))] == ["a.png", "b.jfif"]
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.jfif").unlink()
    with pytest.raises(UsageError, match=r"holds no images; it holds i.mp4 \(a video\), notes.txt"):
        open_source(tmp_path)


def ends(source: Source) -> tuple[int, str | None]:
    """Frames that were given, and what is said at the end."""
    frames = list(source)
    return sum(frame.image is not None for frame in frames), frames[-1].error


def test_the_end_of_a_video_is_compared_with_what_it_announced(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", 40)
    assert ends(open_source(whole)) == (40, None)
    data = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    given, error = ends(open_source(cut))
    assert 5 < given < 38
    assert (
        error == f"cut.avi: gave {given} of the 40 frames that it announces; {40 - given} are missing, it is cut "
        "short or damaged"
    )


def test_a_count_that_is_a_guess_is_no_reason_to_complain(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "clip.flv")
    source = dataclasses.replace(open_source(file), expected=14)  # as other writers' files of this length announce
    assert ends(source) == (12, None)
    given, error = ends(dataclasses.replace(source, expected=40))
    assert given == 12 and error is not None and "28 are missing" in error


@pytest.mark.parametrize("fps", [196.263, 239.76, 119.88, 29.97, 1000.0, 23.976023976])
def test_a_video_is_written_at_any_rate(fps: float, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoFile.open(path, path, fps, picture()) as video:
        for index in range(3):
            video.write(picture(index))
    assert open_source(path).fps == pytest.approx(fps, rel=1e-3)


def chunk(kind: bytes, content: bytes, flipped: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ flipped
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def test_files_that_are_odd_but_have_every_pixel_are_read(capfd: pytest.CaptureFixture[str]) -> None:
    png = cv2.imencode(".png", picture())[1].tobytes()
    odd = png[:33] + chunk(b"tEXt", b"a\0b", flipped=1) + png[33:]
    assert np.array_equal(decode_image(odd, "odd.png"), picture())
    position = png.index(b"IDAT") + 8
    bad = png[:position] + bytes([png[position] ^ 1]) + png[position + 1 :]
    with pytest.raises(ImageError, match="'IDAT' has a wrong checksum"):
        decode_image(bad, "bad.png")
    bmp = cv2.imencode(".bmp", picture())[1].tobytes()
    assert np.array_equal(decode_image(bmp[:2] + struct.pack("<I", len(bmp) + 4) + bmp[6:], "odd.bmp"), picture())
    with pytest.raises(ImageError, match="cut short"):
        decode_image(bmp[:-40], "cut.bmp")
    assert capfd.readouterr().err == ""


def test_floating_point_images_are_called_so(tmp_path: Path) -> None:
    file = tmp_path / "float.tif"
    cv2.imwrite(str(file), picture()[..., 0].astype(np.float32))
    with pytest.raises(ImageError, match="TIFF of floating-point numbers; save it with 8 or 16 bits"):
        read_image(file)
