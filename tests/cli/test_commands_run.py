"""The command `yolor-edge run` on what is not a file: standard input, streams, terminations; and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolor_edge.main import main
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.images.image_files import read_image, write_image

from ..runtime.sources.cameras import mjpeg_server, picture
from ..runtime.tiny_bundle import write_tiny_bundle

RUN = [sys.executable, "-c", "import sys; from yolor_edge.main import main; sys.exit(main())", "run"]


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_lines_to_stdout_are_all_there_is(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", picture())
    line = [str(tiny_bundle.path), str(tmp_path / "a.png"), "--no-pictures", "--jsonl", "-", "--threads", "1"]
    assert main(["run", *line]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["source"] == "a.png"
    assert out.count("\n") == 1
    assert err.startswith("[1/1] a.png: ")
    assert "see" not in err  # nothing was written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--no-pictures --no-jsonl", "--no-pictures and --no-jsonl leave nothing to write; leave out one of them, or"),
        ("--jsonl a.jsonl --no-jsonl", "--jsonl a.jsonl writes the JSON lines; leave out --no-jsonl"),
        ("rtsp://camera/a", "several sources at once must be image files; give cameras and addresses one by one"),
        ("--layout rgb", "--layout 'rgb' is for raw frames on standard input (-); files, cameras and addresses"),
        ("--jsonl - --json", "--jsonl - prints the JSON lines on stdout; leave out --json"),
        ("--jsonl - --no-jsonl", "--jsonl - prints the JSON lines on stdout; leave out --no-jsonl"),
        ("--draw boxes,lables", "there is no 'lables' to draw, perhaps 'labels'; the parts are boxes, masks, labels, "),
        ("--line-width 0", "--line-width must be from 1 to 100 pixels, got 0"),
        ("--camera-size 1280", 'expected WIDTHxHEIGHT such as 1280x720, got "1280"'),
        ("--caption-every often", 'expected a number of frames or scene-change, got "often"'),
        ("--camera-size 0x0", "the size of a camera must be from 1x1 to 16384x16384, got 0x0"),
        ("--reconnect -3", "--reconnect must be from 0 to 86400, got -3"),
    ],
)
def test_what_makes_no_sense(
    options: str, message: str, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny_bundle.path), "0", *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_bare_frames_through_a_pipe(tiny_bundle: Bundle, tmp_path: Path) -> None:
    frames = np.stack([picture()] * 3).tobytes()
    options = [tiny_bundle.path, "-", "--camera-size", "96x64", "--threads", "1", "--out", tmp_path / "out"]
    done = subprocess.run([*RUN, *options], input=frames, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["results.jsonl", "standard-input.mp4"]
    assert done.stdout.decode().splitlines()[-1].startswith("3 answered, ")


@pytest.mark.parametrize("layout", ["rgba", "grey", "nv12"])
def test_bare_frames_of_other_layouts_through_a_pipe(layout: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    bgr = picture()
    code = {"rgba": cv2.COLOR_BGR2RGBA, "grey": cv2.COLOR_BGR2GRAY, "nv12": cv2.COLOR_BGR2YUV_I420}[layout]
    frame = cv2.cvtColor(bgr, code)
    if layout == "nv12":
        u, v = frame[64:80].reshape(32, 48), frame[80:].reshape(32, 48)
        frame = np.vstack([frame[:64], np.stack([u, v], axis=2).reshape(32, 96)])
    out = tmp_path / "out"
    options = [tiny_bundle.path, "-", "--camera-size", "96x64", "--layout", layout, "--threads", "1", "--out", out]
    done = subprocess.run([*RUN, *options], input=frame.tobytes() * 2, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["image_size"] for line in lines] == [[64, 96]] * 2
    if layout != "grey":
        assert {found["class_name"] for found in lines[0]["objects"]} == {"red"}
    drawn = cv2.VideoCapture(str(out / "standard-input.mp4")).read()[1]
    assert (drawn[213, 320, 2] > drawn[213, 320, 0] + 40) is np.bool_(layout != "grey")  # red is red in the drawing


def test_a_stream_that_is_not_there_is_one_line_without_its_password(tiny_bundle: Bundle, tmp_path: Path) -> None:
    address = "rtsp://operator:s3cret@127.0.0.1:9/a?token=s3cret"
    done = subprocess.run([*RUN, tiny_bundle.path, address], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "yolor-edge: rtsp://127.0.0.1:9/a: cannot be opened; is there a stream at this host and path, and are "
        "user name and password right?\n"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_is_ended_properly_by_a_signal(number: signal.Signals, tiny_bundle: Bundle, tmp_path: Path) -> None:
    with mjpeg_server(frames=3000) as server:
        options = [tiny_bundle.path, server.url, "--threads", "1", "--out", tmp_path / "out", "--tasks", "boxes"]
        with subprocess.Popen([*RUN, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            first = child.stderr.readline()
            child.send_signal(number)
            out, err = child.communicate(timeout=60)
    assert "] http://127.0.0.1:" in first
    assert child.returncode == 0, err
    assert all(line.startswith("[") for line in err.splitlines())
    assert "answered" in out and "interrupted" not in out
    assert "s3cret" not in first + out + "".join(os.listdir(tmp_path / "out"))
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] >= 0 for line in lines] == [True] * len(lines)
    assert "s3cret" not in "".join(lines)
    assert len(os.listdir(tmp_path / "out")) == 2


def test_progress_into_a_file_is_sparse_and_tells_of_the_last_picture(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for i in range(5):
        write_image(tmp_path / f"{i}.png", picture())
    (tmp_path / "2.png").write_bytes(b"")
    pictures = sorted(tmp_path.glob("*.png"))  # as a shell makes of a pattern without quotes
    options = [tiny_bundle.path, *pictures, "--threads", "1", "--out", tmp_path / "out", "--tasks", "boxes"]
    done = subprocess.run([*RUN, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["[1/5] 0.png", "[3/5] skipped", "[5/5] 4.png"]
    assert done.stdout.startswith("4 answered, 1 could not be read, ")
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png", "3.png", "4.png", "results.jsonl"]


def test_lines_into_a_file_of_ones_own(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", picture())
    line = [str(tiny_bundle.path), str(tmp_path / "a.png"), "--no-pictures", "--threads", "1", "--tasks", "boxes"]
    assert main(["run", *line, "--jsonl", str(tmp_path / "found" / "a.jsonl"), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "found" / "a.jsonl").read_text())["source"] == "a.png"
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out.rstrip().endswith("see " + str(tmp_path / "found" / "a.jsonl"))
    assert main(["run", *line, "--jsonl", str(tmp_path)]) == 2
    assert "is a folder, expected the name of a file for the JSON lines" in capsys.readouterr().err


def test_lines_into_a_pipe_are_there_at_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, picture())
    os.mkfifo(tmp_path / "pipe")
    options = [*RUN, tiny_bundle.path, tmp_path / "in", "--no-pictures", "--threads", "1", "--tasks", "boxes"]
    with subprocess.Popen([*options, "--jsonl", tmp_path / "pipe"], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        with (tmp_path / "pipe").open() as lines:
            assert [json.loads(line)["source"] for line in lines] == ["a.png", "b.png"]
        child.stderr.read()
    assert child.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["in", "pipe"] and (tmp_path / "pipe").is_fifo()
    command = shlex.join(map(str, options)) + " --jsonl >(cat >pipe-of-bash)"
    subprocess.run(["bash", "-c", f"{command} && wait $!"], cwd=tmp_path, capture_output=True, check=True)
    lines = (tmp_path / "pipe-of-bash").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a.png", "b.png"]


def test_drawings_as_asked_for(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """One panel has the size of the image, in a video too, whose sides are even; what is not named is not drawn."""
    image = np.vstack([picture(), np.full((1, 96, 3), 114, np.uint8)])
    write_image(tmp_path / "a.png", image)
    line = ["run", str(tiny_bundle.path), str(tmp_path / "a.png"), "--threads", "1", "--out", str(tmp_path / "out")]
    drawn = {}
    for name, options in {
        "objects": [],
        "lines": ["--draw", "boxes", "--line-width", "1"],
        "all": ["--draw", "boxes,masks,labels,scores,semantic,caption"],
    }.items():
        assert main([*line, "--force", "--panels", "1", *options]) == 0
        drawn[name] = read_image(tmp_path / "out" / "a.png")
        assert drawn[name].shape == image.shape
    changed = {name: float((drawing != image).any(axis=2).mean()) for name, drawing in drawn.items()}
    assert 0 < changed["lines"] < changed["objects"] < 0.95 < changed["all"]  # the map is everywhere
    assert main([*line, "--force", "--draw", "labels"]) == 0
    assert read_image(tmp_path / "out" / "a.png").shape == (round(65 * 640 / 96), 640, 3)
    options = [str(tiny_bundle.path), "-", "--camera-size", "96x65", "--panels", "1", "--out", str(tmp_path / "video")]
    done = subprocess.run([*RUN, *options], input=image.tobytes() * 2, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert cv2.VideoCapture(str(tmp_path / "video" / "standard-input.mp4")).read()[1].shape[0] >= 66


def test_an_interrupted_video_keeps_what_was_answered(tiny_bundle: Bundle, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (96, 64))
    for _ in range(3000):
        writer.write(picture())
    writer.release()
    options = [tiny_bundle.path, tmp_path / "clip.avi", "--threads", "1", "--out", tmp_path / "out"]
    with subprocess.Popen([*RUN, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        child.stderr.readline()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out.startswith("interrupted, kept what was done: ")
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert 1 <= len(lines) < 3000
    assert sorted(os.listdir(tmp_path / "out")) == ["clip.mp4", "results.jsonl"]
    frames = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)
    assert len(lines) <= frames <= len(lines) + 1


def test_help_says_where_thresholds_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count('(default: "thresholds" in bundle.json)') == 3
