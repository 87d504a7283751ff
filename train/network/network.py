"""The network: ELAN backbone, PAN neck, and whichever of the four heads its configuration names.

Layer plan: network.md, after YOLOR-MTL (arXiv 2309.16921) and YOLOv7 (arXiv 2207.02696).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.bundle.tokenizer import PAD_ID
from .blocks import ELAN, ELANH, MP, SPPCSPC, Conv, Prediction
from .caption_decoder import CaptionDecoder, Decoder, sine_positions
from .config import NetworkConfig, SizePlan
from .gated_captioner import GatedDecoder, GridEncoder
from .heads import BoxHead, MaskHead, SemanticHead
from .regions import RegionMemory, region_margins


class Backbone(nn.Module):
    """Image (B, 3, H, W) to features at strides 4, 8, 16 and 32."""

    def __init__(self, plan: SizePlan) -> None:
        super().__init__()

        def c(channels: int) -> int:
            return int(channels * plan.width)

        taps = plan.convs_per_tap
        self.stem = nn.Sequential(
            Conv(3, c(32), 3), Conv(c(32), c(64), 3, 2), Conv(c(64), c(64), 3), Conv(c(64), c(128), 3, 2)
        )
        self.stage2 = ELAN(c(128), c(64), c(256), taps)
        self.stage3 = nn.Sequential(MP(c(256), c(128)), ELAN(2 * c(128), c(128), c(512), taps))
        self.stage4 = nn.Sequential(MP(c(512), c(256)), ELAN(2 * c(256), c(256), c(1024), taps))
        self.stage5 = nn.Sequential(MP(c(1024), c(512)), ELAN(2 * c(512), c(256), c(1024), taps))
        self.channels = (c(512), c(1024), c(1024))
        self.texture_channels = c(256)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        texture = self.stage2(self.stem(images))
        p3 = self.stage3(texture)
        p4 = self.stage4(p3)
        return texture, p3, p4, self.stage5(p4)


class Neck(nn.Module):
    """Path aggregation: the top level comes down to stride 8 and goes up again; one 3x3 Conv a level for the heads."""

    def __init__(self, channels: tuple[int, int, int], plan: SizePlan) -> None:
        super().__init__()

        def c(channels: int) -> int:
            return int(channels * plan.width)

        convs = 2 * plan.convs_per_tap
        self.top = SPPCSPC(channels[2], c(512))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.reduce5, self.lateral4 = Conv(c(512), c(256)), Conv(channels[1], c(256))
        self.down4 = ELANH(2 * c(256), c(256), c(128), c(256), convs)
        self.reduce4, self.lateral3 = Conv(c(256), c(128)), Conv(channels[0], c(128))
        self.down3 = ELANH(2 * c(128), c(128), c(64), c(128), convs)
        self.halve3 = MP(c(128), c(128))
        self.up4 = ELANH(2 * c(128) + c(256), c(256), c(128), c(256), convs)
        self.halve4 = MP(c(256), c(256))
        self.up5 = ELANH(2 * c(256) + c(512), c(512), c(256), c(512), convs)
        self.channels = (c(256), c(512), c(1024))
        self.outputs = nn.ModuleList(
            Conv(inner, outer, 3) for inner, outer in zip((c(128), c(256), c(512)), self.channels, strict=True)
        )

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> list[Tensor]:
        top = self.top(p5)
        down4 = self.down4(torch.cat((self.lateral4(p4), self.upsample(self.reduce5(top))), 1))
        down3 = self.down3(torch.cat((self.lateral3(p3), self.upsample(self.reduce4(down4))), 1))
        up4 = self.up4(torch.cat((self.halve3(down3), down4), 1))
        up5 = self.up5(torch.cat((self.halve4(up4), top), 1))
        return [conv(x) for conv, x in zip(self.outputs, (down3, up4, up5), strict=True)]


class Network(nn.Module):
    """Backbone, neck and heads. `forward` gives the raw heads by name (architecture.md, "Raw heads")."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        plan = config.plan
        self.backbone = Backbone(plan)
        self.neck = Neck(self.backbone.channels, plan)
        channels = self.neck.channels
        if "boxes" in config.heads:
            reg_max = config.reg_max if "boxes" in config.tasks else 0
            self.box_head = BoxHead(channels, len(config.class_names), reg_max, plan.box_width, plan.class_width)
        if "masks" in config.tasks:
            self.mask_head = MaskHead(channels, config.prototypes, plan.prototype_width)
        if "semantic" in config.heads:
            width = max(plan.semantic_width, channels[0] // 4)
            self.semantic_head = SemanticHead(channels[0], len(config.semantic_names), width)
        if "caption" in config.tasks:
            self.caption_memory = Prediction(self.backbone.texture_channels + sum(channels), plan.caption_width)
            width, heads, inner = plan.caption_width, plan.caption_heads, plan.caption_feed_forward
            sizes = (len(config.vocabulary), width, plan.caption_layers, heads, inner, config.caption_positions)
            self.caption_decoder: Decoder
            if config.caption_regions:
                self.grid_encoder = GridEncoder(width, width, heads, inner, layers=1)
                self.region_memory = RegionMemory(channels, width, config.caption_regions, "semantic" in config.heads)
                self.caption_decoder = GatedDecoder(*sizes, config.regions_at(config.input_size), PAD_ID)
            else:
                self.caption_decoder = CaptionDecoder(*sizes)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in 0..1, RGB, to texture (stride 4) and the three levels of the neck (8, 16, 32)."""
        texture, *levels = self.backbone(images)
        return [texture, *self.neck(*levels)]

    def dense(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Raw outputs of the heads for boxes, masks and the semantic map."""
        levels = features[1:]
        outputs: dict[str, Tensor] = {}
        if "boxes" in self.config.tasks:
            outputs["class_logits"], outputs["box_bins"] = self.box_head(levels)
        if "masks" in self.config.tasks:
            outputs["mask_coefficients"], outputs["prototypes"] = self.mask_head(levels)
        if "semantic" in self.config.tasks:
            outputs["semantic_logits"] = self.semantic_head(levels[0])
        return outputs

    def memory(self, features: list[Tensor], known: Mapping[str, Tensor]) -> Tensor:
        """(B, L, D): what the caption decoder attends to: the grid or, where its layers are gated, the encoded grid
        and regions after it.

        Args:
            features: From `features`.
            known: Raw outputs for these features that are there already.
        """
        grid = self.grid_memory(features)
        if not self.config.caption_regions:
            return grid
        where = sine_positions(features[3].shape[2], features[3].shape[3], grid.shape[2], grid.device)
        logits = self.choosing(features, known)
        regions = self.region_memory(features[1:], logits["class_logits"], logits.get("semantic_logits"))
        return torch.cat((self.grid_encoder(grid, where), regions), 1)

    def choosing(self, features: list[Tensor], known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The raw outputs that regions are chosen by; none without regions. What is `known` is not computed again."""
        logits = dict(known or {})
        if self.config.caption_regions and "class_logits" not in logits:
            logits["class_logits"] = self.box_head.class_logits(features[1:])
        if self.config.caption_regions and "semantic" in self.config.heads and "semantic_logits" not in logits:
            logits["semantic_logits"] = self.semantic_head(features[1])
        return logits

    def grid_memory(self, features: list[Tensor]) -> Tensor:
        """(B, cells, D): one vector a cell of the top level, rows first.

        Beside the top level's own features stand those of the finer levels and of the backbone's first stage, averaged
        over the cell. Small objects live on the finer levels, and colour only in the backbone: boxes and masks teach
        the neck to ignore it (a linear probe on scenes reads the colour of an object from the neck's features at
        chance, from the first stage's in 94 of 100 cases), while a caption has to name it.
        """
        finer = [F.avg_pool2d(level, factor) for level, factor in zip(features[:3], (8, 4, 2), strict=True)]
        return self.caption_memory(torch.cat((*finer, features[3]), 1)).flatten(2).transpose(1, 2)

    def memory_positions(self, input_size: tuple[int, int]) -> Tensor:
        """(L, D): where the cells of the grid lie, for images of `input_size` (height, width).

        Zeros for a memory with regions, whose vectors hold their places already.
        """
        width, regions = self.config.plan.caption_width, self.config.regions_at(input_size)
        grid = sine_positions(input_size[0] // 32, input_size[1] // 32, width)
        return torch.zeros(len(grid) + regions, width) if regions else grid

    def region_margins(self, images: Tensor) -> Tensor | None:
        """How clear the choice of the regions of `images` is, see `regions.region_margins`; None without regions."""
        if not self.config.regions_at(self.config.input_size):
            return None
        features = self.features(images)
        logits = self.choosing(features)
        return region_margins(logits["class_logits"], logits.get("semantic_logits"), self.config.caption_regions)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        outputs = self.dense(features)
        if "caption" in self.config.tasks:
            outputs["caption_memory"] = self.memory(features, outputs)
        return outputs
