"""Reading, checking and writing images: any file OpenCV knows becomes BGR uint8, or one clear line says why not."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..environment.opencv import require_opencv
from ..errors import ImageError, UsageError
from ..files import write_atomically
from .preprocess import PixelLayout, kernel_view

if TYPE_CHECKING:
    import cv2  # otherwise with the first image: a program that hands over arrays never loads it

# For images of so many channels, the layouts that they may be.
_LAYOUTS_OF_CHANNELS = {4: 'layout="bgra" or layout="rgba"', 2: 'layout="yuyv"'}

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Inside a JPEG scan 0xFF is no marker when 0x00 (stuffing), a restart number or another 0xFF (fill) follows.
_JPEG_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Of binary grey (P5) and colour (P6): width, height, largest value, each after white space or comments.
_PNM_HEADER = re.compile(rb"P([56])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s")


def read_image(path: str | os.PathLike[str], apply_orientation: bool = True, reduction: int = 1) -> NDArray[np.uint8]:
    """Read one image as BGR.

    Args:
        path: An image file. 16 bits are scaled to 8, grey and CMYK become colour, an alpha channel is
            dropped.
        apply_orientation: Turn the image upright as its EXIF orientation says.
        reduction: 1, 2, 4 or 8: a JPEG comes with sides of this share, rounded up, and is read faster.

    Returns:
        (height, width, 3) uint8, BGR.

    Raises:
        ImageError: If the file is missing, empty, cut short, or not an image.
    """
    given, path = os.fspath(path), Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        streams = "://" in given or any(sign in given for sign in "*?")
        hint = "; addresses and patterns are for Model.stream and yolor-edge run" if streams else ""
        raise ImageError(f"{given}: no such file{hint}") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, expected an image file; folders are for Model.stream") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_image(data, str(path), apply_orientation, reduction)


def decode_image(data: bytes, name: str, apply_orientation: bool = True, reduction: int = 1) -> NDArray[np.uint8]:
    """Decode the bytes of one image file as BGR, like `read_image`.

    A file that ends early is refused rather than filled up with grey. Damage inside the pixel data of a JPEG
    that is otherwise whole cannot be told from content and passes.

    Args:
        data: The whole file.
        name: What to call it in an error message.
        apply_orientation: Turn the image upright as its EXIF orientation says.
        reduction: 1, 2, 4 or 8: a JPEG comes with sides of this share, rounded up, and is read faster.

    Returns:
        (height, width, 3) uint8, BGR.

    Raises:
        ImageError: If the data is empty, cut short, or not an image.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); copy or download it again")
    _check_complete(data, name)
    if data.startswith(_PNG_SIGNATURE):
        data = _without_damaged_extras(data)
    require_opencv()
    import cv2

    # OpenCV 5 turns WebP by its EXIF data, 4.8 does not, so that is done here for both.
    is_webp = _is_webp(data)
    ignored = is_webp or not apply_orientation
    colour = cv2.IMREAD_COLOR
    if reduction > 1 and data.startswith(b"\xff\xd8"):
        colour = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[
            reduction
        ]
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION if ignored else colour
    buffer = np.frombuffer(data, np.uint8)
    try:
        with quiet_opencv():
            image = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise ImageError(f"{name}: cannot be decoded ({_reason(error)})") from error
    if image is None:
        if data[:4] in (b"II*\0", b"MM\0*") and _holds_floats(buffer):
            raise ImageError(f"{name}: is a TIFF of floating-point numbers; save it with 8 or 16 bits a channel")
        raise ImageError(f"{name}: damaged, or not an image in a format that is read (JPEG, PNG, BMP, TIFF, WebP)")
    if is_webp and apply_orientation:
        image = upright(np.asarray(image, np.uint8), _webp_orientation(data))
    return np.ascontiguousarray(image, np.uint8)


