"""Several images at a time through the network give what one at a time gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.evaluator import BatchPredictor, score_model
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.errors import UnavailableError, UsageError
from yolor_edge.train.batched_model import BatchedModel
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.scoring import evaluate_checkpoint, usual_batch
from yolor_edge.train.torch_backend import torch_model

from .tiny_network import tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = CaptionOptions(beam_size=1)


def test_a_batch_answers_as_the_pipeline_does_image_by_image(scenes: Path) -> None:
    torch.manual_seed(0)
    dataset = CocoDataset.open(scenes)
    config = describe_network(dataset, "n", TrainConfig(), (64, 96), None, "batched")
    network = tiny_network(**vars(config))
    images = [dataset.read(dataset[i]) for i in range(4)] + [np.full((50, 200, 3), 90, np.uint8)]
    model, batched = torch_model(network), BatchedModel(network, 3)
    assert isinstance(batched, BatchPredictor)
    assert not isinstance(model, BatchPredictor)
    found = batched.predict_many(images[:3], config.tasks, score_threshold=0.001, caption=GREEDY)
    found += batched.predict_many(images[3:], config.tasks, score_threshold=0.001, caption=GREEDY)
    assert len(found) == 5
    for image, answer in zip(images, found, strict=True):
        expected = model.predict(image, config.tasks, score_threshold=0.001, caption=GREEDY)
        assert answer.image_size == expected.image_size == image.shape[:2]
        assert answer.boxes is not None and expected.boxes is not None
        assert answer.scores is not None and expected.scores is not None
        assert answer.masks is not None and expected.masks is not None
        assert answer.semantic_map is not None and expected.semantic_map is not None
        assert answer.caption is not None and expected.caption is not None
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(answer.boxes, expected.boxes, atol=1e-2)
        assert len(answer.masks) == len(expected.masks)
        assert (answer.semantic_map == expected.semantic_map).mean() > 0.999
        assert answer.caption.text == expected.caption.text

    one, many = (score_model(each, dataset, caption=GREEDY).scores for each in (model, batched))
    assert one.images == many.images == 8
    for name in ("box_ap", "box_ar100", "mask_ap", "miou", "pq", "bleu4", "cider"):
        assert getattr(many, name) == pytest.approx(getattr(one, name), abs=1e-4), name


def test_the_cpu_takes_one_image_at_a_time() -> None:
    assert usual_batch(tiny_network(tasks=("boxes",))) == 1


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batch must be at least 1, got 0"):
        evaluate_checkpoint("nowhere", "nowhere", batch=0)
    with pytest.raises(UsageError, match=r"device 'gpu' is not known .* choose auto, cpu or cuda:N"):
        evaluate_checkpoint("nowhere", "nowhere", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match=r"device 'cuda:3' cannot be used here"):
            evaluate_checkpoint("nowhere", "nowhere", device="cuda:3")
