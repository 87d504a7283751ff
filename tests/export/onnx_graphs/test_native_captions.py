"""The native caption decoder on exported weights: the captions of the network and of the ONNX step graphs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.export.onnx_graphs.caption_weights import write_caption_weights
from yolor_edge.export.onnx_graphs.fold import fold
from yolor_edge.export.to_onnx import export_part
from yolor_edge.runtime.backends.onnxruntime_backend import open_graph
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionDecoder, CaptionOptions
from yolor_edge.runtime.captions.native_captioning import KERNELS_VARIABLE, NativeCaptionDecoder
from yolor_edge.runtime.errors import BundleError, UsageError
from yolor_edge.runtime.files import sha256_of
from yolor_edge.runtime.images.preprocess import preprocess
from yolor_edge.runtime.model import load
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.torch_backend import parts_of, spec_of

from ..exported import Exported

DEMO = Path(__file__).resolve().parents[3] / "demo" / "checkpoint"
SEARCHES = [
    CaptionOptions(beam_size=1),
    CaptionOptions(),
    CaptionOptions(beam_size=5, n_best=3, no_repeat_ngram=3, repetition_penalty=1.1),
    CaptionOptions(beam_size=3, temperature=0.8, top_k=5, seed=1),
]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_demo_network_its_graphs_and_the_native_decoder_write_the_same(tmp_path: Path) -> None:
    network = Checkpoint.open(DEMO).network()
    spec = spec_of(network.config)
    assert spec.caption is not None
    own = parts_of(network)
    exported = {}
    for name, part in parts_of(fold(network)).items():
        if name != "vision":
            onnx.save(export_part(name, part), tmp_path / f"{name}.onnx")
            exported[name] = open_graph(tmp_path / f"{name}.onnx", 1)
    parameters = {name: value.numpy() for name, value in network.caption_decoder.state_dict().items()}
    where = network.memory_positions(network.config.input_size).numpy()
    write_caption_weights(tmp_path / "caption.bin", parameters, where, network.caption_decoder.heads, "fp32")
    native = NativeCaptionDecoder(spec.caption, tmp_path / "caption.bin")
    others = [
        CaptionDecoder(spec.caption, graphs["caption_prefill"], graphs["caption_step"]) for graphs in (own, exported)
    ]
    for i in range(20):
        tensor, _ = preprocess(draw_scene(77, i, spec.input_size).image, spec.preprocess)
        memory = own["vision"].run({"images": tensor[np.newaxis]}, ["caption_memory"])["caption_memory"]
        # The network is the slowest of the three, so it checks the searches that everybody uses.
        for options in SEARCHES:
            found, _ = native.write(memory, options)
            for other in others if options in SEARCHES[:2] else others[1:]:
                expected, _ = other.write(memory, options)
                assert found.token_ids == expected.token_ids
                assert [o.token_ids for o in found.others] == [o.token_ids for o in expected.others]
                assert found.log_prob == pytest.approx(expected.log_prob, abs=1e-3)


def test_a_bundle_holds_the_weights_and_uses_them(exported: Exported) -> None:
    bundle = exported.bundle
    assert dict(bundle.caption_weights) == {"fp32": "caption.fp32.bin", "int8": "caption.int8.bin"}
    image = draw_scene(5, 0, (64, 96)).image
    captions = {}
    for choice in (None, "native", "native-int8", "graph"):
        with load(bundle, threads=1, caption_decoder=choice) as model:
            result = model.predict(image, {"caption"}, caption=CaptionOptions(n_best=2))
            assert result.caption is not None and len(result.caption.others) == 1
            assert result.timings_ms["caption_tokens"] >= 1
            captions[choice] = result.caption
    assert captions[None] == captions["native"]
    assert captions["native"].token_ids == captions["graph"].token_ids
    assert captions["native"].score == pytest.approx(captions["graph"].score, abs=1e-3)


def test_old_bundles_use_their_graphs(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.bundle.path, tmp_path / "old"))
    content = json.loads((folder / "bundle.json").read_text())
    for name in content.pop("caption_weights").values():
        del content["files"][name]
        (folder / name).unlink()
    (folder / "bundle.json").write_text(json.dumps(content))
    old = Bundle.open(folder)
    assert old.caption_weights == {}
    with load(old, threads=1) as model:
        assert model.predict(draw_scene(5, 0, (64, 96)).image, {"caption"}).caption is not None
    with pytest.raises(UsageError, match=r'holds no caption weights in fp32; load with caption_decoder="graph"'):
        load(old, threads=1, caption_decoder="native")


def test_choices_and_weights_that_do_not_fit(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="caption_decoder must be one of native, native-int8, graph, got 'python'"):
        load(exported.bundle, caption_decoder="python")
    monkeypatch.setenv(KERNELS_VARIABLE, "mmx")
    with pytest.raises(UsageError, match=r"caption kernels must be one of portable, .* on this processor, got 'mmx'"):
        load(exported.bundle, threads=1)
    monkeypatch.setenv(KERNELS_VARIABLE, "portable")
    spec = exported.bundle.spec.caption
    assert spec is not None
    path = exported.bundle.path / "caption.fp32.bin"
    decoder = NativeCaptionDecoder(spec, path)
    assert decoder.kernels == "portable"
    with pytest.raises(UsageError, match=re.escape("caption_memory must have shape (1, 6, 128), got (1, 5, 128)")):
        decoder.write(np.zeros((1, 5, 128), np.float32), CaptionOptions())

    folder = Path(shutil.copytree(exported.bundle.path, tmp_path / "spoilt"))
    data = path.read_bytes()[:-64]
    (folder / path.name).write_bytes(data)
    content = json.loads((folder / "bundle.json").read_text())
    content["files"][path.name] = sha256_of(folder / path.name)
    content["model"]["caption"]["vocabulary"].append("more")
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"caption\.fp32\.bin: tensor .* ends at byte"):
        load(folder, threads=1)
    (folder / path.name).write_bytes(path.read_bytes())
    content["files"][path.name] = sha256_of(folder / path.name)
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"the decoder has \d+ words, the model \d+; export the model again"):
        load(folder, threads=1)
    content["caption_weights"] = {"fp64": path.name, "int8": "none.bin"}
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"unknown precision 'fp64' of caption_weights.*'none.bin' is not among"):
        Bundle.open(folder)


def test_a_budget_cuts_captions_short_in_both_decoders(exported: Exported) -> None:
    options = CaptionOptions(beam_size=2, budget_ms=0, min_length=5)
    for choice in ("native", "graph"):
        with load(exported.bundle, threads=1, caption_decoder=choice) as model:
            result = model.predict(draw_scene(5, 0, (64, 96)).image, {"caption"}, caption=options)
        assert result.caption is not None and result.caption.is_cut and len(result.caption.token_ids) == 1
        assert result.to_json()["caption"]["is_cut"]