def _holds_floats(buffer: NDArray[np.uint8]) -> bool:
    import cv2

    with quiet_opencv():
        try:
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return False
    return image is not None and image.dtype.kind == "f"


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of (h, w, c) pixels, stored in an EXIF orientation from 1 to 8, turned as they are to be seen."""
    image = image.swapaxes(0, 1) if orientation >= 5 else image
    image = image[::-1] if orientation in (3, 4, 7, 8) else image
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image


def check_image(image: object, layout: PixelLayout = "bgr") -> None:
    """Refuse anything but a uint8 image in this layout.

    Raises:
        UsageError: Saying what it is instead.
    """
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"<image> must be a numpy array or the path of an image, got {type(image).__name__}", argument="image"
        )
    if image.dtype != np.uint8:
        raise UsageError(f"<image> must be uint8 with values 0 to 255, got {image.dtype}", argument="image")
    if layout not in get_args(PixelLayout):
        raise UsageError(
            f"<layout> must be one of {', '.join(get_args(PixelLayout))}, got {layout!r}", argument="layout"
        )
    channels = image.shape[2] if image.ndim == 3 else 1 if image.ndim == 2 else 0
    if layout == "nv12":
        if image.ndim != 2 or image.shape[0] % 3 or image.shape[1] % 2:
            raise UsageError(f"an NV12 image must have shape (height * 3 / 2, width), both even, got {image.shape}")
    elif layout == "yuyv":
        if channels != 2 or image.shape[1] % 2:
            raise UsageError(f"a YUYV image must have shape (height, width, 2), the width even, got {image.shape}")
    elif layout == "bgr":
        if image.ndim == 3 and channels in _LAYOUTS_OF_CHANNELS:
            raise UsageError(
                f"image has {channels} channels, shape {image.shape}; say what they are with "
                f"{_LAYOUTS_OF_CHANNELS[channels]}"
            )
        if not (image.ndim == 2 or channels == 3):
            raise UsageError(
                f"<image> must have shape (height, width, 3) in BGR order or (height, width), got {image.shape}",
                argument="image",
            )
    elif layout == "grey":
        if image.ndim != 2:
            raise UsageError(f"a grey image must have shape (height, width), got {image.shape}")
    elif image.ndim != 3 or channels != len(layout):
        raise UsageError(
            f"an image in {layout.upper()} order must have shape (height, width, {len(layout)}), got {image.shape}"
        )
    if image.size == 0:
        raise UsageError(f"<image> must have at least one pixel, got shape {image.shape}", argument="image")


def to_bgr(image: NDArray[np.uint8], layout: PixelLayout = "bgr") -> NDArray[np.uint8]:
    """An image to look at: (h, w, 3) uint8 BGR, or (h, w) grey; itself where it is that already.

    Args:
        image: As `check_image` wants it in this layout.
        layout: Of the image.
    """
    pixels, kernel_layout = kernel_view(image, layout)
    if kernel_layout == "bgr":
        return np.ascontiguousarray(pixels)
    require_opencv()
    import cv2

    code = cv2.COLOR_YUV2BGR_NV12 if kernel_layout == "nv12" else cv2.COLOR_YUV2BGR_YUY2
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), np.uint8)


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8], quality: int = 92) -> None:
    """Write a BGR (or grey) uint8 image so that a reader sees the whole file or none.

    Args:
        path: Where to; the suffix chooses the format.
        image: (height, width, 3) or (height, width) uint8.
        quality: Of JPEG and WebP, 1 to 100.

    Raises:
        UsageError: If the suffix names no format that can be written, or the image does not fit the format.
        OSError: If the disk refuses.
    """
    require_opencv()
    import cv2

    path = Path(path)
    options = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality]}
    options[".webp"] = [cv2.IMWRITE_WEBP_QUALITY, quality]
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UsageError(f"{path}: images are written as {', '.join(sorted(IMAGE_SUFFIXES))}")
    try:
        with quiet_opencv():
            done, encoded = cv2.imencode(suffix, image, options.get(suffix, []))
    except cv2.error as error:
        raise UsageError(f"{path}: an image of shape {image.shape} cannot be written ({_reason(error)})") from error
    if not done:
        raise UsageError(f"{path}: an image of shape {image.shape} cannot be written in this format")
    write_atomically(path, encoded.tobytes())


_SILENT = 0  # OpenCV's LOG_LEVEL_SILENT
# Read by OpenCV once, when it first opens a video or a stream. FFMPEG's messages have addresses in them.
_FFMPEG_LEVEL, _FFMPEG_SILENT = "OPENCV_FFMPEG_LOGLEVEL", "-8"
_quiet_lock = threading.Lock()
_quiet_depth = 0
_loud_level = 0
_sets_ffmpeg = False


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to stderr inside the block: what goes wrong is reported in our own words.

    The level is a global of OpenCV's; it is lowered when the first thread enters and restored when the last
    leaves. A level that the user set for FFMPEG stays.
    """
    global _quiet_depth, _loud_level, _sets_ffmpeg
    require_opencv()
    import cv2

    logging: Any = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2  # OpenCV 5, else 4
    with _quiet_lock:
        if _quiet_depth == 0:
            _loud_level = logging.getLogLevel()
            logging.setLogLevel(_SILENT)
            _sets_ffmpeg = _FFMPEG_LEVEL not in os.environ
            if _sets_ffmpeg:
                os.environ[_FFMPEG_LEVEL] = _FFMPEG_SILENT
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                logging.setLogLevel(_loud_level)
                if _sets_ffmpeg:
                    os.environ.pop(_FFMPEG_LEVEL, None)


