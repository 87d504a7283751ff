"""The engine cache: what fits is found, whatever differs is named with both values and the command that cures it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.bundle.engines import Engine, EngineRecord, build_command, find_engine, graph_kind, write_record
from yolor_edge.runtime.errors import EngineMismatchError, UsageError
from yolor_edge.runtime.files import sha256_of

PLAN = b"the bytes of an engine"


@pytest.fixture
def bundle(own_bundle: Path) -> Bundle:
    return Bundle.open(own_bundle)


def add_engine(bundle: Bundle, plan: bytes = PLAN, **changes: Any) -> Engine:
    """Put an engine into the cache of a bundle: for tensorrt-rtx 1.7.1 and sm_86, unless changed."""
    fields: dict[str, Any] = {
        "part": "vision",
        "precision": "fp32",
        "graph": "vision.fp32.onnx",
        "onnx_sha256": bundle.files["vision.fp32.onnx"],
        "flavour": "tensorrt-rtx",
        "version": "1.7.1",
        "targets": ("sm_80", "sm_86"),
        "gpu": None,
        "system": platform.system(),
        "architecture": platform.machine(),
        "batches": (1,),
        "settings": {"workspace_mib": None, "low_memory": False},
        **changes,
    }
    record = EngineRecord(**fields)
    (bundle.path / "engines").mkdir(exist_ok=True)
    path = bundle.path / "engines" / f"{record.key}.engine"
    path.write_bytes(plan)
    record = dataclasses.replace(record, engine_sha256=sha256_of(path), engine_bytes=len(plan))
    write_record(bundle, record)
    return Engine(path, record)


def find(bundle: Bundle, **changes: Any) -> Engine:
    asked: dict[str, Any] = {
        "part": "vision",
        "precision": "fp32",
        "flavour": "tensorrt-rtx",
        "version": "1.7.1",
        "compute_capability": "sm_86",
        **changes,
    }
    return find_engine(bundle, **asked)


def complaint(bundle: Bundle, **changes: Any) -> str:
    with pytest.raises(EngineMismatchError) as raised:
        find(bundle, **changes)
    assert raised.value.exit_code == 3
    return str(raised.value)


# What fits.


def test_an_engine_that_fits_is_found(bundle: Bundle) -> None:
    engine = add_engine(bundle)
    found = find(bundle, batch=1, gpu="any RTX", settings={"low_memory": False})
    assert found == engine
    assert found.read() == PLAN
    assert found.path.name.startswith("vision.fp32.tensorrt-rtx-1.7.1.2-targets.")
    assert Bundle.open(bundle.path).files == bundle.files  # engines are no part of the bundle


def test_a_record_survives_its_file(bundle: Bundle) -> None:
    profiles = ({"images": [[1, 3, 64, 96], [1, 3, 64, 96], [1, 3, 64, 96]]},)
    engine = add_engine(bundle, profiles=profiles, gpu="Orin", build={"seconds": 1.5})
    assert EngineRecord.read(engine.path.with_suffix(".json")) == engine.record


def test_of_several_that_fit_the_last_one_built_is_taken(bundle: Bundle) -> None:
    first = add_engine(bundle, b"first", batches=(1,))
    second = add_engine(bundle, b"second", batches=(1, 4))
    for age, engine in ((0, second), (100, first)):
        built = engine.path.stat().st_mtime - age
        os.utime(engine.path.with_suffix(".json"), (built, built))
    assert find(bundle).read() == b"second"
    assert find(bundle, batch=4).read() == b"second"


def test_portable_targets_cover_more_than_one_gpu(bundle: Bundle) -> None:
    add_engine(bundle, flavour="tensorrt", version="10.3.0", targets=("ampere_plus",), gpu="Orin")
    asked: dict[str, Any] = {"flavour": "tensorrt", "version": "10.3.0"}
    assert find(bundle, **asked, compute_capability="sm_89", gpu="NVIDIA RTX 4090")
    assert "built for ampere_plus, here it is sm_75" in complaint(bundle, **asked, compute_capability="sm_75")


def test_a_key_is_another_for_whatever_needs_another_engine(bundle: Bundle) -> None:
    record = add_engine(bundle).record
    changed: dict[str, Any] = {
        "part": "caption_step",
        "precision": "fp16",
        "onnx_sha256": "0" * 64,
        "flavour": "tensorrt",
        "version": "1.7.2",
        "targets": ("sm_86", "sm_89"),
        "gpu": "Orin",
        "system": "Windows",
        "architecture": "aarch64",
        "batches": (2,),
        "settings": {"workspace_mib": 64, "low_memory": False},
    }
    keys = {dataclasses.replace(record, **{name: value}).key for name, value in changed.items()}
    assert len(keys | {record.key}) == len(changed) + 1
    # What a build gives is not part of what it is for.
    assert dataclasses.replace(record, engine_sha256="1", engine_bytes=1, build={"seconds": 2}).key == record.key


# What does not.


def test_without_an_engine_the_build_command_is_printed(bundle: Bundle) -> None:
    text = complaint(bundle)
    assert text == (
        f"{bundle.path}: has no fp32 engine of vision yet; build it with: "
        f"yolor-edge build {bundle.path} --precision fp32 --flavour tensorrt-rtx --target sm_86"
    )


@pytest.mark.parametrize(
    ("built", "asked", "told"),
    [
        ({"onnx_sha256": "0" * 64}, {}, "built from a graph with SHA-256 000000000000, here it is"),
        ({"version": "1.6.1"}, {}, "built by tensorrt-rtx 1.6.1, here it is 1.7.1"),
        ({}, {"flavour": "tensorrt"}, "built by tensorrt-rtx, here it is tensorrt;"),
        ({"system": "Windows"}, {}, f"built on Windows, here it is {platform.system()}"),
        ({"architecture": "riscv64"}, {}, f"built on riscv64, here it is {platform.machine()}"),
        ({}, {"compute_capability": "sm_89"}, "built for sm_80, sm_86, here it is sm_89"),
        ({}, {"batch": 4}, "takes batches of 1, wanted are 4"),
        (
            {"part": "caption_step", "graph": "caption_step.fp32.onnx", "batches": (3,)},
            {},
            "sentences: 3, wanted are 5",
        ),
        ({"gpu": "NVIDIA RTX 3060"}, {"gpu": "NVIDIA RTX 3090"}, "GPU NVIDIA RTX 3060, here it is NVIDIA RTX 3090"),
        ({}, {"settings": {"workspace_mib": 64}}, "built with workspace_mib None, here it is 64"),
    ],
)
def test_a_difference_names_both_values(
    bundle: Bundle, built: dict[str, Any], asked: dict[str, Any], told: str
) -> None:
    if built.get("part") == "caption_step":
        built = {**built, "onnx_sha256": bundle.files["caption_step.fp32.onnx"]}
        asked = {"part": "caption_step", "batch": 5}
    engine = add_engine(bundle, **built)
    text = complaint(bundle, **asked)
    assert text.startswith(f"{engine.path}: ")
    assert told in text
    assert text.count("here it is") + text.count("wanted are") == 1
    assert f"; build it anew with: yolor-edge build {bundle.path} --precision fp32" in text


def test_every_difference_is_told_at_once_and_the_nearest_engine_is_named(bundle: Bundle) -> None:
    add_engine(bundle, version="1.6.0", system="Windows", targets=("sm_75",))
    near = add_engine(bundle, version="1.6.0", targets=("sm_75",))
    text = complaint(bundle)
    assert text.startswith(f"{near.path}: built by tensorrt-rtx 1.6.0, here it is 1.7.1; built for sm_75, here it is")
    assert "(1 more do not fit either)" in text


@pytest.mark.parametrize(
    ("built", "asked", "options"),
    [
        ({}, {"compute_capability": "sm_120"}, "--target sm_80,sm_86,sm_120 --batch-sizes 1"),
        ({"batches": (1, 4)}, {"batch": 2}, "--target sm_80,sm_86 --batch-sizes 1,2,4"),
        (
            {"version": "1.6", "settings": {"workspace_mib": 64, "low_memory": True}},
            {},
            "--batch-sizes 1 --workspace 64 --low-memory",
        ),
    ],
)
def test_the_command_builds_what_fits_here_and_where_the_old_one_did(
    bundle: Bundle, built: dict[str, Any], asked: dict[str, Any], options: str
) -> None:
    add_engine(bundle, **built)
    assert complaint(bundle, **asked).endswith(options)


def test_the_command_for_tensorrt_leaves_the_target_to_the_device(bundle: Bundle) -> None:
    tensorrt: dict[str, Any] = {"flavour": "tensorrt", "version": "10.3.0"}
    add_engine(bundle, **tensorrt, targets=("sm_87",))
    text = complaint(bundle, flavour="tensorrt", version="11.0.0", compute_capability="sm_87")
    assert text.endswith("--precision fp32 --flavour tensorrt --batch-sizes 1")


def test_the_command_can_be_pasted_even_with_a_blank_in_the_path() -> None:
    command = build_command(Path("my bundles/one"), "int8", "tensorrt-rtx", ["sm_86"], [1], beam=5)
    assert shlex.split(command)[2:] == [
        *("my bundles/one", "--precision", "int8", "--flavour", "tensorrt-rtx"),
        *("--target", "sm_86", "--batch-sizes", "1", "--max-beam-size", "5"),
    ]


# What was damaged.


def test_altered_bytes_are_refused(bundle: Bundle) -> None:
    engine = add_engine(bundle)
    found = find(bundle)
    engine.path.write_bytes(PLAN[:-1] + b"!")
    text = complaint(bundle)
    assert f"{engine.path}: was altered, its SHA-256 is" in text
    assert engine.record.engine_sha256[:12] in text
    with pytest.raises(EngineMismatchError, match="was altered"):  # also between finding and reading
        found.read()


def test_a_record_without_its_engine_is_told(bundle: Bundle) -> None:
    add_engine(bundle).path.unlink()
    assert "is missing beside its record" in complaint(bundle)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not the record of an engine"),
        ("[]", "is not the record of an engine"),
        ('{"record_version": 2}', "is not the record of an engine"),
        ('{"record_version": 1, "part": 3}', '"part" must be a string, got'),
    ],
)
def test_a_broken_record_is_refused(bundle: Bundle, content: str, told: str) -> None:
    engine = add_engine(bundle)
    engine.path.with_suffix(".json").write_text(content)
    assert told in complaint(bundle)


def test_every_key_of_a_record_is_checked(bundle: Bundle) -> None:
    file = add_engine(bundle).path.with_suffix(".json")
    whole = json.loads(file.read_text())
    for key in whole:
        if key in ("gpu",):
            continue  # null where it is not known
        spoilt = {**whole, key: {"wrong": 1} if not isinstance(whole[key], dict) else 3}
        file.write_text(json.dumps(spoilt))
        with pytest.raises(EngineMismatchError):
            EngineRecord.read(file)


# Which graph.


def test_captions_take_the_next_finer_graph(own_bundle: Path) -> None:
    whole = Bundle.open(own_bundle)
    graphs = {part: dict(names) for part, names in whole.graphs.items()}
    for part, kinds in {"vision": ("fp16", "int8-s8s8", "int8-u8s8"), "caption_prefill": ("fp16",)}.items():
        for kind in kinds:
            graphs[part][kind] = f"{part}.{kind}.onnx"
            (own_bundle / graphs[part][kind]).write_bytes(b"a graph")
    bundle = write_bundle(own_bundle, whole.spec, graphs, provenance={})
    assert [graph_kind(bundle, part, "int8") for part in graphs] == ["int8-s8s8", "fp16", "fp32"]
    assert [graph_kind(bundle, part, "fp16") for part in graphs] == ["fp16", "fp16", "fp32"]
    # An int8 build's caption engine is the fp16 one, and is found as that.
    engine = add_engine(
        bundle, part="caption_prefill", precision="fp16", onnx_sha256=bundle.files["caption_prefill.fp16.onnx"]
    )
    assert find(bundle, part="caption_prefill", precision="int8") == engine
    assert "--precision int8" in complaint(bundle, part="caption_prefill", precision="int8", version="2")


def test_a_graph_that_is_not_there_is_misuse(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="has no fp16 graph, it holds fp32"):
        graph_kind(bundle, "vision", "fp16")
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        graph_kind(bundle, "vision", "fp8")
    with pytest.raises(UsageError, match="has no part 'audio'"):
        graph_kind(bundle, "audio", "fp32")


def test_looking_for_an_engine_imports_no_tensorrt(bundle: Bundle) -> None:
    code = (
        "import sys\n"
        "from yolor_edge.runtime.bundle.bundle import Bundle\n"
        "from yolor_edge.runtime.bundle.engines import find_engine\n"
        "try:\n"
        "    find_engine(Bundle.open(sys.argv[1]), 'vision', 'fp32', 'tensorrt', '10.3.0', 'sm_87')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
        "print([name for name in sys.modules if 'tensorrt' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle.path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["EngineMismatchError", "[]"]
