"""The command line: every subcommand explains itself, works, and tells what is wrong in one line."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from yolor_edge import __version__, parsing
from yolor_edge import main as cli
from yolor_edge.options import max_drop, size
from yolor_edge.output import count
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.images.image_files import write_image

from ..runtime.tiny_bundle import coloured_patch, write_tiny_bundle

COMMANDS = (
    "scenes",
    "train",
    "adopt",
    "label",
    "evaluate",
    "export",
    "build",
    "verify",
    "diff",
    "run",
    "bench",
    "compare",
    "doctor",
    "inspect",
    "demo",
)
SMALL = (64, 96)
SETTINGS = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in ("red", "blue"):
        write_image(folder / f"{colour}.png", coloured_patch(SMALL, (16, 32, 48, 64), colour))
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few small scenes, splits "train" and "val"."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    for split, seed in (("train", 1), ("val", 2)):
        assert run_main(f"scenes {folder} --count 3 --seed {seed} --split {split} --image-size 64x96") == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for the scenes, boxes and semantic map only."""
    torch = pytest.importorskip("torch")
    from yolor_edge.evaluation.dataset.coco import CocoDataset
    from yolor_edge.train.checkpoint import write_checkpoint
    from yolor_edge.train.config import TrainConfig
    from yolor_edge.train.network.network import Network
    from yolor_edge.train.network_for_data import describe_network

    torch.manual_seed(0)
    dataset = CocoDataset.open(scenes, split="train")
    config = describe_network(dataset, "n", TrainConfig(), SMALL, ("boxes", "semantic"), "untrained")
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "untrained", Network(config), {}).path


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of every command."""
    (commands,) = (one.choices for one in cli.make_parser()._actions if isinstance(one.choices, dict))
    yield from commands.items()


def words_of(parser: argparse.ArgumentParser) -> list[str]:
    """What its help calls options and positions."""
    return [word for action in parser._actions for word in (action.option_strings or [str(action.metavar)])]


def run_main(line: str, *more: object) -> int:
    return cli.main([*line.split(), *(str(word) for word in more)])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, without the program's name; nothing is on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("yolor-edge: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removeprefix("yolor-edge: ").rstrip("\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(f"{command} --help") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: yolor-edge {command} ")
    assert f"example:\n  yolor-edge {command} " in out
    assert err == ""


def test_the_program_lists_its_commands_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("--help") == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in COMMANDS)
    assert run_main("--version") == 0
    assert capsys.readouterr().out == f"yolor-edge {__version__}\n"


def test_the_examples_in_the_help_can_be_parsed() -> None:
    for command, parser in parsers():
        lines = [line.strip() for line in (parser.epilog or "").splitlines()]
        examples = [line for line in lines if line.startswith("yolor-edge ")]
        assert examples
        for line in examples:
            assert cli.make_parser().parse_args(shlex.split(line)[1:]).command == command


def test_every_option_says_its_default_or_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    silent = []
    for command, parser in parsers():
        for action in parser._actions:
            is_switch = action.nargs == 0
            if action.option_strings and not action.required and not is_switch and "(default: " not in str(action.help):
                silent.append(f"{command} {action.option_strings[0]}")
    # Those that say what to do instead: a run needs the first three, the others leave something out.
    assert sorted(silent) == [
        *(
            "adopt --calibration",
            "adopt --scales",
            "diff --out",
            "export --calibration",
            "export --scales",
            "inspect --size",
        ),
        *("train --data", "train --out", "train --resume", "train --set"),
    ]


def test_help_is_quick_because_it_imports_nothing() -> None:
    code = (
        "import sys\n"
        "from yolor_edge.main import main\n"
        "main(['bench', '--help'])\n"
        "print(sorted({'numpy', 'cv2', 'torch', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("paint", 'unknown command "paint"; the commands are scenes, check'),
        ("--colour", "the following arguments are required: COMMAND; see yolor-edge --help"),
        ("run", "the following arguments are required: BUNDLE, SOURCE; see yolor-edge run --help"),
        ("run bundle image --colour red", "unknown option --colour; see yolor-edge run --help"),
        ("scenes out --count three --seed 1", "argument --count: invalid int value: 'three'"),
        (
            "scenes out --count 3 --seed 1 --image-size 640x",
            'argument --image-size: expected HEIGHTxWIDTH such as 480x640, or one number for both, got "640x"',
        ),
        ("scenes out --count 3 --seed 1 --image-size 0", "--image-size must be height and width of 64 to 2048 pixels"),
        ("scenes out --count 0 --seed 1", "--count must be at least 1, got 0"),
        ("train", "train needs --data DIR and --out RUN, or --resume RUN"),
        ("train --data x", "train needs --data DIR and --out RUN"),
        ("train --resume r --epochs 3 --set seed=1", "leave out --set"),
        ("train --resume r --from s --freeze neck", "leave out --freeze, --from"),
        ("train --resume r --captioner grit", "leave out --captioner"),
        ("train --data d --out o --captioner gpt", "argument --captioner: invalid choice: 'gpt'"),
        ("train --data x --out y --size xl", "argument --size: invalid choice: 'xl'"),
        ("train --data x --out y --tasks boxes,,masks", 'such as boxes,masks, got "boxes,,masks"'),
        ("evaluate nowhere --data nowhere", "nowhere"),
        ("export x --out y --input-size 640x", 'got "640x"'),
        ("export x --out y --batch many", "argument --batch: invalid int value: 'many'"),
        ("export x --out y --top-k 1.5", "argument --top-k: invalid int value: '1.5'"),
        ("inspect", "inspect needs a BUNDLE, a CHECKPOINT or --size, one of them"),
        ("inspect ck --size n", "inspect needs a BUNDLE, a CHECKPOINT or --size, one of them"),
        ("bench b --out o --warmup-seconds -1", "--warmup-seconds must be from 0 to 3600, got -1"),
        ("verify nowhere", "nowhere"),
        ("run nowhere nowhere.jpg", "nowhere"),
        ("bench nowhere --out out", "nowhere"),
        ("run bundle image --processing npu", "argument --processing: invalid choice: 'npu'"),
        ("verify bundle --processing gpu", "name one that has it as well: tensorrt or tensorrt-rtx"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    line: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if line.split()[:1] in (["train"], ["inspect"]):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert run_main(line) == 2
    assert message in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --data nowhere --out run", "nowhere"),
        ("train --data data --out run", "data"),
        (
            "train --data nowhere --out run --set speed=3",
            "--set speed=3: there is no setting 'speed'",
        ),
        ("train --data nowhere --out run --set batch_size=many", "--set batch_size=many: expected a value of type int"),
        ("train --data nowhere --out run --epochs 0", "--epochs must be at least 1, got 0"),
        (
            "train --data nowhere --out run --set batch_size=99999999999",
            "--set batch_size must be at most 1000000, got",
        ),
        (
            "train --data nowhere --out run --set workers=99999999999",
            "--set workers must be at most 256, got 99999999999",
        ),
        (
            "train --data nowhere --out run --set seed=99999999999999999999",
            "--seed must be at most 9223372036854775807",
        ),
        ("demo --threads 0", "--threads must be at least 1, got 0"),
        ("train --data data --out data/file", "data/file: is a file, expected a folder to write the run to"),
        ("train --resume nowhere", "nowhere: holds no run to resume"),
        ("train --resume data/file", "data/file: holds no run to resume"),
        ("export nowhere --out out", "nowhere: no such folder; expected a checkpoint"),
        ("inspect nowhere", "nowhere: no such folder"),
        ("inspect --size n --input-size 100x100", "multiples of 32"),
        ("inspect --size n --classes 0", "--classes must be at least 1, got 0"),
        ("inspect --size n --vocabulary 99999999999", "argument --vocabulary: must be at most 100000, got 99999999999"),
        ("inspect --size n --tasks boxes,wings", "--tasks must be some of boxes, masks, semantic, caption"),
        ("inspect --size n --tasks masks", "the task masks needs the task boxes"),
        ("demo --checkpoint nowhere --images nowhere", "nowhere"),
    ],
)
def test_misuse_of_what_needs_torch(
    line: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").touch()
    assert run_main(line) == 2
    assert message in complaint(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("package", ["torch", "pycocotools"])
def test_a_missing_package_is_named_with_what_installs_it(package: str, tmp_path: Path) -> None:
    code = (
        f"import sys\nsys.modules[{package!r}] = None\nfrom yolor_edge.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "train", "--data", "x", "--out", "y"], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 1
    least = {"torch": "torch>=2.4", "pycocotools": "pycocotools>=2.0.7"}[package]
    complained = ran.stderr.removeprefix("yolor-edge: ").rstrip("\n")
    assert complained == f'train needs the package {package}; install it: pip install "{least}"'


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            OSError(28, "No space left on device", "out/a.png"),
            1,
            "out/a.png: the disk is full (No space left on device)",
        ),
        (OSError(13, "Permission denied", "out"), 1, "out: not permitted (Permission denied); choose another folder"),
        (OSError(5, "Input/output error"), 1, "answers: Input/output error"),
        (
            OSError(20, "Not a directory"),
            1,
            "answers: cannot be made or opened (Not a directory); choose another place",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FloatingPointError("the loss is nan\nat step 7"), 1, "the loss is nan at step 7"),
    ],
)
def test_failures_are_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yolor_edge.runtime.runner.runner as run_module

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run_module, "run", fail)
    assert run_main("run bundle picture.jpg --out answers") == code
    assert complaint(capsys).startswith(message)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("--precision fp16", 2),  # which the bundle lacks, on whatever machine
        ("--backend magic", 2),
        ("--backend openvino", 1),  # made not installed below
        ("--show --backend onnxruntime", 1),
    ],
)
def test_what_another_machine_could_do_is_1_and_what_none_could_is_2(
    options: str,
    code: int,
    tiny_bundle: Bundle,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "yolor_edge.runtime.backends.openvino_backend", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    line = f"run {tiny_bundle.path} {pictures / 'red.png'} --out {tmp_path / 'out'} --threads 1 {options}"
    assert run_main(line) == code
    complaint(capsys)


def test_a_mistake_in_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    import yolor_edge.runtime.runner.runner as run_module

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(run_module, "run", fail)
    with pytest.raises(ZeroDivisionError):
        run_main("run bundle picture.jpg")


def test_a_reader_that_goes_away_is_no_traceback(pictures: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    code = "import sys; from yolor_edge.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["bench", str(tiny_bundle.path), "--images", str(pictures), "--out", str(tmp_path), "--json"]
    quick = ["--runs", "300", "--warmup-seconds", "0", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *quick], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def test_run_answers_and_says_where(
    tiny_bundle: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_main(f"run {tiny_bundle.path} {pictures} --out {out} --threads 1 --beam-size 1") == 0
    printed, err = capsys.readouterr()
    assert '"a red thing here"' in err
    assert printed.startswith("2 answered, ") and printed.count("\n") == 1
    assert [line[:5] for line in err.splitlines()] == ["[1/2]", "[2/2]"]
    assert sorted(path.name for path in out.iterdir()) == ["blue.png", "red.png", "results.jsonl"]


def test_run_prints_only_json_when_asked_to(
    tiny_bundle: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "in"))
    (folder / "empty.jpg").touch()
    options = f"--out {tmp_path / 'out'} --json --tasks boxes --no-pictures --threads 1"
    assert run_main(f"run {tiny_bundle.path} {folder} {options}") == 1
    printed, err = capsys.readouterr()
    found = json.loads(printed)
    assert found["done"] == 2
    assert found["failed"][0]["source"] == "empty.jpg"
    assert "skipped" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tasks wings", "unknown task 'wings'"),
        ("--score-threshold 2", "--score-threshold must be in [0, 1), got 2.0"),
        ("--beam-size 0", "--beam-size must be from 1"),
        ("--caption-decoder magic", "--caption-decoder must be one of native, native-int8, graph, got 'magic'"),
        ("--caption-decoder native-int8", "holds no caption weights in int8"),
        ("--caption-budget-ms -1", "--caption-budget-ms must be at least 0, got -1.0"),
        ("--backend magic", "unknown backend 'magic'"),
        ("--precision int8", "has no int8 graph"),
        ("--threads 0", "--threads must be at least 1"),
        ("--max-frames 0", "--max-frames must be at least 1"),
        (
            "--max-detections 99999999999999999999",
            "--max-detections must be from 1 to 1000000, got 99999999999999999999",
        ),
        ("--threads 99999", "--threads must be at most 64, got 99999"),
    ],
)
def test_run_refuses_what_makes_no_sense(
    options: str,
    message: str,
    tiny_bundle: Bundle,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(f"run {tiny_bundle.path} {pictures / 'red.png'} --out {tmp_path / 'out'} {options}") == 2
    assert message in complaint(capsys)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "onnxruntime-cuda"])
def test_processing_on_the_gpu_is_refused_where_it_cannot_be(
    backend: str,
    tiny_bundle: Bundle,
    pictures: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle, out = tiny_bundle.path, tmp_path / "out"
    for line in (
        f"run {bundle} {pictures} --out {out}",
        f"verify {bundle}",
        f"bench {bundle} --images {pictures} --out {out}",
        f"evaluate {bundle} --data {scenes}",
    ):
        assert run_main(f"{line} --backend {backend} --processing gpu") == 2
        assert f'backend "{backend}" gives its own to the CPU; choose a backend of tensorrt' in complaint(capsys)
    assert not out.exists()


def test_processing_on_the_cpu_is_what_cpus_do(
    tiny_bundle: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"run {tiny_bundle.path} {pictures / 'red.png'} --out {tmp_path / 'out'} --processing cpu"
    assert run_main(line) == 0
    assert "1 answered" in capsys.readouterr().out


def test_an_altered_bundle_is_refused(
    tiny_bundle: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(tiny_bundle.path, tmp_path / "own"))
    with (own / "vision.fp32.onnx").open("ab") as stream:
        stream.write(b"x")
    for line in (f"run {own} {pictures}", f"verify {own}", f"bench {own} --out {tmp_path / 'o'}"):
        assert run_main(line) == 2
        assert "vision.fp32.onnx" in complaint(capsys)


def test_bench_writes_a_report(
    tiny_bundle: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "--runs 12 --warmup-seconds 0 --threads 1 --beam-size 1 --score-threshold 0.5 --seconds 60"
    quick += " --caption-decoder graph --caption-budget-ms 0"
    out = tmp_path / "report"
    assert run_main(f"bench {tiny_bundle.path} --images {pictures} --out {out} {quick}") == 0
    printed, err = capsys.readouterr()
    assert "end to end" in printed
    assert printed.endswith(f"report: {out / 'report.md'}\n")
    assert "timing 12/12" in err
    report = json.loads((out / "report.json").read_text())
    assert (report["protocol"]["caption_decoder"], report["protocol"]["caption_budget_ms"]) == ("graph", 0)
    assert set(report["measurement"]["runs"]["caption_tokens"]) == {1}
    command = report["identity"]["command"]
    assert command.startswith(f"yolor-edge bench {tiny_bundle.path} --images {pictures} ")


def test_evaluate_scores_a_bundle(scenes: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(f"evaluate {tiny_bundle.path} --data {scenes}") == 2
    assert "the data set has 8 classes, the network 3" in complaint(capsys)
    assert run_main(f"evaluate {tiny_bundle.path} --data {scenes} --limit 0") == 2
    assert "limit must be at least 1" in complaint(capsys)
    assert run_main(f"evaluate {tiny_bundle.path} --data {scenes} --split test") == 2
    assert "test" in complaint(capsys)


def test_scenes_are_not_drawn_twice(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_main(f"scenes {scenes} --count 1 --seed 9") == 2
    assert 'has a split "train" already' in complaint(capsys)


def test_inspect_prints_parts_or_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    line = "inspect --size n --classes 3 --semantic 4 --vocabulary 40 --input-size 64x96"
    assert run_main(line) == 0
    assert "3 classes, 4 semantic classes, vocabulary of 40; input 64x96" in capsys.readouterr().out
    assert run_main(f"{line} --json --tasks boxes") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"] == ["boxes"]
    assert found["classes"] == 3
    assert run_main(f"inspect {checkpoint} --tasks boxes --json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "untrained"
    assert run_main(f"inspect {checkpoint} --tasks caption") == 2
    assert complaint(capsys) == "--tasks: the network has no task caption; it has boxes, semantic"
    assert run_main(f"inspect {checkpoint} --classes 4") == 2
    assert "a checkpoint has its own classes, words and captioner; leave out --classes" in complaint(capsys)
    assert run_main(f"inspect {checkpoint} --captioner grit") == 2
    assert "words and captioner; leave out --captioner" in complaint(capsys)
    assert run_main(f"{line} --captioner grit") == 0
    assert "captions over 130 regions beside the grid; input 64x96" in capsys.readouterr().out
    assert run_main(f"{line} --captioner grit --tasks caption") == 2
    assert "needs the task boxes: regions are its likeliest cells" in complaint(capsys)


def test_evaluate_scores_a_checkpoint(checkpoint: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_main(f"evaluate {checkpoint} --data {scenes} --limit 2 --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "val"
    assert found["scores"]["images"] == 2


def test_what_is_for_bundles_is_refused_to_a_checkpoint(
    checkpoint: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(f"evaluate {checkpoint} --data {scenes} --backend openvino --precision int8") == 2
    assert "is scored in torch with float32; --backend, --precision is for a bundle, export one" in complaint(capsys)


def test_a_checkpoint_has_its_processing_on_the_cpu(
    checkpoint: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(f"evaluate {checkpoint} --data {scenes} --processing gpu") == 2
    assert "is a checkpoint, which is scored with post-processing on the CPU" in complaint(capsys)


def test_an_altered_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    weights = own / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    capsys.readouterr()
    for line in (f"inspect {own}", f"export {own} --out {tmp_path / 'b'}"):
        assert run_main(line) == 2
        assert "network.safetensors" in complaint(capsys)
    assert not (tmp_path / "b").exists()


def test_train_and_resume_end_to_end(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    run = tmp_path / "run"
    quick = "--set batch_size=2 --set workers=0 --set plain_epochs=0 --tasks boxes"
    assert run_main(f"train --data {scenes} --out {run} --epochs 1 --input-size 64x96 {quick}") == 0
    printed, err = capsys.readouterr()
    assert printed == f"checkpoint: {run / 'best'}\n"
    assert "epoch 1/1" in err
    assert (run / "checkpoint" / "checkpoint.json").is_file()
    assert run_main(f"train --data {scenes} --out {run} --epochs 1 --input-size 64x96 {quick}") == 2
    assert "holds a run already; continue it (yolor-edge train --resume " in complaint(capsys)
    assert run_main(f"train --resume {run}") == 0


@pytest.mark.slow
def test_the_demo_goes_through_every_stage(
    checkpoint: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yolor_edge.demo as demo_module

    monkeypatch.setattr(demo_module, "_MOST_SECONDS", 1.0)
    out = tmp_path / "demo-out"
    (out / "pictures").mkdir(parents=True)
    (out / "pictures" / "results.jsonl").write_text('{"source": "of an earlier demo"}\n')
    capsys.readouterr()
    assert run_main(f"demo --checkpoint {checkpoint} --images {scenes / 'val'} --out {out} --threads 1") == 0
    printed, _ = capsys.readouterr()
    assert "1. Export" in printed
    assert "checks passed" in printed
    assert "[3/3]" in printed
    assert "end to end" in printed
    assert (out / "report" / "report.md").read_text().startswith("# Latency of untrained: CPU only")
    assert len(list((out / "pictures").iterdir())) == 4
    # What it left can be used by the other commands, and an export does not replace it unasked.
    assert run_main(f"verify {out / 'bundle'} --threads 1 --json") == 0
    replay = json.loads(capsys.readouterr().out)
    assert replay["passed"] is True
    assert "onnxruntime" in {one["backend"] for one in replay["verifications"]}
    assert run_main(f"verify {out / 'bundle'} --backend onnxruntime --precision fp32 --threads 1 --each") == 0
    printed = capsys.readouterr().out
    assert "\nonnxruntime fp32: verified\nwarning: the network finds no " in printed  # it was never trained
    assert all(f"{i}-" in printed for i in range(2))
    assert run_main(f"export {checkpoint} --out {out / 'bundle'}") == 2
    assert "exists already" in complaint(capsys)


def test_the_demo_says_where_its_files_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    import yolor_edge.demo as demo_module

    monkeypatch.setattr(demo_module, "DEMO", "not-there")
    monkeypatch.chdir(tmp_path)
    assert run_main("demo") == 2
    assert "the demo's files are in the repository, not in an installed package" in complaint(capsys)
    assert os.listdir(tmp_path) == []


def test_progress_in_a_file_is_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for done in range(1, 501):
        count("scoring", done, 500)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"scoring {done}/500" for done in range(50, 501, 50)]


def test_a_budget_is_one_number_or_one_for_each_task() -> None:
    assert max_drop("0.02") == 0.02
    assert max_drop("boxes=0.01, caption=0.05") == {"boxes": 0.01, "caption": 0.05}
    for text in ("boxes", "boxes=", "boxes=0.01,caption", "=1=2"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number such as"):
            max_drop(text)


def test_a_size_is_two_numbers_or_one() -> None:
    assert size("480x640") == (480, 640)
    assert size("640") == (640, 640)


@pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt_rtx"])
def test_the_name_of_the_package_names_a_backend_and_a_flavour(name: str) -> None:
    parser = cli.make_parser()
    assert parser.parse_args(["run", "b", "s", "--backend", name]).backend == "tensorrt-rtx"
    assert parser.parse_args(["verify", "b", "--backend", name]).backend == "tensorrt-rtx"
    assert parser.parse_args(["build", "b", "--flavour", name]).flavour == "tensorrt-rtx"


def test_without_arguments_there_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("") == 0
    assert capsys.readouterr().out.startswith("usage: yolor-edge COMMAND [options]\n")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("predict b s", 'unknown command "predict"; this is called run here; see yolor-edge --help'),
        ("val b", "this is called evaluate here"),
        ("benchmark b", "this is called bench here"),
        ("quantize c", "this is called export here"),
        ("trian", "perhaps train"),
        ("run --device 0", "unknown option --device; this is called --backend here; see yolor-edge run --help"),
        ("run b s --conf=0.5", "this is called --score-threshold here"),
        ("run b s --iou 0.5", "this is called --iou-threshold here"),
        ("run --weights b", "BUNDLE is given without an option: yolor-edge run BUNDLE SOURCE"),
        ("run b --source s", "SOURCE is given without an option"),
        ("run b s --half", "this is called --precision fp16 here"),
        ("run b s --project p", "this is called --out here"),
        ("run b s --shwo", "perhaps --show"),
        ("train --imgsz 640", "this is called --input-size here"),
        ("train --device 0", "this is called --set device=cuda:0 here"),
        ("train --batch 8", "this is called --set batch_size=N here"),
        ("export c --heads boxes", "this is called --tasks here"),
        ("export --weights c", "CHECKPOINT is given without an option"),
        ("build b --size 640", "this is called --input-size here"),
        ("build b --batch 4", "this is called --batch-sizes here"),
        ("build b --beam 4", "this is called --max-beam-size here"),
        ("scenes o --images 4", "this is called --count here"),
        ("run b s --nothing-like-it", "unknown option --nothing-like-it; see yolor-edge run --help"),
    ],
)
def test_what_is_unknown_names_what_is_meant(line: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(line) == 2
    assert hint in complaint(capsys)


def test_what_is_suggested_exists() -> None:
    commands = {command.__name__.rpartition(".")[2] for command in cli.COMMANDS}
    assert set(parsing.OTHER_COMMANDS.values()) <= commands
    assert not set(parsing.OTHER_COMMANDS) & commands
    actions = {word for _, parser in parsers() for word in words_of(parser)}
    settings = {line.split("`")[1] for line in SETTINGS.read_text().splitlines() if line.startswith("| `")}
    for here in (option for several in parsing.OTHER_OPTIONS.values() for option in several):
        option, _, value = here.partition(" ")
        assert option in actions
        assert option != "--set" or value.partition("=")[0] in settings


def test_nothing_private_crosses_files() -> None:
    for path in Path(cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not [name.name for name in node.names if re.match(r"_[^_]", name.name)], path