def _reason(error: cv2.error) -> str:
    """The last, human part of an OpenCV message, without the path of the source file that raised it."""
    text = getattr(error, "err", None) or str(error)
    return " ".join(str(text).split())


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _webp_orientation(data: bytes) -> int:
    """The orientation in the EXIF chunk of a whole WebP, 1 (upright) where there is none."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        position += 8
        if kind == b"EXIF":
            return exif_orientation(data[position : position + length].removeprefix(b"Exif\0\0"))
        position += length + length % 2
    return 1


def exif_orientation(exif: bytes) -> int:
    """The orientation in the first directory of EXIF data, 1 where it is not to be found."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):  # orientation, 16 bits
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it ends early
        return 1
    return 1


def _check_complete(data: bytes, name: str) -> None:
    """Refuse a file that ends before its format says it does.

    Raises:
        ImageError: If the file is cut short, or a checksum inside it is wrong.
    """
    if data.startswith(b"\xff\xd8"):
        complaint = _jpeg_complaint(data)
    elif data.startswith(_PNG_SIGNATURE):
        complaint = _png_complaint(data)
    elif _is_webp(data):
        complaint = _size_complaint(struct.unpack("<I", data[4:8])[0] + 8, data)
    elif data.startswith(b"BM") and len(data) >= 34:
        complaint = _size_complaint(_bmp_size(data), data)
    elif pnm := _PNM_HEADER.match(data):  # OpenCV 4.8 fills up what is missing
        channels, pixels = 3 if pnm[1] == b"6" else 1, int(pnm[2]) * int(pnm[3])
        complaint = _size_complaint(pnm.end() + pixels * channels * (2 if int(pnm[4]) > 255 else 1), data)
    else:
        complaint = None
    if complaint:
        raise ImageError(f"{name}: {complaint}; copy or download it again")


def _without_damaged_extras(data: bytes) -> bytes:
    """A whole PNG without chunks that an image can do without and whose checksum is wrong: libpng complains of them."""
    position, kept = len(_PNG_SIGNATURE), [_PNG_SIGNATURE]
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        chunk = data[position : position + 12 + length]
        if not kind[0] & 0x20 or zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]:
            kept.append(chunk)
        position += len(chunk)
    return data if sum(map(len, kept)) == position else b"".join(kept)


def _bmp_size(data: bytes) -> int:
    """Bytes up to the last pixel of a BMP without compression; for others what the file says, which is often off."""
    announced, start, width, height, bits, compression = struct.unpack("<2xI4xI4xii2xHI", data[:34])
    if compression not in (0, 3):
        return announced
    return start + abs(height) * ((abs(width) * bits + 31) // 32 * 4)


def _size_complaint(announced: int, data: bytes) -> str | None:
    return f"cut short, {len(data)} of {announced} bytes are there" if len(data) < announced else None


def _jpeg_complaint(data: bytes) -> str | None:
    """Walk the segments to the end-of-image marker, past thumbnails inside them; what follows is ignored."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None  # not the structure we know: let the decoder judge
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            return None
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            position += 2
            continue
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
        if marker == 0xDA:  # a scan: entropy-coded data follows until the next real marker
            found = _JPEG_MARKER_AFTER_SCAN.search(data, position)
            if found is None:
                break
            position = found.start()
    if data[position : position + 2] == b"\xff\xd9":
        return None
    return f"the JPEG is cut short, its {len(data)} bytes have no end-of-image marker"


def _png_complaint(data: bytes) -> str | None:
    """Walk the chunks to IEND and check each checksum, so that libpng never has to complain on stderr."""
    position = len(_PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            break
        is_needed = not kind[0] & 0x20  # in a small letter begins what an image can do without
        if is_needed and zlib.crc32(data[position + 4 : end - 4]) != struct.unpack(">I", data[end - 4 : end])[0]:
            return f"the PNG is damaged, chunk {kind.decode('latin-1')!r} has a wrong checksum"
        if kind == b"IEND":
            return None
        position = end
    return f"the PNG is cut short, its {len(data)} bytes have no end chunk"
