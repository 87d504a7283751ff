"""What frames of a video are encoded with: H.264 by PyAV or the ffmpeg that is there, else what OpenCV brings."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..environment.install import install_command
from ..environment.opencv import name_for_opencv
from ..errors import ImageError
from ..images.image_files import quiet_opencv
from ..progress import Say

if TYPE_CHECKING:
    import av.audio.stream

# Sound that an MP4 may hold as it is.
_CODECS_OF_SOUND = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
_TICKS = 90_000  # a second, of the times of frames
_PRESET, _QUALITY = "veryfast", "20"


class Encoder(Protocol):
    """Takes the frames of one video, all of one size with even sides."""

    def write(self, frame: NDArray[np.uint8], times: int, seconds: float | None) -> int:
        """Append a frame, (h, w, 3) uint8 BGR, and return how many frames it became.

        Args:
            frame: What is to be seen.
            times: How many frames of an even rate it stands for.
            seconds: When it is to be seen, from the beginning of the video; None where the rate alone decides.
        """
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def open_encoder(
    temporary: Path, path: Path, fps: float, size: tuple[int, int], sound: Path | None, report: Say | None
) -> Encoder:
    """The best encoder at hand, writing an MP4.

    Args:
        temporary: The file to write.
        path: What it is called in messages.
        fps: Frames per second.
        size: (height, width), both even.
        sound: A video whose sound goes into the file, as far as its frames do; None for silence.
        report: Called with one line where the file will lack something that it could have.

    Raises:
        ImageError: If nothing can write it.
    """
    say = report or (lambda line: None)
    if importlib.util.find_spec("av") is not None:
        import av

        if "libx264" in av.codecs_available:
            return _AvEncoder(temporary, path, fps, size, sound, say)
    program = shutil.which("ffmpeg")
    if (
        program is not None
        and b"libx264"
        in subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, stdin=subprocess.DEVNULL).stdout
    ):
        return _FfmpegEncoder(program, temporary, path, fps, size, sound)
    without = " and has no sound" if sound is not None else ""
    say(
        f"{path}: is written as MPEG-4 Part 2, which browsers do not play,{without and without + ','} because neither "
        f"PyAV nor ffmpeg is installed; for H.264: {install_command('pyav')}"
    )
    return _OpencvEncoder(temporary, path, fps, size)


class _AvEncoder:
    """H.264 with the times that frames have, and the sound beside it."""

    def __init__(
        self, temporary: Path, path: Path, fps: float, size: tuple[int, int], sound: Path | None, say: Say
    ) -> None:
        import av

        self._fps = fps
        self._last, self._count = -1, 0
        self._output = av.open(os.fspath(temporary), "w", format="mp4", options={"movflags": "+faststart"})
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = self._output.add_stream("libx264", rate=rate, options={"preset": _PRESET, "crf": _QUALITY})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        # Said in the file, because players guess otherwise, by the height.
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 to 235
        self._stream = stream
        self._sound: _Sound | None = None
        if sound is not None:
            self._sound = _Sound.of(sound, path, self._output, say)

    def write(self, frame: NDArray[np.uint8], times: int, seconds: float | None) -> int:
        from av import VideoFrame

        self._count += times
        if seconds is None:
            seconds = (self._count - 1) / self._fps
        self._last = max(round(seconds * _TICKS), self._last + 1)
        image = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        image = image.reformat(format="yuv420p", dst_colorspace="ITU709")
        image.pts, image.time_base = self._last, Fraction(1, _TICKS)
        self._output.mux(self._stream.encode(image))
        if self._sound is not None:
            self._sound.copy_until(self._last / _TICKS)
        return 1

    def close(self) -> None:
        try:
            self._output.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.copy_until((self._last / _TICKS) + 1 / self._fps)
                self._sound.close()
        finally:
            self._output.close()


class _Sound:
    """The sound of one video, copied into another beside its frames."""

    def __init__(self, source: Any, stream: av.audio.stream.AudioStream, output: Any) -> None:
        self._source, self._output = source, output
        self._target = output.add_stream_from_template(stream)
        frames = source.streams.video
        # Frames count from the first of them on, and so does the sound.
        self._start = float(frames[0].start_time * frames[0].time_base) if frames and frames[0].start_time else 0.0
        self._packets: Iterator[Any] = iter(source.demux(stream))
        self._next: Any = next(self._packets, None)

    @classmethod
    def of(cls, path: Path, name: Path, output: Any, say: Say) -> _Sound | None:
        """That of a file, if it has any that an MP4 can hold."""
        import av
        from av.error import FFmpegError

        try:
            source = av.open(os.path.abspath(path))
        except (FFmpegError, UnicodeError, ValueError):
            return None  # OpenCV reads it, and that is what counts
        streams = source.streams.audio
        if streams and streams[0].codec_context.name in _CODECS_OF_SOUND:
            try:
                return cls(source, streams[0], output)
            except (FFmpegError, ValueError):
                pass
        if streams:
            codec = streams[0].codec_context.name
            say(f"{name}: is without sound, because an MP4 cannot hold sound in {codec} as it is")
        source.close()
        return None

    def copy_until(self, seconds: float) -> None:
        """Copy what is heard before this moment."""
        while self._next is not None:
            packet = self._next
            if packet.pts is not None:
                begin = float(packet.pts * packet.time_base) - self._start
                if begin > seconds:
                    return
                if begin > -1:  # some formats begin with a little before the first frame
                    shift = round(self._start / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, (packet.dts or packet.pts) - shift
                    packet.stream = self._target
                    self._output.mux(packet)
            self._next = next(self._packets, None)

    def close(self) -> None:
        self._source.close()


class _FfmpegEncoder:
    """H.264 at an even rate, by the program."""

    def __init__(
        self, program: str, temporary: Path, path: Path, fps: float, size: tuple[int, int], sound: Path | None
    ) -> None:
        self._path = path
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the encoder
        height, width = size
        frames = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", f"{fps:.6g}", "-i", "pipe:0"]
        beside = [] if sound is None else ["-i", f"file:{os.path.abspath(sound)}", "-map", "0:v", "-map", "1:a?"]
        beside += [] if sound is None else ["-c:a", "copy", "-shortest"]
        colours = ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-color_primaries", "bt709"]
        video = ["-c:v", "libx264", "-preset", _PRESET, "-crf", _QUALITY, "-pix_fmt", "yuv420p", "-color_trc", "bt709"]
        self._process = subprocess.Popen(
            [
                *(program, "-hide_banner", "-loglevel", "error", "-y", *frames, *beside, *video, *colours),
                *("-movflags", "+faststart", "-f", "mp4", f"file:{os.path.abspath(temporary)}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C is for this program, which then finishes the file
        )

    def write(self, frame: NDArray[np.uint8], times: int, seconds: float | None) -> int:
        assert self._process.stdin is not None
        pixels = np.ascontiguousarray(frame)
        for _ in range(times):
            with contextlib.suppress(BrokenPipeError):  # the reason is told at the end
                self._process.stdin.write(pixels.data)
        return times

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        self._said.close()
        if code:
            raise ImageError(f"{self._path}: ffmpeg could not write it ({said[-1] if said else f'exit code {code}'})")


class _OpencvEncoder:
    """MPEG-4 Part 2 at an even rate: every OpenCV with video writes that."""

    def __init__(self, temporary: Path, path: Path, fps: float, size: tuple[int, int]) -> None:
        import cv2

        height, width = size
        with quiet_opencv(), name_for_opencv(temporary) as name:
            self._writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), _writable_rate(fps), (width, height))
        if not self._writer.isOpened():
            raise ImageError(f"{path}: this OpenCV cannot write MP4 video; write images of single frames instead")

    def write(self, frame: NDArray[np.uint8], times: int, seconds: float | None) -> int:
        for _ in range(times):
            self._writer.write(frame)
        return times

    def close(self) -> None:
        self._writer.release()


def _writable_rate(fps: float) -> float:
    """The nearest rate that MPEG-4 Part 2 holds, as a fraction of which neither part is above 65535."""
    return next((rate for digits in (3, 2, 1) if (rate := round(fps, digits)) * 10**digits <= 65535), round(fps))
