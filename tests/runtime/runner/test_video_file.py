"""Videos that are written: whole, in one size, as long as they should be, with sound, and such as browsers play."""

from __future__ import annotations

import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime.drawing.lettering import PAPER
from yolor_edge.runtime.errors import ImageError
from yolor_edge.runtime.runner import video_encoders
from yolor_edge.runtime.runner.video_file import VideoFile, _fitted
from yolor_edge.runtime.sources.sources import open_source

ENCODERS = ("pyav", "ffmpeg", "opencv")


def only(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing but this encoder were there."""
    if encoder == "pyav":
        pytest.importorskip("av")
    elif encoder == "ffmpeg" and shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg")
    if encoder != "pyav":
        monkeypatch.setattr(video_encoders.importlib.util, "find_spec", lambda name: None)
    if encoder == "opencv":
        monkeypatch.setattr(video_encoders.shutil, "which", lambda name: None)


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    only(request.param, monkeypatch)
    return request.param


def moving(index: int) -> np.ndarray:
    image = np.full((48, 64, 3), 60, np.uint8)
    image[10:30, 2 * index : 2 * index + 20] = (30, 40, 220)
    return image


def test_a_frame_may_stand_for_dropped_ones(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "a.mp4"
    frame = np.full((64, 96, 3), 128, np.uint8)
    said: list[str] = []
    with VideoFile.open(path, path, 10, frame, None, said.append) as video:
        video.write(frame)
        video.write(frame[:32], 3)
    times = [read.position_s for read in open_source(path)]
    assert times == pytest.approx([0.0, 0.3] if encoder == "pyav" else [0.0, 0.1, 0.2, 0.3])
    assert [f"{path}: is written as MPEG-4 Part 2" in line for line in said] == [True] * (encoder == "opencv")


def test_what_is_written_is_what_was_drawn(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "a.mp4"
    with VideoFile.open(path, path, 25, moving(0)) as video:
        for index in range(12):
            video.write(moving(index), 1, index / 25)
    frames = list(open_source(path))
    assert len(frames) == 12
    for index, frame in enumerate(frames):
        assert frame.image is not None
        assert (
            np.abs(frame.image.astype(int) - moving(index)).mean() < 6
        )  # colours too: players are told which they are


@pytest.fixture
def with_sound(tmp_path: Path) -> Path:
    """A video at an uneven rate with a tone."""
    av = pytest.importorskip("av")
    path = tmp_path / "tone.mp4"
    with av.open(str(path), "w") as output:
        video, tone = output.add_stream("mpeg4", rate=25), output.add_stream("aac", rate=44100)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(moving(index), format="bgr24")
            frame.pts = index if index < 10 else 10 + 3 * (index - 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        samples = np.sin(np.arange(44100 * 2, dtype=np.float32) / 20)[None]
        for start in range(0, samples.shape[1], 1024):
            piece = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = 44100, start
            output.mux(tone.encode(piece))
        output.mux(tone.encode(None))
    return path


@pytest.mark.parametrize("frames", [20, 8])
def test_sound_and_times_are_those_of_the_source(with_sound: Path, tmp_path: Path, frames: int) -> None:
    import av

    path = tmp_path / "out.mp4"
    read = list(open_source(with_sound))[:frames]
    with VideoFile.open(path, path, 25, moving(0), with_sound) as video:
        for frame in read:
            assert frame.image is not None
            video.write(frame.image, 1, frame.position_s)
    assert [frame.position_s for frame in open_source(path)] == pytest.approx([frame.position_s for frame in read])
    with av.open(str(with_sound)) as source, av.open(str(path)) as made:
        assert made.streams.video[0].codec_context.name == "h264" and made.streams.audio[0].codec_context.name == "aac"
        before, after = (
            [bytes(packet) for packet in container.demux(audio=0) if packet.size] for container in (source, made)
        )
        length = float(made.streams.audio[0].duration * made.streams.audio[0].time_base)
    assert after == before[: len(after)]  # copied, not made anew
    last = read[-1].position_s
    assert last is not None
    assert length == pytest.approx(last + 1 / 25, abs=0.06)  # and no longer than the frames
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # so that it plays before it is whole


def test_sound_that_an_mp4_cannot_hold_is_told_of(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    source, path, said = tmp_path / "tone.avi", tmp_path / "out.mp4", list[str]()
    with av.open(str(source), "w") as output:
        video, tone = output.add_stream("mpeg4", rate=25), output.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(moving(0), format="bgr24")
        output.mux(video.encode(frame))
        output.mux(video.encode(None))
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        piece.sample_rate = 8000
        output.mux(tone.encode(piece))
    with VideoFile.open(path, path, 25, moving(0), source, said.append) as made:
        made.write(moving(0))
    assert said == [f"{path}: is without sound, because an MP4 cannot hold sound in pcm_s16le as it is"]
    assert len(list(open_source(path))) == 1


def test_what_ffmpeg_complains_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only("ffmpeg", monkeypatch)
    path = tmp_path / "no" / "folder.mp4"
    message = r"folder.mp4: ffmpeg could not write it \(.*No such file or directory"
    with pytest.raises(ImageError, match=message), VideoFile.open(path, path, 25, moving(0)) as video:
        video.write(moving(0))


def test_it_plays_in_a_browser(tmp_path: Path, encoder: str) -> None:
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None or encoder == "opencv":
        pytest.skip("there is no browser, or it is not expected to play this")
    path = tmp_path / "a.mp4"
    with VideoFile.open(path, path, 25, moving(0)) as video:
        for index in range(20):
            video.write(moving(index))
    said: Queue[str] = Queue()

    class Handler(SimpleHTTPRequestHandler):
        """Serves the page and the video, and hears how it went."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def do_POST(self) -> None:
            said.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    (tmp_path / "page.html").write_text(
        "<video muted autoplay src='a.mp4'></video><script>"
        "const v = document.querySelector('video'), say = text => fetch('/', {method: 'POST', body: text});"
        "v.onended = () => say(`played ${v.videoWidth}x${v.videoHeight}`);"
        "v.onerror = () => say(`error ${v.error.message}`);</script>"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--autoplay-policy=no-user-gesture-required", f"http://127.0.0.1:{server.server_port}/page.html"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                assert said.get(timeout=60) == "played 64x48"
            finally:
                process.kill()
                server.shutdown()


def test_frames_of_another_size_are_fitted_whole() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    fitted = _fitted(white, (100, 60))
    assert fitted.shape == (60, 100, 3)
    assert np.all(fitted[:, 20:80] == 255)
    assert np.all(fitted[:, :20] == PAPER)
    assert np.all(fitted[:, 80:] == PAPER)
    assert _fitted(white, (50, 50)) is white
    assert _fitted(np.zeros((1, 900, 3), np.uint8), (10, 10)).shape == (10, 10, 3)
