"""Kernels of the runtime, in C++.

All of them leave their inputs as they were, take strided and read-only arrays, return new arrays, and let other
Python threads run meanwhile. A call keeps nothing but working memory, one per thread, which the next one uses: after
the first, only results are allocated; of a buffer that grew beyond 4 MiB nothing is kept. Only `cleared_array` keeps
more, of results that are gone.

Heads are read where they lie, in float32 or float16, or in bytes given as (array of uint8 or int8, scale, zero_point):
numbers are then (byte - zero_point) * scale in float32. Any strides will do without a copy, negative ones and 0 too;
the last axis side by side is fastest, for scores the first one as well. Only an array whose elements lie askew
in memory is copied. The answer is that for the same numbers in float32, to the bit.

`threads`, 1 to 64, is how many a call may use: its own and those of workers that the process keeps for all calls. The
answer is the same to the bit for every number. A forked child starts workers of its own.

Sizes are (height, width); boxes are xyxy float32. Pixel i covers [i, i + 1) and its centre is i + 0.5. `geometry` is
`Letterbox.geometry`: (scale_y, scale_x, pad_top, pad_left).

The inner loops are compiled for several instruction sets, of which the best that the processor has is chosen
when the first kernel runs; the environment variable YOLOR_EDGE_SIMD or `set_simd_level` names a lower one (a name
that the processor does not have is an ImportError).
Results are the same to the bit at every level.

Every kernel raises ValueError for an array of another shape or dtype and for an option out of its range,
TypeError for what is no array, and MemoryError. How each behaves on ties, NaN and infinity is part of its
description.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, final

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

Head = (
    NDArray[np.float32]
    | NDArray[np.float16]
    | tuple[NDArray[np.uint8], float, int]
    | tuple[NDArray[np.int8], float, int]
)

def simd_levels() -> list[str]:
    """Instruction sets this processor has, of "portable", "avx2", "avx512"; lowest first.

    "portable" is what the compiler emits without being told: SSE2 on x86-64, NEON on aarch64.
    """

def simd_level() -> str:
    """The instruction set in use."""

def set_simd_level(name: str) -> None:
    """Use another instruction set from now on, in all threads; for tests and measurements.

    Raises:
        ValueError: If the processor does not have it.
    """

def widen_half(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """The same numbers in float32, exactly; of any shape."""

def letterbox_geometry(
    image_size: tuple[int, int], input_size: tuple[int, int], rounding: Literal["half_up", "half_even"] = "half_up"
) -> tuple[int, int, int, int]:
    """(resized_height, resized_width, pad_top, pad_left) of an image in the middle of an input.

    `rounding` says where a resized length goes that ends on half a pixel: up, or to its even neighbour.
    """

def letterbox(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    pad_value: int = 114,
    swap_rb: bool = True,
    out: NDArray[np.float32] | None = None,
    scale: float = ...,
    layout: Literal["bgr", "nv12", "yuyv"] = "bgr",
    threads: int = 1,
    rounding: Literal["half_up", "half_even"] = "half_up",
) -> NDArray[np.float32]:
    """Resize an image with padding into the tensor a network takes.

    Args:
        image: (h, w, 3), (h, w, 1) or (h, w) uint8, at least one pixel. Grey is repeated in all three
            channels.
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        pad_value: Byte around the image, before scaling.
        swap_rb: Whether channels 0 and 2 change places: BGR in, RGB out.
        out: (3, height, width) float32 to write into, contiguous, apart from `image`; a new array where None.
        scale: Every byte is multiplied by this in float32; 1/255 unless given.
        layout: "bgr" as above. Of a camera, "nv12": (h * 3 / 2, w), the rows of Y, then those of U and V
            alternating; or "yuyv": (h, w, 2). Both are narrow-range BT.601, rows packed, even lengths, and are
            first converted to BGR as OpenCV does, a row at a time.
        threads: Used at most.
        rounding: See `letterbox_geometry`.

    Returns:
        (3, height, width) float32. Bilinear in fixed point, so that every implementation of the rule is equal
        to the bit.
    """

def letterbox_u8(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    pad_value: int = 114,
    swap_rb: bool = True,
    out: NDArray[np.uint8] | None = None,
    rounding: Literal["half_up", "half_even"] = "half_up",
) -> NDArray[np.uint8]:
    """The bytes `letterbox` scales, as (height, width, 3) uint8; arguments as there."""

def decode_boxes(
    scores: Head,
    boxes: Head,
    strides: Sequence[int],
    input_size: tuple[int, int],
    score_threshold: float = 0.25,
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
    cells: NDArray[np.int32] | None = None,
    threads: int = 1,
    box_coding: Literal["dfl", "ltrb", "xyxy"] = "dfl",
    score_coding: Literal["logits", "probabilities"] = "logits",
    box_count: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Decode the box heads of one image and suppress overlapping boxes.

    Args:
        scores: (C, N), the score head; cells level by level in the order of `strides`, row by row. C * N < 2^31.
        boxes: The box head. "dfl": (4 * R, N), logits of left, top, right, bottom, R bins each; a distance is the
            expectation of the bin number under softmax. "ltrb": (4, N), the distances themselves. Both are in units of
            the stride, from the centre of the cell. "xyxy": (4, N), corners in pixels of the input.
        strides: Of the levels; each divides both lengths of `input_size`. Corners need none.
        input_size: Of the network.
        score_threshold: A (cell, class) pair is a candidate when its score is strictly above it, compared on the
            head's numbers, be they logits or probabilities, of float16 and bytes on the elements as they are. At or
            below 0 everything but NaN passes, at or above 1 nothing does.
        iou_threshold: A box goes when its IoU with a better one is strictly above it; 0 to 1.
        max_detections: Boxes returned at most.
        max_candidates: Candidates considered at most, the best ones; memory goes with them, however many there are.
        class_agnostic: Whether boxes of different classes suppress each other.
        cells: (K,) int32, the cells that the columns of the heads are of, which then have K columns instead of N;
            None where they are all cells.
        threads: Used at most, to look through the scores and to decode boxes.
        box_coding: What the numbers of `boxes` are.
        score_coding: What those of `scores` are: before the sigmoid, or scores as they come out.
        box_count: N before any cells were chosen, where the boxes are "xyxy", which may be any number; else None.

    Returns:
        boxes (n, 4) float32 in pixels of the input, not clipped; scores (n,) float32; class_ids (n,) int32;
        columns (n,) int32, where each box came from: cells, unless `cells` says otherwise. By falling logit or
        probability, ties by lower class, then lower column. n may be 0. A candidate whose box is not finite (NaN or
        infinity among its numbers) is left out; one whose corners are turned over overlaps nothing.
    """

