"""What a vision graph does beside the network, chosen at export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LARGEST_BATCH = 1024
# TensorRT sorts out no more than this many values.
LARGEST_TOP_K = 3840
# TensorRT's tensors have fewer values than this.
LARGEST_TENSOR = 2**31
# The heads with a column for each cell, which `top_k` shortens.
HEADS_OF_CELLS = ("class_logits", "class_scores", "box_bins", "box_distances", "boxes", "mask_coefficients")


@dataclass(frozen=True)
class GraphOptions:
    """What is built into the vision graph of a bundle.

    Attributes:
        batch: Images a run takes, no more and no fewer; None for any number.
        top_k: The heads of cells hold only the K cells whose best class logit is highest, best first, and an output
            `cells` (B, K) int32 says which they are. None for all cells. Detections are the same as long as no more
            than K cells have a class above the score threshold; further ones are lost.
        semantic_map: Instead of `semantic_logits` the graph gives `semantic_map` (B, H, W) uint8 at the resolution of
            the input: the class with the highest logit after bilinear upsampling. The runtime takes it to the image
            with the nearest pixel, where from logits it would interpolate at every pixel of the image.
    """

    batch: int | None = None
    top_k: int | None = None
    semantic_map: bool = False

    def complaints(
        self, tasks: Sequence[str], input_size: tuple[int, int], cells: int, semantic_classes: int
    ) -> dict[str, str]:
        """What keeps a graph for these tasks and this input from being so, by the option at fault: "must be ..."."""
        found = {}
        height, width = input_size
        if self.batch is not None:
            values = self.batch * height * width * (max(3, semantic_classes) if self.semantic_map else 3)
            if not 1 <= self.batch <= LARGEST_BATCH:
                found["batch"] = f"must be from 1 to {LARGEST_BATCH}, got {self.batch}"
            elif values >= LARGEST_TENSOR:
                found["batch"] = (
                    f"must be smaller: {self.batch} images of {height}x{width} make a tensor of {values:.1e} values, "
                    f"more than TensorRT's {LARGEST_TENSOR:.1e}; take a smaller batch or input size"
                )
        if self.top_k is not None:
            limit = min(cells, LARGEST_TOP_K)
            if "boxes" not in tasks:
                found["top_k"] = "needs the task boxes"
            elif not 1 <= self.top_k <= limit:
                why = f"the cells of a {height}x{width} input" if limit == cells else "the most that TensorRT takes"
                found["top_k"] = f"must be from 1 to {limit} ({why}), got {self.top_k}"
        if self.semantic_map and "semantic" not in tasks:
            found["semantic_map"] = "needs the task semantic"
        return found
