"""In place of `tensorrt`."""

from pretended_tensorrt import *  # noqa: F403

__version__ = "10.13.0.35"
