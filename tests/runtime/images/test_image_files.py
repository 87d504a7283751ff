"""Reading images: whatever is readable comes out as BGR uint8, everything else as one line."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.errors import ImageError, UsageError
from yolor_edge.runtime.images.image_files import decode_image, quiet_opencv, read_image, write_image

DATA = Path(__file__).resolve().parents[2] / "data"


def picture(height: int = 24, width: int = 36) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 5 % 256, columns * 6 % 256, (rows + columns) * 3 % 256], axis=2).astype(np.uint8)


def encoded(suffix: str, image: NDArray[np.uint8] | NDArray[np.uint16], *options: int) -> bytes:
    done, data = cv2.imencode(suffix, image, list(options))
    assert done
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_come_back_equal(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix, picture()))
    assert np.array_equal(read_image(path), picture())


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_come_back_close(suffix: str) -> None:
    image = decode_image(encoded(suffix, picture()), "a")
    assert image.shape == picture().shape
    assert np.abs(image.astype(int) - picture()).mean() < 8


def test_16_bit_is_scaled_to_8() -> None:
    assert np.array_equal(decode_image(encoded(".png", picture().astype(np.uint16) * 257), "a"), picture())


def test_16_bit_grey_becomes_three_equal_channels() -> None:
    grey = picture()[:, :, 1]
    image = decode_image(encoded(".png", grey.astype(np.uint16) * 257), "a")
    assert np.array_equal(image, np.dstack([grey] * 3))


def test_alpha_is_dropped() -> None:
    rgba = np.dstack([picture(), np.full((24, 36), 7, np.uint8)])
    assert np.array_equal(decode_image(encoded(".png", rgba), "a"), picture())


def test_cmyk_jpeg_becomes_bgr() -> None:
    image = read_image(DATA / "cmyk.jpg")
    assert image.shape == (8, 16, 3)
    assert np.abs(image[4, 3].astype(int) - (40, 40, 200)).max() < 12
    assert np.abs(image[4, 12].astype(int) - (210, 60, 30)).max() < 12


def test_exif_orientation_is_applied_or_left_alone() -> None:
    assert read_image(DATA / "orientation6.jpg").shape == (16, 8, 3)
    assert read_image(DATA / "orientation6.jpg", apply_orientation=False).shape == (8, 16, 3)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_of_a_webp_is_that_of_a_png(orientation: int, order: str, prefix: bytes) -> None:
    """OpenCV turns PNG in every version and WebP only in new ones, so that WebP is turned here."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    exif = mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    image = picture(24, 40)
    png = encoded(".png", image)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    webp = encoded(".webp", image, cv2.IMWRITE_WEBP_QUALITY, 101)  # without loss
    exif = prefix + exif
    extended = struct.pack("<4sIIHBHB", b"VP8X", 10, 8, 39, 0, 23, 0) + webp[12:]
    body = b"WEBP" + extended + struct.pack("<4sI", b"EXIF", len(exif)) + exif
    turned = b"RIFF" + struct.pack("<I", len(body)) + body
    assert np.array_equal(decode_image(turned, "a"), decode_image(png[:33] + chunk + png[33:], "a"))
    assert np.array_equal(decode_image(turned, "a", apply_orientation=False), image)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\0\0\0", b"MM\0*\0\0\0\x08\0\x09", b"none at all"])
def test_damaged_exif_data_of_a_webp_is_no_error(exif: bytes) -> None:
    webp = encoded(".webp", picture())
    body = webp[8:] + struct.pack("<4sI", b"EXIF", len(exif)) + exif + b"\0" * (len(exif) % 2)
    assert decode_image(b"RIFF" + struct.pack("<I", len(body)) + body, "a").shape == picture().shape


@pytest.mark.parametrize("size", [(1, 1), (10, 20000)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    assert decode_image(encoded(".png", np.zeros((*size, 3), np.uint8)), "a").shape == (*size, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_a_file_cut_short_is_refused_and_nothing_is_printed(
    suffix: str, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = encoded(suffix, noise)
    with pytest.raises(ImageError, match=r"^broken: [^\n]+$"):
        decode_image(data[: max(3, int(len(data) * kept))], "broken")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [
        (),
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    ],
)
def test_jpeg_without_its_end_marker_is_cut_short_and_with_more_behind_it_is_not(
    options: tuple[int, ...],
) -> None:
    data = encoded(".jpg", picture(), *options)
    whole = decode_image(data, "a")
    with pytest.raises(ImageError, match="cut short"):
        decode_image(data[:-2], "a")
    assert np.array_equal(decode_image(data + b"appended by a camera", "a"), whole)


def test_a_thumbnail_inside_does_not_pass_for_the_end() -> None:
    thumbnail = encoded(".jpg", picture(8, 8))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encoded(".jpg", picture())
    with_thumbnail = data[:2] + segment + data[2:]
    assert decode_image(with_thumbnail, "a").shape == (24, 36, 3)
    with pytest.raises(ImageError, match="cut short"):
        decode_image(with_thumbnail[: 2 + len(segment) + 200], "a")


def test_png_with_a_flipped_bit_names_the_chunk(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded(".png", picture()))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError, match="a: the PNG is damaged, chunk 'IDAT' has a wrong checksum"):
        decode_image(bytes(data), "a")
    assert capfd.readouterr() == ("", "")


def test_empty_missing_folder_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is no image")
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"text\.jpg: damaged, or not an image"):
        read_image(tmp_path / "text.jpg")


def test_a_size_beyond_the_decoder_is_one_line() -> None:
    data = bytearray(encoded(".bmp", np.zeros((2, 2, 3), np.uint8)))
    data[18:26] = (2**24).to_bytes(4, "little") * 2
    with pytest.raises(ImageError, match=r"^huge: [^\n]+$"):
        decode_image(bytes(data), "huge")


def test_quiet_restores_the_level_even_across_threads() -> None:
    logging: Any = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2
    before = logging.getLogLevel()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with quiet_opencv():
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=hold)
    with quiet_opencv():
        thread.start()
        assert entered.wait(5)
    assert logging.getLogLevel() == 0
    leave.set()
    thread.join()
    assert logging.getLogLevel() == before


def test_write_then_read(tmp_path: Path) -> None:
    write_image(tmp_path / "made" / "a.png", picture())
    assert np.array_equal(read_image(tmp_path / "made" / "a.png"), picture())
    assert os.listdir(tmp_path / "made") == ["a.png"]


def test_writing_refuses_unknown_formats_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.xyz: images are written as"):
        write_image(tmp_path / "a.xyz", picture())
    with pytest.raises(UsageError, match="cannot be written"):
        write_image(tmp_path / "a.jpg", np.zeros((2, 70000, 3), np.uint8))
    assert not list(tmp_path.iterdir())
