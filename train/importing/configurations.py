"""The layers of the official configurations, for files that hold tensors alone.

A layer is written as its class, the layers it reads (the one before it where nothing is said) and what its tensors do
not tell: `s2` is a stride of two, `k5` the kernel of a pool, `i0,0` the parts that CBFuse chooses. A number before the
class repeats it. Where two configurations have one name, the other one ends with `-deploy` (YOLOv7 without its training
aids) or `-paper` (YOLOR's branch of that name).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """Layers of a network as (class, sources, arguments), its family and its activation (class, attributes)."""

    name: str
    family: str
    layers: tuple[tuple[str, list[int], dict[str, Any]], ...]
    activation: tuple[str, dict[str, Any]] = ("SiLU", {})


def _read(name: str, family: str, text: str) -> Configuration:
    layers = []
    for words in (part.split() for part in text.split("|")):
        count = int(words.pop(0)) if words[0].isdigit() else 1
        links: list[int] = []
        arguments: dict[str, Any] = {}
        for word in words[1:]:
            if word[0] == "s":
                arguments["stride"] = int(word[1:])
            elif word[0] == "k":
                arguments["kernel"] = int(word[1:])
            elif word[0] == "i":
                arguments["idx"] = [int(item) for item in word[1:].split(",")]
            else:
                links.append(int(word))
        layers += [(words[0], links or [-1], arguments)] * count
    leaky = ("LeakyReLU", {"negative_slope": 0.1})
    return Configuration(name, family, tuple(layers), leaky if name == "yolov7-tiny" else ("SiLU", {}))


_PLANS = {
    "gelan-c": (
        "yolov9",
        "2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | "
        "SPPELAN | Upsample | Concat -1 6 | RepNCSPELAN4 | Upsample | Concat -1 4 | RepNCSPELAN4 | ADown | "
        "Concat -1 12 | RepNCSPELAN4 | ADown | Concat -1 9 | RepNCSPELAN4 | DDetect 15 18 21",
    ),
    "gelan-c-dseg": (
        "yolov9",
        "2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | "
        "SPPELAN | Upsample | Concat -1 6 | RepNCSPELAN4 | Upsample | Concat -1 4 | RepNCSPELAN4 | ADown | "
        "Concat -1 12 | RepNCSPELAN4 | ADown | Concat -1 9 | RepNCSPELAN4 | RepNCSPELAN4 15 | Upsample | Conv "
        "| DSegment 15 18 21 24",
    ),
    "gelan-c-pan": (
        "yolov9",
        "2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | "
        "SPPELAN | Upsample | Concat -1 6 | RepNCSPELAN4 | Upsample | Concat -1 4 | RepNCSPELAN4 | ADown | "
        "Concat -1 12 | RepNCSPELAN4 | ADown | Concat -1 9 | RepNCSPELAN4 | Panoptic 15 18 21",
    ),
    "gelan-c-seg": (
        "yolov9",
        "2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | "
        "SPPELAN | Upsample | Concat -1 6 | RepNCSPELAN4 | Upsample | Concat -1 4 | RepNCSPELAN4 | ADown | "
        "Concat -1 12 | RepNCSPELAN4 | ADown | Concat -1 9 | RepNCSPELAN4 | Segment 15 18 21",
    ),
    "gelan-m": (
        "yolov9",
        "2 Conv s2 | RepNCSPELAN4 | AConv | RepNCSPELAN4 | AConv | RepNCSPELAN4 | AConv | RepNCSPELAN4 | "
        "SPPELAN | Upsample | Concat -1 6 | RepNCSPELAN4 | Upsample | Concat -1 4 | RepNCSPELAN4 | AConv | "
        "Concat -1 12 | RepNCSPELAN4 | AConv | Concat -1 9 | RepNCSPELAN4 | DDetect 15 18 21",
    ),
    "gelan-s": (
        "yolov9",
        "2 Conv s2 | ELAN1 | AConv | RepNCSPELAN4 | AConv | RepNCSPELAN4 | AConv | RepNCSPELAN4 | SPPELAN | "
        "Upsample | Concat -1 6 | RepNCSPELAN4 | Upsample | Concat -1 4 | RepNCSPELAN4 | AConv | Concat -1 12 "
        "| RepNCSPELAN4 | AConv | Concat -1 9 | RepNCSPELAN4 | DDetect 15 18 21",
    ),
    "gyolo": (
        "generalist",
        "Silence | 2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | "
        "RepNCSPELAN4 | SPPELAN | PSA | Upsample | Concat -1 7 | RepNCSPELAN4 | Upsample | Concat -1 5 | "
        "RepNCSPELAN4B | ADown | Concat -1 14 | RepNCSPELAN4B | ADown | Concat -1 11 | RepNCSPELAN4B | "
        "CBLinear 5 | CBLinear 7 | CBLinear 9 | Conv 0 s2 | Conv s2 | RepNCSPELAN4 | ADown | CBFuse 24 25 26 "
        "-1 i0,0,0 | RepNCSPELAN4 | ADown | CBFuse 25 26 -1 i1,1 | RepNCSPELAN4 | ADown | CBFuse 26 -1 i2 | "
        "RepNCSPELAN4 | RepNCSPELAN4 32 | Upsample | DWConv | Conv | RepNCSPELAN4 17 | Upsample | DWConv | "
        "Conv | RepNCSPELAN4 32 | Upsample | DWConv | Conv | RepNCSPELAN4 17 | Upsample | DWConv | Conv | "
        "DualDPanoptic 32 35 38 17 20 23 17 20 23 42 46 50 54 | Grit 17 20 23 11 44 55 | OutputLayer 55 56",
    ),
    "yolor-csp": (
        "yolor",
        "Conv | Conv s2 | Bottleneck | Conv s2 | BottleneckCSPC | Conv s2 | BottleneckCSPC | Conv s2 | "
        "BottleneckCSPC | Conv s2 | BottleneckCSPC | SPPCSPC | Conv | Upsample | Conv 8 | Concat -1 -2 | "
        "BottleneckCSPB | Conv | Upsample | Conv 6 | Concat -1 -2 | BottleneckCSPB | Conv | Conv -2 s2 | "
        "Concat -1 16 | BottleneckCSPB | Conv | Conv -2 s2 | Concat -1 11 | BottleneckCSPB | Conv | IDetect "
        "22 26 30",
    ),
    "yolor-csp-x": (
        "yolor",
        "Conv | Conv s2 | Bottleneck | Conv s2 | BottleneckCSPC | Conv s2 | BottleneckCSPC | Conv s2 | "
        "BottleneckCSPC | Conv s2 | BottleneckCSPC | SPPCSPC | Conv | Upsample | Conv 8 | Concat -1 -2 | "
        "BottleneckCSPB | Conv | Upsample | Conv 6 | Concat -1 -2 | BottleneckCSPB | Conv | Conv -2 s2 | "
        "Concat -1 16 | BottleneckCSPB | Conv | Conv -2 s2 | Concat -1 11 | BottleneckCSPB | Conv | IDetect "
        "22 26 30",
    ),
    "yolor-d6": (
        "yolor",
        "ReOrg | Conv | DownC | BottleneckCSPA | DownC | BottleneckCSPA | DownC | BottleneckCSPA | DownC | "
        "BottleneckCSPA | DownC | BottleneckCSPA | SPPCSPC | Conv | Upsample | Conv -6 | Concat -1 -2 | "
        "BottleneckCSPB | Conv | Upsample | Conv -13 | Concat -1 -2 | BottleneckCSPB | Conv | Upsample | Conv "
        "-20 | Concat -1 -2 | BottleneckCSPB | Conv | DownC -2 | Concat -1 22 | BottleneckCSPB | Conv | DownC "
        "-2 | Concat -1 17 | BottleneckCSPB | Conv | DownC -2 | Concat -1 12 | BottleneckCSPB | Conv | "
        "IDetect 28 32 36 40",
    ),
    "yolor-e6": (
        "yolor",
        "ReOrg | Conv | DownC | BottleneckCSPA | DownC | BottleneckCSPA | DownC | BottleneckCSPA | DownC | "
        "BottleneckCSPA | DownC | BottleneckCSPA | SPPCSPC | Conv | Upsample | Conv -6 | Concat -1 -2 | "
        "BottleneckCSPB | Conv | Upsample | Conv -13 | Concat -1 -2 | BottleneckCSPB | Conv | Upsample | Conv "
        "-20 | Concat -1 -2 | BottleneckCSPB | Conv | DownC -2 | Concat -1 22 | BottleneckCSPB | Conv | DownC "
        "-2 | Concat -1 17 | BottleneckCSPB | Conv | DownC -2 | Concat -1 12 | BottleneckCSPB | Conv | "
        "IDetect 28 32 36 40",
    ),
    "yolor-p6": (
        "yolor",
        "ReOrg | Conv | Conv s2 | BottleneckCSPA | Conv s2 | BottleneckCSPA | Conv s2 | BottleneckCSPA | Conv "
        "s2 | BottleneckCSPA | Conv s2 | BottleneckCSPA | SPPCSPC | Conv | Upsample | Conv -6 | Concat -1 -2 "
        "| BottleneckCSPB | Conv | Upsample | Conv -13 | Concat -1 -2 | BottleneckCSPB | Conv | Upsample | "
        "Conv -20 | Concat -1 -2 | BottleneckCSPB | Conv | Conv -2 s2 | Concat -1 22 | BottleneckCSPB | Conv "
        "| Conv -2 s2 | Concat -1 17 | BottleneckCSPB | Conv | Conv -2 s2 | Concat -1 12 | BottleneckCSPB | "
        "Conv | IDetect 28 32 36 40",
    ),
    "yolor-p6-paper": (
        "yolor",
        "ReOrg | Conv | Conv s2 | BottleneckCSPF | Conv s2 | BottleneckCSPF | Conv s2 | BottleneckCSPF | Conv "
        "s2 | BottleneckCSPF | Conv s2 | BottleneckCSPF | SPPCSP | Conv | Upsample | Conv -6 | Concat -1 -2 | "
        "BottleneckCSP2 | Conv | Upsample | Conv -13 | Concat -1 -2 | BottleneckCSP2 | Conv | Upsample | Conv "
        "-20 | Concat -1 -2 | BottleneckCSP2 | Conv | Conv -2 s2 | Concat -1 22 | BottleneckCSP2 | Conv | "
        "Conv -2 s2 | Concat -1 17 | BottleneckCSP2 | Conv | Conv -2 s2 | Concat -1 12 | BottleneckCSP2 | "
        "Conv | IDetect 28 32 36 40",
    ),
    "yolor-ssss-s2d-paper": (
        "yolor",
        "3 ReOrg | BottleneckCSP | Conv s2 | BottleneckCSP | Conv s2 | BottleneckCSP | SPPCSP | Conv | "
        "Upsample | Conv 5 | Concat -1 -2 | BottleneckCSP2 | Conv | Upsample | Conv 3 | Concat -1 -2 | "
        "BottleneckCSP2 | Conv | Conv -2 s2 | Concat -1 13 | BottleneckCSP2 | Conv | Conv -2 s2 | Concat -1 8 "
        "| BottleneckCSP2 | Conv | IDetect 19 23 27",
    ),
    "yolor-w6": (
        "yolor",
        "ReOrg | Conv | Conv s2 | BottleneckCSPA | Conv s2 | BottleneckCSPA | Conv s2 | BottleneckCSPA | Conv "
        "s2 | BottleneckCSPA | Conv s2 | BottleneckCSPA | SPPCSPC | Conv | Upsample | Conv -6 | Concat -1 -2 "
        "| BottleneckCSPB | Conv | Upsample | Conv -13 | Concat -1 -2 | BottleneckCSPB | Conv | Upsample | "
        "Conv -20 | Concat -1 -2 | BottleneckCSPB | Conv | Conv -2 s2 | Concat -1 22 | BottleneckCSPB | Conv "
        "| Conv -2 s2 | Concat -1 17 | BottleneckCSPB | Conv | Conv -2 s2 | Concat -1 12 | BottleneckCSPB | "
        "Conv | IDetect 28 32 36 40",
    ),
    "yolov7": (
        "yolov7",
        "Conv | Conv s2 | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | SPPCSPC | "
        "Conv | Upsample | Conv 37 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 "
        "Conv | Upsample | Conv 24 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv "
        "| MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 63 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 "
        "-6 | Conv | MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 51 | Conv | Conv -2 | 4 Conv | Concat -1 -2 "
        "-3 -4 -5 -6 | Conv | RepConv 75 | RepConv 88 | RepConv 101 | IDetect 102 103 104",
    ),
    "yolov7-af": (
        "yolov9",
        "Conv | Conv s2 | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | SPPCSPC | "
        "Conv | Upsample | Conv 37 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 "
        "Conv | Upsample | Conv 24 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv "
        "| MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 63 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 "
        "-6 | Conv | MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 51 | Conv | Conv -2 | 4 Conv | Concat -1 -2 "
        "-3 -4 -5 -6 | Conv | Conv 75 | Conv 88 | Conv 101 | Detect 102 103 104",
    ),
    "yolov7-d6": (
        "yolov7",
        "ReOrg | Conv | DownC | Conv | Conv -2 | 8 Conv | Concat -1 -3 -5 -7 -9 -10 | Conv | DownC | Conv | "
        "Conv -2 | 8 Conv | Concat -1 -3 -5 -7 -9 -10 | Conv | DownC | Conv | Conv -2 | 8 Conv | Concat -1 -3 "
        "-5 -7 -9 -10 | Conv | DownC | Conv | Conv -2 | 8 Conv | Concat -1 -3 -5 -7 -9 -10 | Conv | DownC | "
        "Conv | Conv -2 | 8 Conv | Concat -1 -3 -5 -7 -9 -10 | Conv | SPPCSPC | Conv | Upsample | Conv 53 | "
        "Concat -1 -2 | Conv | Conv -2 | 8 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 -9 -10 | 2 Conv | Upsample | "
        "Conv 40 | Concat -1 -2 | Conv | Conv -2 | 8 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 -9 -10 | 2 Conv | "
        "Upsample | Conv 27 | Concat -1 -2 | Conv | Conv -2 | 8 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 -9 -10 "
        "| Conv | DownC | Concat -1 99 | Conv | Conv -2 | 8 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 -9 -10 | "
        "Conv | DownC | Concat -1 83 | Conv | Conv -2 | 8 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 -9 -10 | Conv "
        "| DownC | Concat -1 67 | Conv | Conv -2 | 8 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 -9 -10 | Conv | "
        "Conv 115 | Conv 129 | Conv 143 | Conv 157 | Conv 115 | Conv 99 | Conv 83 | Conv 67 | IAuxDetect 158 "
        "159 160 161 162 163 164 165",
    ),
    "yolov7-deploy": (
        "yolov7",
        "Conv | Conv s2 | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | SPPCSPC | "
        "Conv | Upsample | Conv 37 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 "
        "Conv | Upsample | Conv 24 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv "
        "| MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 63 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 "
        "-6 | Conv | MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 51 | Conv | Conv -2 | 4 Conv | Concat -1 -2 "
        "-3 -4 -5 -6 | Conv | RepConv 75 | RepConv 88 | RepConv 101 | Detect 102 103 104",
    ),
    "yolov7-e6": (
        "yolov7",
        "ReOrg | Conv | DownC | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | DownC | Conv | Conv "
        "-2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | DownC | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 "
        "| Conv | DownC | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | DownC | Conv | Conv -2 | 6 "
        "Conv | Concat -1 -3 -5 -7 -8 | Conv | SPPCSPC | Conv | Upsample | Conv 45 | Concat -1 -2 | Conv | "
        "Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | 2 Conv | Upsample | Conv 34 | Concat -1 -2 | "
        "Conv | Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | 2 Conv | Upsample | Conv 23 | Concat -1 "
        "-2 | Conv | Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | DownC | Concat -1 85 | Conv | "
        "Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | DownC | Concat -1 71 | Conv | Conv -2 | 6 "
        "Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | DownC | Concat -1 57 | Conv | Conv -2 | 6 Conv | "
        "Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Conv 99 | Conv 111 | Conv 123 | Conv 135 | Conv 99 | Conv 85 "
        "| Conv 71 | Conv 57 | IAuxDetect 136 137 138 139 140 141 142 143",
    ),
    "yolov7-e6e": (
        "yolov7",
        "ReOrg | Conv | DownC | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | Conv -11 | Conv -12 "
        "| 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | Shortcut -1 -11 | DownC | Conv | Conv -2 | 6 Conv | Concat "
        "-1 -3 -5 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | Shortcut -1 "
        "-11 | DownC | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv "
        "| Concat -1 -3 -5 -7 -8 | Conv | Shortcut -1 -11 | DownC | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 "
        "-7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | Shortcut -1 -11 | DownC "
        "| Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 "
        "-3 -5 -7 -8 | Conv | Shortcut -1 -11 | SPPCSPC | Conv | Upsample | Conv 89 | Concat -1 -2 | Conv | "
        "Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 "
        "-2 -3 -4 -5 -6 -7 -8 | Conv | Shortcut -1 -11 | Conv | Upsample | Conv 67 | Concat -1 -2 | Conv | "
        "Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 "
        "-2 -3 -4 -5 -6 -7 -8 | Conv | Shortcut -1 -11 | Conv | Upsample | Conv 45 | Concat -1 -2 | Conv | "
        "Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 "
        "-2 -3 -4 -5 -6 -7 -8 | Conv | Shortcut -1 -11 | DownC | Concat -1 162 | Conv | Conv -2 | 6 Conv | "
        "Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 "
        "-8 | Conv | Shortcut -1 -11 | DownC | Concat -1 137 | Conv | Conv -2 | 6 Conv | Concat -1 -2 -3 -4 "
        "-5 -6 -7 -8 | Conv | Conv -11 | Conv -12 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Shortcut "
        "-1 -11 | DownC | Concat -1 112 | Conv | Conv -2 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | "
        "Conv -11 | Conv -12 | 6 Conv | Concat -1 -2 -3 -4 -5 -6 -7 -8 | Conv | Shortcut -1 -11 | Conv 187 | "
        "Conv 210 | Conv 233 | Conv 256 | Conv 186 | Conv 161 | Conv 136 | Conv 112 | IAuxDetect 257 258 259 "
        "260 261 262 263 264",
    ),
    "yolov7-seg": (
        "yolov7",
        "Conv | Conv s2 | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | MP | Conv | "
        "Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | SPPCSPC | "
        "Conv | Upsample | Conv 37 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 "
        "Conv | Upsample | Conv 24 | Concat -1 -2 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv "
        "| MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 63 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 "
        "-6 | Conv | MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 51 | Conv | Conv -2 | 4 Conv | Concat -1 -2 "
        "-3 -4 -5 -6 | Conv | Conv 75 | Conv 88 | Conv 101 | ISegment 102 103 104",
    ),
    "yolov7-tiny": (
        "yolov7",
        "2 Conv s2 | Conv | Conv -2 | 2 Conv | Concat -1 -2 -3 -4 | Conv | MP | Conv | Conv -2 | 2 Conv | "
        "Concat -1 -2 -3 -4 | Conv | MP | Conv | Conv -2 | 2 Conv | Concat -1 -2 -3 -4 | Conv | MP | Conv | "
        "Conv -2 | 2 Conv | Concat -1 -2 -3 -4 | 2 Conv | Conv -2 | SP k5 | SP -2 k9 | SP -3 k13 | Concat -1 "
        "-2 -3 -4 | Conv | Concat -1 -7 | 2 Conv | Upsample | Conv 21 | Concat -1 -2 | Conv | Conv -2 | 2 "
        "Conv | Concat -1 -2 -3 -4 | 2 Conv | Upsample | Conv 14 | Concat -1 -2 | Conv | Conv -2 | 2 Conv | "
        "Concat -1 -2 -3 -4 | Conv | Conv s2 | Concat -1 47 | Conv | Conv -2 | 2 Conv | Concat -1 -2 -3 -4 | "
        "Conv | Conv s2 | Concat -1 37 | Conv | Conv -2 | 2 Conv | Concat -1 -2 -3 -4 | Conv | Conv 57 | Conv "
        "65 | Conv 73 | IDetect 74 75 76",
    ),
    "yolov7-w6": (
        "yolov7",
        "ReOrg | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | Conv s2 | Conv | Conv "
        "-2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | "
        "Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | Conv s2 | Conv | Conv -2 | 4 "
        "Conv | Concat -1 -3 -5 -6 | Conv | SPPCSPC | Conv | Upsample | Conv 37 | Concat -1 -2 | Conv | Conv "
        "-2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 Conv | Upsample | Conv 28 | Concat -1 -2 | Conv | Conv -2 "
        "| 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 Conv | Upsample | Conv 19 | Concat -1 -2 | Conv | Conv -2 | "
        "4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv | Conv s2 | Concat -1 71 | Conv | Conv -2 | 4 Conv | Concat "
        "-1 -2 -3 -4 -5 -6 | Conv | Conv s2 | Concat -1 59 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 "
        "-6 | Conv | Conv s2 | Concat -1 47 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv | "
        "Conv 83 | Conv 93 | Conv 103 | Conv 113 | Conv 83 | Conv 71 | Conv 59 | Conv 47 | IAuxDetect 114 115 "
        "116 117 118 119 120 121",
    ),
    "yolov7-w6-deploy": (
        "yolov7",
        "ReOrg | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | Conv s2 | Conv | Conv "
        "-2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | "
        "Conv | Conv s2 | Conv | Conv -2 | 4 Conv | Concat -1 -3 -5 -6 | Conv | Conv s2 | Conv | Conv -2 | 4 "
        "Conv | Concat -1 -3 -5 -6 | Conv | SPPCSPC | Conv | Upsample | Conv 37 | Concat -1 -2 | Conv | Conv "
        "-2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 Conv | Upsample | Conv 28 | Concat -1 -2 | Conv | Conv -2 "
        "| 4 Conv | Concat -1 -2 -3 -4 -5 -6 | 2 Conv | Upsample | Conv 19 | Concat -1 -2 | Conv | Conv -2 | "
        "4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv | Conv s2 | Concat -1 71 | Conv | Conv -2 | 4 Conv | Concat "
        "-1 -2 -3 -4 -5 -6 | Conv | Conv s2 | Concat -1 59 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 "
        "-6 | Conv | Conv s2 | Concat -1 47 | Conv | Conv -2 | 4 Conv | Concat -1 -2 -3 -4 -5 -6 | Conv | "
        "Conv 83 | Conv 93 | Conv 103 | Conv 113 | Detect 114 115 116 117",
    ),
    "yolov7x": (
        "yolov7",
        "Conv | Conv s2 | Conv | Conv s2 | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | MP | Conv "
        "| Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | MP | "
        "Conv | Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | Conv | "
        "MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 -8 | "
        "Conv | SPPCSPC | Conv | Upsample | Conv 43 | Concat -1 -2 | Conv | Conv -2 | 6 Conv | Concat -1 -3 "
        "-5 -7 -8 | 2 Conv | Upsample | Conv 28 | Concat -1 -2 | Conv | Conv -2 | 6 Conv | Concat -1 -3 -5 -7 "
        "-8 | Conv | MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 73 | Conv | Conv -2 | 6 Conv | Concat -1 -3 "
        "-5 -7 -8 | Conv | MP | Conv | Conv -3 | Conv s2 | Concat -1 -3 59 | Conv | Conv -2 | 6 Conv | Concat "
        "-1 -3 -5 -7 -8 | Conv | Conv 87 | Conv 102 | Conv 117 | IDetect 118 119 120",
    ),
    "yolov9-c": (
        "yolov9",
        "Silence | 2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | "
        "RepNCSPELAN4 | SPPELAN | Upsample | Concat -1 7 | RepNCSPELAN4 | Upsample | Concat -1 5 | "
        "RepNCSPELAN4 | ADown | Concat -1 13 | RepNCSPELAN4 | ADown | Concat -1 10 | RepNCSPELAN4 | CBLinear "
        "5 | CBLinear 7 | CBLinear 9 | Conv 0 s2 | Conv s2 | RepNCSPELAN4 | ADown | CBFuse 23 24 25 -1 i0,0,0 "
        "| RepNCSPELAN4 | ADown | CBFuse 24 25 -1 i1,1 | RepNCSPELAN4 | ADown | CBFuse 25 -1 i2 | "
        "RepNCSPELAN4 | DualDDetect 31 34 37 16 19 22",
    ),
    "yolov9-c-dseg": (
        "yolov9",
        "Silence | 2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | "
        "RepNCSPELAN4 | SPPELAN | Upsample | Concat -1 7 | RepNCSPELAN4 | Upsample | Concat -1 5 | "
        "RepNCSPELAN4 | ADown | Concat -1 13 | RepNCSPELAN4 | ADown | Concat -1 10 | RepNCSPELAN4 | CBLinear "
        "5 | CBLinear 7 | CBLinear 9 | Conv 0 s2 | Conv s2 | RepNCSPELAN4 | ADown | CBFuse 23 24 25 -1 i0,0,0 "
        "| RepNCSPELAN4 | ADown | CBFuse 24 25 -1 i1,1 | RepNCSPELAN4 | ADown | CBFuse 25 -1 i2 | "
        "RepNCSPELAN4 | RepNCSPELAN4 31 | Upsample | Conv | RepNCSPELAN4 16 | Upsample | Conv | DualDSegment "
        "31 34 37 16 19 22 40 43",
    ),
    "yolov9-e": (
        "yolov9",
        "Silence | 2 Conv s2 | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | RepNCSPELAN4 | ADown | "
        "RepNCSPELAN4 | CBLinear 1 | CBLinear 3 | CBLinear 5 | CBLinear 7 | CBLinear 9 | Conv 0 s2 | CBFuse "
        "10 11 12 13 14 -1 i0,0,0,0,0 | Conv s2 | CBFuse 11 12 13 14 -1 i1,1,1,1 | RepNCSPELAN4 | ADown | "
        "CBFuse 12 13 14 -1 i2,2,2 | RepNCSPELAN4 | ADown | CBFuse 13 14 -1 i3,3 | RepNCSPELAN4 | ADown | "
        "CBFuse 14 -1 i4 | RepNCSPELAN4 | SPPELAN 9 | Upsample | Concat -1 7 | RepNCSPELAN4 | Upsample | "
        "Concat -1 5 | RepNCSPELAN4 | SPPELAN 28 | Upsample | Concat -1 25 | RepNCSPELAN4 | Upsample | Concat "
        "-1 22 | RepNCSPELAN4 | ADown | Concat -1 39 | RepNCSPELAN4 | ADown | Concat -1 36 | RepNCSPELAN4 | "
        "DualDDetect 35 32 29 42 45 48",
    ),
}
CONFIGURATIONS = {name: _read(name, family, text) for name, (family, text) in _PLANS.items()}
