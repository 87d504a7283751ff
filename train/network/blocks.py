"""The building blocks of backbone and neck: Conv, ELAN, ELAN-H, MP and SPPCSPC, and the implicit vectors of YOLOR.

Sources: YOLOv7 (arXiv 2207.02696) for ELAN, ELAN-H, MP and SPPCSPC; YOLOR (arXiv 2105.04206) for implicit knowledge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv(nn.Sequential):
    """Convolution without bias, batch normalisation, SiLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )
        self.c_out = c_out


class ELAN(nn.Module):
    """Two 1x1 Convs to `hidden`, a row of 3x3 Convs on the second, tapped twice; all taps meet in a 1x1 Conv."""

    def __init__(self, c_in: int, hidden: int, c_out: int, convs_per_tap: int) -> None:
        super().__init__()
        self.short = Conv(c_in, hidden)
        self.entry = Conv(c_in, hidden)
        self.rows = nn.ModuleList(
            nn.Sequential(*(Conv(hidden, hidden, 3) for _ in range(convs_per_tap))) for _ in range(2)
        )
        self.exit = Conv(4 * hidden, c_out)

    def forward(self, x: Tensor) -> Tensor:
        taps = [self.short(x), self.entry(x)]
        for row in self.rows:
            taps.append(row(taps[-1]))
        return self.exit(torch.cat(taps[::-1], 1))


class ELANH(nn.Module):
    """The neck's ELAN: every one of the 3x3 Convs of `narrow` channels is tapped."""

    def __init__(self, c_in: int, hidden: int, narrow: int, c_out: int, convs: int) -> None:
        super().__init__()
        self.short = Conv(c_in, hidden)
        self.entry = Conv(c_in, hidden)
        self.rows = nn.ModuleList(Conv(hidden if i == 0 else narrow, narrow, 3) for i in range(convs))
        self.exit = Conv(2 * hidden + convs * narrow, c_out)

    def forward(self, x: Tensor) -> Tensor:
        taps = [self.short(x), self.entry(x)]
        for row in self.rows:
            taps.append(row(taps[-1]))
        return self.exit(torch.cat(taps[::-1], 1))


class MP(nn.Module):
    """Halve the resolution: max-pool + 1x1 Conv beside 1x1 Conv + 3x3 stride-2 Conv, `c` channels each."""

    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.MaxPool2d(2, 2), Conv(c_in, c))
        self.conv = nn.Sequential(Conv(c_in, c), Conv(c, c, 3, 2))
        self.c_out = 2 * c

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.conv(x), self.pool(x)), 1)


class SPPCSPC(nn.Module):
    """Spatial pyramid pooling (5, 9, 13) inside a cross-stage partial block."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.before = nn.Sequential(Conv(c_in, c_out), Conv(c_out, c_out, 3), Conv(c_out, c_out))
        # Three pools of 5 in a row see 5, 9 and 13 cells: the same maxima as pools of those sizes, for less work.
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.after = nn.Sequential(Conv(4 * c_out, c_out), Conv(c_out, c_out, 3))
        self.short = Conv(c_in, c_out)
        self.exit = Conv(2 * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [self.before(x)]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        return self.exit(torch.cat((self.after(torch.cat(pyramid, 1)), self.short(x)), 1))


class ImplicitAdd(nn.Module):
    """A learned vector added to every position: implicit knowledge before a prediction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(1, channels, 1, 1).normal_(0.0, 0.02))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.vector


class ImplicitMul(nn.Module):
    """A learned vector multiplied onto every position: implicit knowledge after a prediction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(1, channels, 1, 1).normal_(1.0, 0.02))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.vector


class Prediction(nn.Sequential):
    """The last 1x1 convolution of a branch between its two implicit vectors."""

    def __init__(self, c_in: int, c_out: int, bias: float | None = None) -> None:
        super().__init__(ImplicitAdd(c_in), nn.Conv2d(c_in, c_out, 1), ImplicitMul(c_out))
        if bias is not None:
            nn.init.constant_(self.conv.bias, bias)  # type: ignore[arg-type]

    @property
    def conv(self) -> nn.Conv2d:
        conv = self[1]
        assert isinstance(conv, nn.Conv2d)
        return conv
