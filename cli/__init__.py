"""One multi-task vision network from training to real time.

The stages are `yolor_edge.train`, `.evaluation`, `.export`, `.runtime` and `.benchmarks`.
"""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, which pyproject.toml states; read when it is asked for, since reading it takes a while."""
    if name == "__version__":
        from .runtime.environment.install import package_version

        return package_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
