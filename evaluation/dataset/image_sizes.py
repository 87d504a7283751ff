"""Width and height of image files from their first bytes, upright, without decoding a pixel."""

from __future__ import annotations

import struct
from pathlib import Path

from ...runtime.errors import ImageError
from ...runtime.images.image_files import exif_orientation, read_image

_HEAD = 1 << 16
# Start-of-frame markers of JPEG: all of 0xC0 to 0xCF but the tables DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of the image in `path` as `read_image` gives it, turned upright by its EXIF data.

    Raises:
        ImageError: If it is missing or no image.
    """
    try:
        with path.open("rb") as stream:
            found = header_of(stream.read(_HEAD))
            if found is None and stream.tell() == _HEAD:  # behind a long colour profile or thumbnail
                stream.seek(0)
                found = header_of(stream.read(1 << 24))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found is None:  # a format whose header is not known here, or a damaged file
        height, width = read_image(path).shape[:2]
        return height, width
    height, width, orientation = found
    return (width, height) if orientation >= 5 else (height, width)


def header_of(head: bytes) -> tuple[int, int, int] | None:
    """Height and width as stored, and EXIF orientation, of a JPEG, PNG or BMP that begins so; None where unknown."""
    if head.startswith(b"\xff\xd8"):
        return _jpeg_header(head)
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) > 24:
        if b"eXIf" in head:  # seldom: let the decoder say which way up
            return None
        width, height = struct.unpack(">II", head[16:24])
        return height, width, 1
    if head.startswith(b"BM") and len(head) >= 26 and struct.unpack("<I", head[14:18])[0] >= 40:
        width, height = struct.unpack("<ii", head[18:26])
        return abs(height), width, 1
    return None


def _jpeg_header(head: bytes) -> tuple[int, int, int] | None:
    position, orientation = 2, 1
    while position + 9 <= len(head):
        if head[position] != 0xFF:
            return None
        marker = head[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        (length,) = struct.unpack(">H", head[position + 2 : position + 4])
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", head[position + 5 : position + 9])
            if not height or not width:
                return None
            return height, width, orientation
        if marker == 0xE1 and head[position + 4 : position + 10] == b"Exif\0\0":
            orientation = exif_orientation(head[position + 10 : position + 2 + length])
        position += 2 + length
    return None
