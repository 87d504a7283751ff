"""Addresses of streams: which they are, and what of them may be shown. User names, passwords and tokens may not."""

from __future__ import annotations

import re

# What FFMPEG opens as a stream; a file:// is a file, and is given by its path.
SCHEMES = ("http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")
PIPELINE_PREFIX = "gst:"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/{1,2}(?=[^/])")


def is_url(text: str) -> bool:
    """Whether this names a scheme; whether a known one is another question."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def scheme_of(url: str) -> str:
    """In small letters, such as "rtsp"."""
    return url.partition(":")[0].lower()


def is_pipeline(text: str) -> bool:
    """Whether this is a GStreamer pipeline: elements with " ! " between, or whatever follows "gst:"."""
    return text.startswith(PIPELINE_PREFIX) or " ! " in text


def shown(text: str) -> str:
    """`text` without what could be a secret in it, for messages, names of files and JSON.

    Of a URL, scheme, host and path stay: whatever stands before the last @ goes, because a password may hold any sign,
    and so does a query, where cameras take tokens. A pipeline becomes "GStreamer pipeline": its elements have passwords
    among their properties. Anything else, such as a path, stays as it is.
    """
    if is_pipeline(text):
        return "GStreamer pipeline"
    found = _SCHEME.match(text)
    if found is None:
        return text
    rest = text[found.end() :].rpartition("@")[2]
    return f"{found[1].lower()}://{re.split(r'[?#]', rest)[0]}".rstrip("/")


def file_stem(name: str) -> str:
    """What of a shown name can name a file, such as "rtsp-10.0.0.7-554-stream1"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "stream"
