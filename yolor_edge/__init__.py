"""One multi-task vision network from training to real time: `yolor_edge.train`, `.export`, `.runtime`, `.benchmarks`."""

__version__ = "0.1.0"
