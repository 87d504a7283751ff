"""The two kinds of networks behind one interface: those of our own plan and lists of layers.

What exporting, running and scoring ask of a network, both have: of its `config` tasks, names, strides, codings,
`preprocess_rule`, `thresholds`, `caption_spec`, `axes`, `regions_at`, `with_tasks` and `with_input_size`; of the
network itself `forward` to the raw heads, `region_margins` and, where it writes captions, `caption_decoder` and
`memory_positions`. Nothing outside has to know which of the two it holds.
"""

from __future__ import annotations

from typing import TypeVar

from .config import NetworkConfig
from .layers import LayerNetwork, LayersConfig
from .network import Network

AnyConfig = NetworkConfig | LayersConfig
AnyNetwork = Network | LayerNetwork
SomeNetwork = TypeVar("SomeNetwork", Network, LayerNetwork)


def network_of(config: AnyConfig) -> AnyNetwork:
    """The network of a configuration, with weights that nobody trained."""
    return LayerNetwork(config) if isinstance(config, LayersConfig) else Network(config)