def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int32] | NDArray[np.int64],
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    class_agnostic: bool = False,
) -> NDArray[np.int32]:
    """Indices of the boxes that no better box overlaps too much, by falling score, ties by lower index.

    Args:
        boxes: (N, 4) float32. A box with x2 < x1 or y2 < y1 has no area; a pair whose union has none has IoU
            0.
        scores: (N,) float32.
        class_ids: (N,) int32 or int64; boxes of different classes never suppress each other.
        iou_threshold: A box goes when its IoU with a kept one, in float32, is strictly above it; 0 to 1.
        max_detections: Indices returned at most.
        class_agnostic: Treat all boxes as of one class.

    Returns:
        (n,) int32. Rows with a NaN score or a box that is not finite are left out.
    """

def mask_crops(
    prototypes: Head,
    coefficients: Head,
    boxes: NDArray[np.float32],
    image_size: tuple[int, int],
    geometry: tuple[float, float, int, int],
    stride: int = 4,
    threads: int = 1,
) -> list[tuple[int, int, NDArray[np.uint8]]]:
    """Turn mask coefficients into one mask per box, each as large as its box.

    Args:
        prototypes: (K, h, w).
        coefficients: (N, K), row i for box i.
        boxes: (N, 4) float32 in pixels of the image.
        image_size: Of the image.
        geometry: Of its letterbox.
        stride: Pixels of the input per prototype point.
        threads: Used at most, each for whole masks.

    Returns:
        N times (y0, x0, crop): crop is uint8 of 0 and 1, its upper left pixel at (y0, x0) of the image. It
        covers the pixels whose centres lie in the box and the image: x1 <= centre < x2. Where there are none,
        or the box is not finite, it is (0, 0, an array of shape (0, 0)). A pixel is 1 where coefficients .
        prototypes, limited to +-1e30 and sampled bilinearly at its centre, is above 0; next to a NaN it is 0. All
        crops of a call share one block of memory, which the last of them to go frees.
    """

def cleared_array(shape: tuple[int, ...], dtype: np.dtype[Scalar]) -> NDArray[Scalar]:
    """Zeros like `numpy.zeros`, contiguous and writable, from 4 MiB on in memory that is used again.

    Once the last reference to an array and to every view of it is gone, the memory is kept for the next array that it
    fits and that is at least a quarter of it. What is kept meanwhile: the two blocks given back last, none above 128
    MiB; the system may take their pages when it is short of memory.

    Args:
        shape: Of the array.
        dtype: Of the array.
    """

def drop_kept_memory() -> int:
    """Hand what `cleared_array` keeps to the system; returns how many bytes that was. Arrays in use stay."""

