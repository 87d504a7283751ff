"""Whole sources through a bundle: images, folders, globs, videos, bad ones too; nothing half-written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.drawing import DrawOptions, draw
from yolor_edge.runtime.environment.opencv_build import opencv_build
from yolor_edge.runtime.errors import ImageError, UsageError
from yolor_edge.runtime.images.image_files import quiet_opencv, read_image, write_image
from yolor_edge.runtime.model import load
from yolor_edge.runtime.options import LoadOptions, PredictOptions
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.runner import outputs as run_output
from yolor_edge.runtime.runner import runner as run_module
from yolor_edge.runtime.runner.outputs import RunOptions
from yolor_edge.runtime.runner.runner import RunLines, RunSummary
from yolor_edge.runtime.runner.video_file import VideoFile
from yolor_edge.runtime.sources import sources
from yolor_edge.runtime.sources.capture import CameraOptions
from yolor_edge.runtime.sources.sources import open_source

from ..sources.cameras import FakeCamera, mjpeg_server
from ..tiny_bundle import coloured_patch

PATCH = (16, 32, 48, 64)


def run(bundle: Any, source: Any, out: Path, tasks: Any = None, *, camera: Any = None, **chosen: Any) -> RunSummary:
    """`runner.run` with all options by name, and report=... for lines of progress."""

    def of(kind: type) -> Any:
        return kind(**{name: chosen.pop(name) for name in list(chosen) if name in kind.__dataclass_fields__})

    report, seconds = chosen.pop("report", None), chosen.pop("report_seconds", None)
    lines = None if report is None else RunLines(report, seconds, chosen.pop("report_width", None))
    load, options = of(LoadOptions), of(RunOptions)
    predict = PredictOptions(tasks, caption=CaptionOptions(chosen.pop("beam_size", 3)), **chosen)
    return run_module.run(bundle, source, out, options, load=load, predict=predict, camera=camera, progress=lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good images with a truncated and an empty one between them, and a file that is no image."""
    made = tmp_path / "in"
    write_image(made / "a.jpg", coloured_patch((64, 96), PATCH, "red"))
    write_image(made / "d.PNG", coloured_patch((100, 80), PATCH, "blue"))
    whole = (made / "a.jpg").read_bytes()
    (made / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (made / "c.png").touch()
    (made / "notes.txt").write_text("not an image")
    return made


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def names_in(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def write_video(path: Path, frames: int = 7, fps: float = 12.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (96, 64))
    for i in range(frames):
        writer.write(coloured_patch((64, 96), (16, 10 + 8 * i, 48, 30 + 8 * i), "red"))
    writer.release()
    return path


def test_a_folder_with_bad_pictures_does_the_others(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    summary = run(tiny_bundle, folder, tmp_path / "out", threads=1, report=said.append)
    assert summary.exit_code == 1
    assert summary.done == 2
    assert [name for name, _ in summary.failed] == ["b.jpg", "c.png"]
    assert "cut short" in summary.failed[0][1]
    assert "empty" in summary.failed[1][1]
    assert names_in(tmp_path / "out") == ["a.jpg", "d.PNG", "results.jsonl"]
    good, truncated, empty, other = lines_of(tmp_path / "out")
    assert good["source"] == "a.jpg"
    assert good["drawing"] == "a.jpg"
    assert good["caption"]["text"] == "a red thing here"
    assert {found["class_name"] for found in good["objects"]} == {"red"}
    assert truncated["source"] == "b.jpg"
    assert "cut short" in truncated["error"]
    assert empty["source"] == "c.png"
    assert other["image_size"] == [100, 80]
    assert read_image(tmp_path / "out" / "a.jpg").shape[1] > 1200  # enlarged, two panels side by side
    assert len(said) == 5
    assert said[0] == f"{folder}: left out what is no image: notes.txt"
    assert said[2].startswith("[2/4] skipped: ")
    assert '"a red thing here"' in said[1]
    assert capfd.readouterr() == ("", "")


def test_all_good_exits_with_0(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    summary = run(str(tiny_bundle.path), folder / "a.jpg", tmp_path / "out", threads=1)
    assert summary.exit_code == 0
    assert summary.to_json()["done"] == 1
    assert summary.files == (tmp_path / "out" / "results.jsonl", tmp_path / "out" / "a.jpg")


def test_tasks_thresholds_and_outputs_can_be_chosen(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    run(
        tiny_bundle,
        folder / "a.jpg",
        tmp_path / "o",
        {"boxes"},
        threads=1,
        score_threshold=0.9,
        drawings=False,
    )
    (line,) = lines_of(tmp_path / "o")
    assert names_in(tmp_path / "o") == ["results.jsonl"]
    assert "semantic" not in line
    assert "caption" not in line
    assert "drawing" not in line
    assert min(found["score"] for found in line["objects"]) > 0.9
    run(tiny_bundle, folder / "a.jpg", tmp_path / "p", {"caption"}, threads=1, jsonl=False, beam_size=1)
    assert names_in(tmp_path / "p") == ["a.jpg"]


def test_a_glob_keeps_folders_apart(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_image(tmp_path / "in" / name / "same.tif", coloured_patch((64, 96), PATCH))
    summary = run(tiny_bundle, str(tmp_path / "in" / "*" / "*.tif"), tmp_path / "out", {"boxes"}, threads=1)
    assert summary.done == 2
    assert names_in(tmp_path / "out") == ["results.jsonl", "x/same.tif.png", "y/same.tif.png"]


def test_a_video_becomes_a_video(tiny_bundle: Bundle, tmp_path: Path) -> None:
    summary = run(tiny_bundle, write_video(tmp_path / "clip.mp4"), tmp_path / "out", threads=1)
    assert summary.done == 7
    assert summary.exit_code == 0
    assert names_in(tmp_path / "out") == ["clip.mp4", "results.jsonl"]
    written = open_source(tmp_path / "out" / "clip.mp4")
    assert written.expected == 7
    assert written.fps == pytest.approx(12)
    frames = [frame.image for frame in written]
    assert len(frames) == 7
    assert frames[0] is not None
    assert frames[0].shape[1] > 1200
    assert [line["index"] for line in lines_of(tmp_path / "out")] == list(range(7))


def test_max_frames_stops_early(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4")
    assert run(tiny_bundle, video, tmp_path / "out", {"boxes"}, threads=1, max_frames=3).done == 3
    with pytest.raises(UsageError, match="max_frames must be at least 1, got 0"):
        run(tiny_bundle, video, tmp_path / "out", max_frames=0)


def test_a_damaged_video_is_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(ImageError, match=r"clip\.mp4: cannot be opened as a video"):
        run(tiny_bundle, tmp_path / "clip.mp4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interrupting_a_camera_ends_the_run_properly(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    class Endless(FakeCamera):
        def read(self) -> tuple[bool, Any]:
            return True, coloured_patch((64, 96), PATCH)

    monkeypatch.setattr(sources, "open_capture", lambda *_: Endless())
    summary = run(tiny_bundle, 0, tmp_path / "out", {"boxes"}, threads=1, report=interrupt)
    assert summary.done >= 1
    assert summary.exit_code == 0
    assert names_in(tmp_path / "out") == ["camera-0.mp4", "results.jsonl"]


@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_interrupting_files_keeps_what_was_answered(
    kind: str, tiny_bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if "skipped" in line or len(said) == 3:
            raise KeyboardInterrupt

    source = write_video(tmp_path / "clip.mp4") if kind == "video" else folder
    out = tmp_path / "out"
    summary = run(tiny_bundle, source, out, {"boxes"}, threads=1, report=interrupt, report_seconds=0)
    assert summary.exit_code == 130
    assert summary.to_json()["interrupted"] is True
    lines = lines_of(out)
    assert len(lines) == (3 if kind == "video" else 2)
    if kind == "video":
        assert names_in(out) == ["clip.mp4", "results.jsonl"]
        assert open_source(out / "clip.mp4").expected == 3
    else:
        assert names_in(out) == ["a.jpg", "results.jsonl"]


def test_interrupting_a_file_before_its_first_answer_leaves_nothing(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_output.OutputWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, write_video(tmp_path / "clip.mp4"), tmp_path / "out", {"boxes"}, threads=1)
    assert names_in(tmp_path / "out") == []


def test_lines_of_answers_are_not_too_many_and_not_too_long(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    for i in range(4):
        write_image(folder / f"e{i}.png", coloured_patch((64, 96), PATCH, "red"))
    said: list[str] = []
    run(
        *(tiny_bundle, folder, tmp_path / "out"),
        threads=1,
        drawings=False,
        report=said.append,
        report_seconds=1000,
        report_width=30,
    )
    left_out, first, *skipped, last = said
    assert left_out.endswith(": notes.txt")
    assert first.startswith("[1/8] a.jpg: ") and last.startswith("[8/8] e3.png: ")
    assert len(first) == len(last) == 30 and last.endswith("...")
    assert [line[:14] for line in skipped] == ["[2/8] skipped:", "[3/8] skipped:"]
    assert len(skipped[0]) > 30  # what went wrong is told in full


def test_several_pictures(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    write_image(folder / "sub" / "a.jpg", coloured_patch((64, 96), PATCH))
    pictures = [folder / "d.PNG", str(folder / "sub" / "a.jpg"), folder / "d.PNG", folder / "a.jpg"]
    summary = run(tiny_bundle, pictures, tmp_path / "out", {"boxes"}, threads=1)
    assert summary.done == 3
    assert [line["source"] for line in lines_of(tmp_path / "out")] == ["d.PNG", "sub/a.jpg", "a.jpg"]
    assert names_in(tmp_path / "out") == ["a.jpg", "d.PNG", "results.jsonl", "sub/a.jpg"]
    video = write_video(tmp_path / "clip.mp4")
    for bad, message in (
        ([pictures[0], video], r"clip\.mp4: is a video; several sources at once must be image files"),
        ([pictures[0], folder], "in: is no file; several sources at once must be image files"),
        ([pictures[0], "gone.jpg"], r"gone\.jpg: no such file; several sources at once must be image files"),
        ([], "the source is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            open_source(bad)


def test_lines_of_an_earlier_run_do_not_stay_beside_new_drawings(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    run(tiny_bundle, folder / "a.jpg", tmp_path / "out", {"boxes"}, threads=1)
    for jsonl in (False, io.StringIO(), tmp_path / "other.jsonl"):
        with pytest.raises(UsageError, match=r"results\.jsonl: is of an earlier run and would lie beside other"):
            run(tiny_bundle, folder / "d.PNG", tmp_path / "out", jsonl=jsonl)
    lines = tmp_path / "out" / "results.jsonl"
    for jsonl in (True, lines):
        with pytest.raises(
            UsageError, match="holds the results of an earlier run; go on in it with append, replace it"
        ):
            run(tiny_bundle, folder / "d.PNG", tmp_path / "out", {"boxes"}, threads=1, jsonl=jsonl)
    run(tiny_bundle, folder / "d.PNG", tmp_path / "out", {"boxes"}, threads=1, jsonl=lines, append=True)
    assert [line["source"] for line in lines_of(tmp_path / "out")] == ["a.jpg", "d.PNG"]
    with lines.open("a") as stream:
        stream.write('{"source": "half of a li')  # as a killed run leaves it
    run(tiny_bundle, folder / "a.jpg", tmp_path / "out", {"boxes"}, threads=1, append=True)
    assert [line["source"] for line in lines_of(tmp_path / "out")] == ["a.jpg", "d.PNG", "a.jpg"]
    run(tiny_bundle, folder / "d.PNG", tmp_path / "out", {"boxes"}, threads=1, jsonl=lines, force=True)
    assert [line["source"] for line in lines_of(tmp_path / "out")] == ["d.PNG"]
    lines.write_text('{"source": "a.jpg", "index": 0, "error": "no such file"}\n')  # nothing that could be lost
    run(tiny_bundle, folder / "a.jpg", tmp_path / "out", {"boxes"}, threads=1)
    assert [line["source"] for line in lines_of(tmp_path / "out")] == ["a.jpg"]
    with pytest.raises(UsageError, match="leave out one of them"):
        run(tiny_bundle, folder / "d.PNG", tmp_path / "out", force=True, append=True)


def test_outputs_that_are_none_and_options_that_do_nothing(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither drawings nor JSON lines are to be written, and nothing to be shown"):
        run(tiny_bundle, folder, tmp_path / "out", drawings=False, jsonl=False)
    for camera, name in ((CameraOptions((48, 64)), "size"), (CameraOptions(fps=5), "fps")):
        for source in (folder, folder / "a.jpg", write_video(tmp_path / "clip.mp4")):
            with pytest.raises(UsageError, match=f"camera_{name} is for cameras and standard input; files and"):
                open_source(source, camera)
    with pytest.raises(UsageError, match=r"a\.jpg: writing there would overwrite the source; choose another file"):
        run(tiny_bundle, folder, tmp_path / "out", jsonl=folder / "a.jpg")
    with pytest.raises(UsageError, match="lies inside the bundle, whose files must not change; choose another file"):
        run(tiny_bundle, folder, tmp_path / "out", jsonl=tiny_bundle.path / "a.jsonl")


def test_links_in_the_folder_of_answers(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, target, message in [
        ("results.jsonl", folder / "a.jpg", "writing there would overwrite the source; choose another folder"),
        ("results.jsonl", tiny_bundle.path / "bundle.json", "has a link into the bundle, whose files must not change"),
        ("a.jpg", tiny_bundle.path / "bundle.json", "has a link into the bundle, whose files must not change"),
    ]:
        (out / name).symlink_to(target)
        with pytest.raises(UsageError, match=message):
            run(tiny_bundle, folder / "a.jpg", out, {"boxes"}, threads=1)
        (out / name).unlink()
    (out / "results.jsonl").symlink_to(tmp_path / "lines")
    (out / "a.jpg").symlink_to(tmp_path / "drawing")
    run(tiny_bundle, folder / "a.jpg", out, {"boxes"}, threads=1)
    assert (out / "results.jsonl").is_symlink() and json.loads((tmp_path / "lines").read_text())["drawing"] == "a.jpg"
    assert (out / "a.jpg").is_symlink() and (tmp_path / "drawing").read_bytes()[:2] == b"\xff\xd8"


def test_a_video_goes_through_a_pipe(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "clip.mp4")
    with (
        (tmp_path / "copy.mp4").open("wb") as copy,
        subprocess.Popen(["cat", tmp_path / "out" / "clip.mp4"], stdout=copy),
    ):
        run(tiny_bundle, write_video(tmp_path / "clip.mp4"), tmp_path / "out", {"boxes"}, threads=1)
    assert open_source(tmp_path / "copy.mp4").expected == 7 and (tmp_path / "out" / "clip.mp4").is_fifo()


def test_an_unplugged_camera_keeps_what_it_gave(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "open_capture", lambda *_: FakeCamera(pause=0.1))
    summary = run(tiny_bundle, "1", tmp_path / "out", {"boxes"}, threads=1, camera=CameraOptions(reconnect_seconds=0))
    assert summary.done + summary.dropped == 3
    assert summary.failed == (("camera 1", "camera 1: stopped giving frames"),)
    assert names_in(tmp_path / "out") == ["camera-1.mp4", "results.jsonl"]


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(ImageError, match="camera 97: cannot be opened; is it connected, free and permitted"):
        open_source("97")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.jpg", r"gone\.jpg: no such file or folder; give an image, a folder, a glob, a video"),
        ("in/*.xyz", r"in/\*\.xyz: matches no image"),
        ("empty", "empty: the folder holds no images"),
    ],
)
def test_sources_that_are_not_there(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / source))


def test_outputs_never_spoil_inputs(tiny_bundle: Bundle, own_bundle: Path, folder: Path, tmp_path: Path) -> None:
    before = (folder / "a.jpg").read_bytes()
    with pytest.raises(UsageError, match="writing there would overwrite the source"):
        run(tiny_bundle, folder, folder)
    with pytest.raises(UsageError, match="writing there would overwrite the source"):
        run(tiny_bundle, write_video(tmp_path / "clip.mp4"), tmp_path)
    with pytest.raises(UsageError, match="lies inside the bundle"):
        run(own_bundle, folder, own_bundle / "out")
    with pytest.raises(UsageError, match=r"a\.jpg: is a file, expected a folder to write to"):
        run(tiny_bundle, folder, folder / "a.jpg")
    assert (folder / "a.jpg").read_bytes() == before
    assert not (own_bundle / "out").exists()


def test_a_failure_leaves_nothing_half_written(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_output, "write_image", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run(tiny_bundle, folder, tmp_path / "out", threads=1)
    assert names_in(tmp_path / "out") == []


def test_a_video_that_came_out_short_is_refused_and_removed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "clip.mp4")
    unpatched = VideoFile.write

    def lossy(self: Any, drawing: Any, times: int, seconds: float | None) -> None:
        if self._written < 3:
            unpatched(self, drawing, times, seconds)
        else:
            self._written += 1

    monkeypatch.setattr(VideoFile, "write", lossy)
    with pytest.raises(ImageError, match=r"clip\.mp4: only 3 of 7 frames were written; is the disk full"):
        run(tiny_bundle, video, tmp_path / "out", {"boxes"}, threads=1)
    assert names_in(tmp_path / "out") == ["results.jsonl"]


def test_drawings_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_opencv():
        assert cv2.VideoCapture("/nowhere.mp4").isOpened() is False
    assert capfd.readouterr().err == ""


# Live sources.


def test_a_stream_becomes_a_video_and_lines_without_its_password(
    tiny_bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with mjpeg_server(frames=6) as server:
        summary = run(
            *(tiny_bundle, server.url, tmp_path / "out", {"boxes"}),
            threads=1,
            camera=CameraOptions(reconnect_seconds=0),
            report=said.append,
        )
    assert summary.done + summary.dropped == 6
    assert summary.failed[0][1].endswith("x.mjpg: stopped giving frames")
    video, lines = names_in(tmp_path / "out")
    assert video.startswith("http-127.0.0.1-")
    assert lines == "results.jsonl"
    *answers, last = lines_of(tmp_path / "out")
    assert {"dropped", "drawing", "objects", "captured_s", "captured_unix_s"} <= set(answers[0])
    assert abs(answers[0]["captured_unix_s"] - time.time()) < 600
    assert 0 < time.monotonic() - answers[0]["captured_s"] < 600
    assert [line["captured_s"] for line in answers] == sorted(line["captured_s"] for line in answers)
    assert "error" in last
    shown = (repr(summary), json.dumps(summary.to_json()), *said, *capfd.readouterr(), video, json.dumps(answers))
    assert "s3cret" not in "".join(shown)
    plain = open_source(tmp_path / "out" / video)
    times = [answer["captured_s"] - answers[0]["captured_s"] for answer in answers]
    assert [frame.position_s for frame in plain] == pytest.approx(times, abs=0.001)
    assert sum(line["dropped"] for line in (*answers, last)) == summary.dropped


@pytest.mark.parametrize(("overlay", "extra"), [(None, True), (True, True), (False, False)])
def test_live_sources_have_an_overlay_unless_it_is_not_wanted(
    overlay: bool | None,
    extra: bool,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "open_capture", lambda *_: FakeCamera(pause=0.1))
    still = CameraOptions(reconnect_seconds=0)
    run(tiny_bundle, 0, tmp_path / "out", {"boxes"}, threads=1, overlay=overlay, camera=still)
    monkeypatch.undo()
    frame, *_ = open_source(tmp_path / "out" / "camera-0.mp4")
    assert frame.image is not None
    assert (frame.image.shape[0] > 428) is extra  # 428 is what the drawing has without


def test_a_stream_that_changes_its_size(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [coloured_patch((64, 96), PATCH), coloured_patch((128, 96), PATCH), coloured_patch((64, 96), PATCH)]
    monkeypatch.setattr(sources, "open_capture", lambda *_: FakeCamera(frames, pause=0.1))
    run(tiny_bundle, 0, tmp_path / "out", threads=1, camera=CameraOptions(reconnect_seconds=0))
    *lines, _ = lines_of(tmp_path / "out")
    assert [line["image_size"] for line in lines] == [[64, 96], [128, 96], [64, 96]][3 - len(lines) :]
    monkeypatch.undo()
    assert open_source(tmp_path / "out" / "camera-0.mp4").expected == len(lines)


def test_lines_to_a_stream_and_nothing_on_the_disk(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    lines = io.StringIO()
    out = tmp_path / "out"
    summary = run(tiny_bundle, folder, out, {"boxes"}, threads=1, drawings=False, jsonl=lines)
    assert summary.files == ()
    assert not out.exists()
    assert [json.loads(line)["source"] for line in lines.getvalue().splitlines()] == [
        "a.jpg",
        "b.jpg",
        "c.png",
        "d.PNG",
    ]
    assert not lines.closed


def test_a_window_ends_the_run(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    class OneLook:
        def __init__(self, title: str, waits: bool = False):
            shown.append((title, waits))

        def __enter__(self) -> OneLook:
            return self

        def __exit__(self, *_: object) -> None:
            shown.append("closed")

        def show(self, drawing: Any) -> bool:
            shown.append(drawing.shape)
            return False

    monkeypatch.setattr(run_module, "check_window", lambda: None)
    monkeypatch.setattr(run_output, "Window", OneLook)
    summary = run(
        *(tiny_bundle, folder, tmp_path / "out", {"boxes"}), threads=1, drawings=False, jsonl=False, show=True
    )
    assert summary.done == 1
    assert shown[0] == (f"yolor-edge: {folder}", True)
    assert shown[-1] == "closed"
    assert not (tmp_path / "out").exists()


def test_a_window_that_cannot_be_had_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    if opencv_build().windows is None:
        with pytest.raises(UsageError, match="a window needs an OpenCV with windows"):
            run(tmp_path / "nowhere", "nowhere", tmp_path / "out", show=True)


def test_files_give_the_answers_of_predict_in_their_order(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", frames=12)
    run(tiny_bundle, video, tmp_path / "out", threads=1, drawings=False)
    with load(tiny_bundle, threads=1) as model:
        expected = [model.predict(frame.image).to_json() for frame in open_source(video) if frame.image is not None]
    lines = lines_of(tmp_path / "out")
    assert [line.pop("index") for line in lines] == list(range(12))
    assert {line.pop("source") for line in lines} == {"clip.mp4"}
    assert [line.pop("position_s") for line in lines] == [pytest.approx(i / 12, abs=1e-6) for i in range(12)]
    for line, one in zip(lines, expected, strict=True):
        assert list(line) == list(one)
        assert set(line.pop("timings_ms")) == set(one.pop("timings_ms"))
    assert lines == expected


def test_captions_of_some_frames_are_drawn_on_those_between(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def listen(image: Any, result: Result, options: DrawOptions) -> Any:
        assert result.caption is not None
        drawn.append(result.caption.text)
        return draw(image, result, options)

    monkeypatch.setattr(run_output, "draw", listen)
    video = write_video(tmp_path / "clip.mp4", frames=6)
    summary = run(tiny_bundle, video, tmp_path / "out", {"caption"}, threads=1, caption_every=3)
    assert drawn == ["a red thing here"] * 6
    assert ["caption" in line for line in lines_of(tmp_path / "out")] == [True, False, False] * 2
    assert {"network", "caption", "latency"} <= set(summary.to_json()["stages_ms"])
    with pytest.raises(UsageError, match='caption_every must be a number of at least 1 or "scene-change", got 0'):
        run(tiny_bundle, video, tmp_path / "others", caption_every=0)


def test_captions_written_beside_a_live_source_come_in_later_lines(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sources, "open_capture", lambda *_: FakeCamera([coloured_patch((64, 96), PATCH)] * 8, pause=0.1)
    )
    still = CameraOptions(reconnect_seconds=0)
    run(tiny_bundle, 0, tmp_path / "out", threads=1, camera=still, caption_every="scene-change")
    lines = lines_of(tmp_path / "out")
    written = [(line, line.get("caption") or line.get("earlier_caption")) for line in lines]
    captions = [(line, caption) for line, caption in written if caption is not None]
    assert len(captions) == 1  # nothing changes in front of this camera
    line, caption = captions[0]
    assert caption["text"] == "a red thing here"
    assert ("caption" in line) is (line["index"] == 0)
    assert caption.get("index", 0) == 0
    monkeypatch.undo()
    assert open_source(tmp_path / "out" / "camera-0.mp4").expected == len(lines) - 1  # the last says that it ended
