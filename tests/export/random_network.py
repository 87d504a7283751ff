"""Networks that were never trained but whose answers depend on the image; not a test itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.runtime.images.preprocess import PreprocessRule, preprocess
from yolor_edge.train.network.blocks import ImplicitAdd, ImplicitMul, Prediction
from yolor_edge.train.network.config import NetworkConfig
from yolor_edge.train.network.network import Network


def random_network(config: NetworkConfig, seed: int = 0) -> Network:
    """A network in evaluation mode with random weights, statistics and implicit vectors, none at its initial value.

    Its running statistics are those of its own features on drawn scenes, so signals neither fade nor blow up on the way
    to the heads. A few cells exceed the score threshold, and captions end before their limit.
    """
    torch.manual_seed(seed)
    network = Network(config)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.4)
                module.bias.normal_(0.0, 0.3)
                module.momentum = 1.0
            elif isinstance(module, ImplicitAdd):
                module.vector.normal_(0.0, 0.3)
            elif isinstance(module, ImplicitMul):
                module.vector.normal_(1.0, 0.3)
        if "caption" in config.tasks:
            *_, last = (part for part in network.caption_decoder.modules() if isinstance(part, nn.Linear))
            last.weight.mul_(1.2 / last.weight.std() if config.caption_regions else 20)
        network.train()
        network(scene_batch(config.input_size, 12))
        network.eval()
        if "boxes" in config.tasks:
            _show_some_boxes(network)
    return network


def _show_some_boxes(network: Network) -> None:
    """Scale and shift the class logits so that about one (cell, class) pair in fifty scores above a quarter."""
    predictions = [branch.get_submodule("2") for branch in network.box_head.classes]
    images = scene_batch(network.config.input_size, 4)
    for prediction in predictions:
        gain = prediction.get_submodule("2")
        assert isinstance(prediction, Prediction) and isinstance(gain, ImplicitMul)
        gain.vector.clamp_(0.5, 1.5)
        nn.init.zeros_(_bias(prediction))
    spread = network(images)["class_logits"].std()
    for prediction in predictions:
        prediction.get_parameter("1.weight").mul_(1.5 / spread)
    high = float(network(images)["class_logits"].flatten().quantile(0.98))
    for prediction in predictions:
        nn.init.constant_(_bias(prediction), -1.1 - high)


def _bias(prediction: nn.Module) -> Tensor:
    return prediction.get_parameter("1.bias")


def scene_batch(input_size: tuple[int, int], count: int) -> Tensor:
    """(count, 3, H, W) float32, drawn scenes as the network takes them."""
    rule = PreprocessRule(input_size)
    height, width = (max(64, side) for side in input_size)
    pictures = [preprocess(draw_scene(9, i, (height, width)).image, rule)[0] for i in range(count)]
    return torch.from_numpy(np.stack(pictures))