def paste_crops(
    frames: NDArray[np.bool_], crops: Sequence[tuple[int, int, NDArray[np.uint8]]], erase: bool = False
) -> None:
    """Write (y0, x0, crop) number i into frames[i], or zeros in its place where `erase`.

    Args:
        frames: (N, H, W) bool, contiguous; what no crop covers stays as it is.
        crops: N of them, of 0 and 1, as `mask_crops` returns them; each lies inside its frame.
        erase: Write zeros instead.
    """

def paste_bits(frames: NDArray[np.uint8], crops: Sequence[tuple[int, int, NDArray[np.uint8]]], width: int) -> None:
    """Set the bits of frames[i] where (y0, x0, crop) number i is 1: eight pixels of a row a byte, the first highest.

    Args:
        frames: (N, H, (width + 7) // 8) uint8, contiguous; other bits stay as they are.
        crops: N of them, of 0 and 1, as `mask_crops` returns them; each lies inside its frame.
        width: Of the frames, in pixels.
    """

def rle_codes(crops: Sequence[tuple[int, int, NDArray[np.uint8]]], image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """COCO's compressed run-length code of each (y0, x0, crop), 0 outside the crop.

    Args:
        crops: Zero or not; each lies inside the image.
        image_size: Of the image.

    Returns:
        {"size": [height, width], "counts": str} each, byte for byte what pycocotools encodes.
    """

def semantic_argmax(
    logits: Head,
    image_size: tuple[int, int],
    geometry: tuple[float, float, int, int],
    stride: int = 8,
    out: NDArray[np.uint8] | None = None,
    threads: int = 1,
) -> NDArray[np.uint8]:
    """The class with the highest logit at every pixel of the image, interpolated bilinearly and exactly.

    Args:
        logits: (S, h, w), S from 1 to 256. NaN counts as -1e30, and values are limited to +-1e30.
        image_size: Of the image.
        geometry: Of its letterbox.
        stride: Pixels of the input per grid point.
        out: (H, W) uint8 to write into, contiguous, apart from `logits`; a new array where None.
        threads: Used at most, each for strips of the map.

    Returns:
        (H, W) uint8; equal values go to the lowest class.
    """

@final
class CaptionSearch:
    """Greedy and beam search as a state machine: the caller runs the decoder, this says what to feed it next.

    Every step ranks all continuations of all rows by summed log-probability and looks at the best 2 *
    beam_size: an end of sentence ranked among the first beam_size finishes its hypothesis, other ends are
    dropped, and the best other tokens go on, up to beam_size rows. The search is finished when beam_size
    hypotheses are and no running row can still beat the worst of them (its score is at most log_prob /
    max_length^length_penalty), or when max_length tokens are generated or nothing is possible; running rows
    then count as hypotheses too. With beam_size 1 it takes the best token at every step. Ties go to the lower
    row, then to the lower token; the result depends on nothing else. Calls from two threads take turns.
    """

    def __init__(
        self,
        beam_size: int,
        max_length: int,
        bos_id: int,
        eos_id: int,
        pad_id: int,
        length_penalty: float = 1.0,
        min_length: int = 0,
        forbidden: Sequence[int] = (),
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        keeps_finished: bool = False,
    ) -> None:
        """Start the search for one caption.

        Args:
            beam_size: Hypotheses kept alive, 1 to 4096; 1 is greedy.
            max_length: Tokens generated at most, end of sentence included; 1 to 1048576.
            bos_id: Never generated, unless with keeps_finished. This token and all others lie in the vocabulary, which
                has at most 16777216.
            eos_id: Ends a hypothesis; differs from the other two.
            pad_id: As bos_id.
            length_penalty: At least 0; score = log_prob / length^length_penalty, end of sentence counted.
            min_length: Tokens that come before an end of sentence at least, up to max_length.
            forbidden: Further tokens never generated.
            repetition_penalty: At least 1; multiplies the log-probability of tokens the sentence holds already.
            no_repeat_ngram: No run of so many tokens comes twice; 0 allows it.
            temperature: Above 0, beam_size sentences are drawn instead, a token with a probability proportional to
                exp(log_prob / temperature). The step is the same function of log_probs, seed, the sentence's number
                and its length on every machine.
            top_k: Draw among the likeliest so many; 0 for all.
            seed: Of the drawing, at least 0.
            keeps_finished: Every step takes the best beam_size of all continuations; a finished hypothesis has itself
                at no further cost, and else what scores -999. The search goes on for max_length steps, or until all
                are finished. Nothing is forbidden but `forbidden`.

        Raises:
            ValueError: If one of them is out of its range.
        """

    def advance(self, log_probs: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Take one step.

        Args:
            log_probs: (rows, V) float32, of the next token: 1 row at first, then one per row returned last.
                NaN counts as -infinity, and what is -infinity is never taken.

        Returns:
            tokens and parents, (rows,) int64 each: row i of the next step feeds tokens[i] and continues row
            parents[i] of this one. Both are empty when the search is finished.

        Raises:
            ValueError: If the shape is another one, V too small for a token of the options, or the search is finished
                already.
        """

    def stop(self) -> None:
        """End the search now; hypotheses are those finished so far or, where there are none, the running rows."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to advance."""

    def hypotheses(self) -> list[tuple[list[int], float, float]]:
        """(tokens without bos and eos, summed log-probability with that of eos, score), best score first.

        At most beam_size, at least one once the search is finished.
        """

def decoder_kernels() -> list[str]:
    """The instruction sets the caption decoder can use on this processor, the fastest last."""

@final
class CaptionDecoder:
    """The caption decoder with its search, from an image's memory to sentences without leaving C++.

    Calls from several threads run side by side; each has working memory of its own.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        hidden: int,
        positions: int,
        memory: int,
        norm_epsilon: float,
        precision: str,
        tensors: dict[str, NDArray[Any]],
        kernels: str | None = None,
        regions: int = 0,
        padding: int = 0,
    ) -> None:
        """Take the weights where they lie.

        Args:
            vocabulary, width, layers, heads, feed_forward, hidden, positions, memory, regions, padding: See
                `CaptionDims`.
            norm_epsilon: Of every layer norm.
            precision: "fp32" or "int8".
            tensors: By the names of `caption_weights.tensor_shapes`; kept alive, not copied.
            kernels: One of `decoder_kernels()`; None for the fastest of the level in use, see `simd_level`.
        """

    @property
    def kernels(self) -> str:
        """The instruction set in use."""

    def write(
        self,
        memory: NDArray[np.float32],
        beam_size: int,
        max_length: int,
        bos_id: int,
        eos_id: int,
        pad_id: int,
        length_penalty: float = 1.0,
        min_length: int = 0,
        forbidden: Sequence[int] = (),
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        keeps_finished: bool = False,
        budget_ms: float | None = None,
    ) -> tuple[list[tuple[list[int], float, float]], int, int, int, bool]:
        """Search as `CaptionSearch` does.

        Args:
            memory: (L, D) float32, of one image.
            budget_ms: No step is begun that would end later than this after the call if it took as long as the
                longest so far; the first is always made.

        Returns:
            Hypotheses as `CaptionSearch.hypotheses` gives them, nanoseconds to the first token's choice and from there
            on, runs of the decoder, and whether the budget ended the search.
        """

    def log_probs(self, memory: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """(T, V), of the token after each of tokens (T,), which begin with bos."""

def assignment(costs: NDArray[np.float64]) -> NDArray[np.int32]:
    """Another column for every row, so that the sum of the costs is least.

    Args:
        costs: (rows, columns) finite, rows at most columns.

    Returns:
        (rows,) int32; of several least sums always the same one.
    """

@final
class Tracker:
    """ByteTrack's association, with ids from 1 on. Calls from two threads take turns.

    Args:
        high_score: Boxes from here on are matched first.
        low_score: Boxes from here on go on with the tracks that are left over.
        new_score: Boxes from here on begin tracks.
        overlap: IoU that a box has with its track at least; times its score where that is high.
        confirm_frames: Frames in a row that a track is seen before it has an id.
        lost_frames: Frames that a track lives unseen.
        lost_seconds: Above 0: seconds that it does, instead.
        class_agnostic: A track may change its class.
    """

    def __init__(
        self,
        high_score: float = 0.5,
        low_score: float = 0.1,
        new_score: float = 0.6,
        overlap: float = 0.2,
        confirm_frames: int = 2,
        lost_frames: float = 30.0,
        lost_seconds: float = 0.0,
        class_agnostic: bool = False,
    ) -> None: ...
    def update(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int32],
        masks: Sequence[tuple[int, int, NDArray[np.uint8]]] | None = None,
        frames: float = 1.0,
        seconds: float = 0.0,
        motion: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Take the objects of the next frame.

        Args:
            boxes: (N, 4) xyxy. Empty ones, and those with corners that are not finite or beyond 2^24, have no track.
            scores: (N,); objects with a score of NaN have no track.
            class_ids: (N,)
            masks: (y0, x0, crop) of each object; IoU is that of masks then, where boxes overlap.
            frames: Since the update before, at least 0.
            seconds: Since the update before, at least 0.
            motion: (2, 3) where the camera's image went since the update before.

        Returns:
            (N,) int64: the id of each object, -1 for none.
        """

    def tracks(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
        """The tracks with an id, by rising id: ids (T,), class ids (T,), boxes (T, 4), whether they are lost (T,)."""

    def reset(self) -> None:
        """Forget everything; ids begin at 1."""
