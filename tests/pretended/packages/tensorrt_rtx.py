"""In place of `tensorrt_rtx`."""

from pretended_tensorrt import *  # noqa: F403

__version__ = "1.7.1.116"
