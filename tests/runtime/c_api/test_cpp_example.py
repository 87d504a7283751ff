"""The C++ example answers as the Python model does, its network run as its README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from yolor_edge.runtime import Result, load
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.bundle.spec import BoxCoding, ScoreCoding
from yolor_edge.runtime.images.preprocess import preprocess

from ..captions.random_decoder import random_decoder
from ..tiny_bundle import MAX_LENGTH, VOCABULARY, coloured_patch, tiny_spec, write_tiny_bundle
from .c_library import ROOT

EXAMPLE = ROOT / "examples" / "cpp"
# An unpacked release of ONNX Runtime for C, for the part of the example that runs the network itself.
ONNXRUNTIME_ROOT = os.environ.get("ONNXRUNTIME_ROOT")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def program(c_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built by the line in its README."""
    line = re.search(r"g\+\+ (.*) -o \S+$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert line is not None
    flags = line[1].replace("-O2", "-O1").replace("examples/cpp/*.cpp", " ".join(map(str, EXAMPLE.glob("*.cpp"))))
    flags = flags.replace("build/", f"{c_library}/").replace("-Iruntime", f"-I{ROOT}/runtime")
    out = tmp_path_factory.mktemp("example") / "yolor_edge_example"
    run("g++", "-Wall", "-Wextra", "-Werror", *flags.split(), "-o", out)
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a caption decoder of random weights that fits its memory."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    tiny = write_tiny_bundle(folder)
    words = len(VOCABULARY)
    random_decoder(vocabulary=words, width=words, heads=2, memory=6, positions=MAX_LENGTH).write(
        folder / "caption.int8.bin", "int8"
    )
    return write_bundle(
        folder, tiny_spec(), tiny.graphs, provenance={"made_by": "tests"}, caption_weights={"int8": "caption.int8.bin"}
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = coloured_patch((100, 130), (20, 30, 60, 90))
    image[70:95, 10:60] = (0, 255, 0)
    path = tmp_path / "picture.ppm"
    assert cv2.imwrite(str(path), image)
    return path


def answered(bundle: Bundle, picture: Path) -> Result:
    with load(bundle, threads=1, caption_decoder="native-int8") as model:
        return model.predict(picture)


def assert_answers(printed: str, out: Path, expected: Result) -> None:
    assert expected.boxes is not None and expected.scores is not None and expected.masks is not None
    assert expected.caption is not None and expected.detected_names is not None
    lines = [line.split(" ") for line in printed.splitlines()]
    boxes = [line for line in lines if line[0] == "box"]
    assert [line[1] for line in boxes] == list(expected.detected_names)
    assert {"red", "green"} <= set(expected.detected_names)
    numbers = np.array([line[2:7] for line in boxes]).astype(np.float32)
    np.testing.assert_array_equal(numbers[:, 0], expected.scores)
    np.testing.assert_array_equal(numbers[:, 1:], expected.boxes)
    assert [line[7] for line in boxes] == [code["counts"] for code in expected.masks.rle()]
    instances = np.zeros(expected.image_size, np.uint8)
    for i, mask in reversed(list(enumerate(expected.masks.full(), 1))):
        instances[mask] = i
    np.testing.assert_array_equal(cv2.imread(str(out / "instances.pgm"), cv2.IMREAD_UNCHANGED), instances)
    semantic = cv2.imread(str(out / "semantic.pgm"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(semantic, expected.semantic_map)
    (caption,) = (line for line in lines if line[0] == "caption")
    assert " ".join(caption[2:]) == expected.caption.text
    assert float(caption[1]) == pytest.approx(expected.caption.log_prob, rel=1e-8)


def test_in_two_steps(program: Path, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    printed = run(program, bundle.path, picture, out)
    assert printed.startswith(f"wrote {out}/images.f32: run the network on it")
    code = re.search(r'python -c "\n(.*?)\n" bundles', (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert code is not None
    run(sys.executable, "-c", code[1], bundle.path / "vision.fp32.onnx", cwd=tmp_path)
    assert_answers(run(program, bundle.path, picture, out, out), out, answered(bundle, picture))


@pytest.mark.parametrize(("box_coding", "score_coding"), [("xyxy", "probabilities"), ("ltrb", "logits")])
def test_other_codings(
    program: Path, picture: Path, tmp_path: Path, box_coding: BoxCoding, score_coding: ScoreCoding
) -> None:
    tiny = write_tiny_bundle(tmp_path / "tiny", ("boxes", "masks"), box_coding, score_coding)
    spec = replace(tiny.spec, preprocess=replace(tiny.spec.preprocess, rounding="half_even"))
    coded = write_bundle(tiny.path, spec, tiny.graphs, provenance={"made_by": "tests"})
    image = coloured_patch((67, 192), (20, 30, 60, 150))  # half its height is no whole number
    assert cv2.imwrite(str(picture), image)
    run(program, coded.path, picture, tmp_path)
    session = onnxruntime.InferenceSession(coded.path / "vision.fp32.onnx")
    pixels = np.fromfile(tmp_path / "images.f32", np.float32).reshape(1, 3, 64, 96)
    np.testing.assert_array_equal(pixels[0], preprocess(image, spec.preprocess)[0])
    for output, value in zip(session.get_outputs(), session.run(None, {"images": pixels}), strict=True):
        np.asarray(value).tofile(tmp_path / f"{output.name}.f32")
    lines = [line.split(" ") for line in run(program, coded.path, picture, tmp_path, tmp_path).splitlines()]
    with load(coded, threads=1) as model:
        expected = model.predict(image)
    assert expected.masks is not None
    assert len(lines) == len(expected) > 0
    numbers = np.array([line[2:7] for line in lines]).astype(np.float32)
    np.testing.assert_array_equal(numbers[:, 0], expected.scores)
    np.testing.assert_array_equal(numbers[:, 1:], expected.boxes)
    assert [line[7] for line in lines] == [code["counts"] for code in expected.masks.rle()]


def test_one_line_where_something_is_wrong(program: Path, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    def complaint(*arguments: str | Path, code: int = 1) -> str:
        done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == code
        assert len(done.stderr.splitlines()) == 1
        return done.stderr.strip()

    assert complaint(code=2) == f"usage: {program} BUNDLE PICTURE.ppm OUT [HEADS]"
    assert "bundle.json: cannot be read (No such file or directory); name a folder" in complaint(tmp_path, picture, ".")
    assert "nothing.ppm: cannot be read" in complaint(bundle.path, tmp_path / "nothing.ppm", tmp_path)
    (tmp_path / "cut.ppm").write_bytes(picture.read_bytes()[:-1])
    assert complaint(bundle.path, tmp_path / "cut.ppm", tmp_path).endswith("cut.ppm: is cut short")
    (tmp_path / "no.ppm").write_bytes(b"P5\n# grey\n2 2\n255\n1234")
    assert "no.ppm: is no binary PPM of 8 bits" in complaint(bundle.path, tmp_path / "no.ppm", tmp_path)
    assert "cannot be written; does its folder exist?" in complaint(bundle.path, picture, tmp_path / "nowhere")
    assert "class_logits.f32: cannot be read; README.md says" in complaint(bundle.path, picture, tmp_path, tmp_path)
    for name in ("class_logits", "box_bins", "mask_coefficients", "prototypes", "semantic_logits", "caption_memory"):
        np.zeros(10, np.float32).tofile(tmp_path / f"{name}.f32")
    expected = "class_logits holds 10 numbers, expected a multiple of 1 x 126; is it of this bundle and of one image?"
    assert complaint(bundle.path, picture, tmp_path, tmp_path) == expected
    small = Path(shutil.copytree(bundle.path, tmp_path / "small"))
    text = (small / "bundle.json").read_text()
    changed = re.sub(r'"input_size": \[[^]]*\]', '"input_size": [4, 4]', text)
    assert changed != text
    (small / "bundle.json").write_text(changed)
    assert complaint(small, picture, tmp_path, tmp_path) == "the network's input is too small for class_logits"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_with_cmake(bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    configure = ["cmake", "-S", EXAMPLE, "-B", tmp_path / "build", "-DCMAKE_CXX_FLAGS=-O0", "-DCMAKE_BUILD_TYPE=None"]
    run(*configure, *([f"-DONNXRUNTIME_ROOT={ONNXRUNTIME_ROOT}"] if ONNXRUNTIME_ROOT else []))
    run("cmake", "--build", tmp_path / "build")
    printed = run(tmp_path / "build" / "yolor_edge_example", bundle.path, picture, tmp_path)
    if ONNXRUNTIME_ROOT:
        assert_answers(printed, tmp_path, answered(bundle, picture))
    else:
        assert (tmp_path / "images.f32").stat().st_size == 4 * 3 * 64 * 96
