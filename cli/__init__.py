"""One multi-task vision network from training to real time.

The four stages are `yolor_edge.train`, `.export`, `.runtime` and `.benchmarks`.
"""

__version__ = "0.1.0"
