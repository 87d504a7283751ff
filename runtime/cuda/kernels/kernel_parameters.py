"""The structures that the CUDA kernels take, field by field as in csrc/cuda/parameters.hpp."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int32, c_int64, c_void_p

import numpy as np

# Counts and indices are 32 bits, with room for the steps of loops.
MOST_COUNTED = (1 << 31) - (1 << 20)
MOST_LEVELS = 8
MOST_CHANNELS = 256
MOST_CLASSES = 256

# Bytes of `Tap`, `AxisSample` and `RankState`.
TAP_BYTES = 16
SAMPLE_BYTES = 12
RANK_STATE_BYTES = 32

# `Summary`, the first of what the host reads.
SUMMARY = np.dtype(
    [
        ("tile_bytes", np.int64),
        ("detections", np.int32),
        ("candidates", np.int32),
        ("kept", np.int32),
        ("tile_blocks", np.int32),
    ]
)


class AxisFrame(ctypes.Structure):
    """How one axis of an image falls on a grid."""

    _fields_ = [("scale", c_double), ("pad", c_int64), ("stride", c_int64), ("grid_length", c_int64)]


class TapsParameters(ctypes.Structure):
    """Of fill_taps."""

    _fields_ = [("taps", c_void_p), ("length_in", c_int32), ("length_out", c_int32)]


class AxisParameters(ctypes.Structure):
    """Of fill_axis."""

    _fields_ = [
        ("frame", AxisFrame),
        ("samples", c_void_p),
        ("begins", c_void_p),
        ("ends", c_void_p),
        ("pixels", c_int32),
    ]


class NearestParameters(ctypes.Structure):
    """Of fill_nearest."""

    _fields_ = [
        ("scale", c_double),
        ("indices", c_void_p),
        ("pad", c_int32),
        ("length", c_int32),
        ("pixels", c_int32),
    ]


class LetterboxParameters(ctypes.Structure):
    """Of letterbox."""

    _fields_ = [
        ("image", c_void_p),
        ("output", c_void_p),
        ("rows", c_void_p),
        ("columns", c_void_p),
        ("row_stride", c_int64),
        ("layout", c_int32),
        ("channels", c_int32),
        ("image_height", c_int32),
        ("input_height", c_int32),
        ("input_width", c_int32),
        ("resized_height", c_int32),
        ("resized_width", c_int32),
        ("pad_top", c_int32),
        ("pad_left", c_int32),
        ("pad_value", c_int32),
        ("swap_rb", c_int32),
        ("is_half", c_int32),
        ("scale", c_float),
    ]


class CollectParameters(ctypes.Structure):
    """Of collect_candidates."""

    _fields_ = [
        ("scores", c_void_p),
        ("cells", c_void_p),
        ("candidates", c_void_p),
        ("count", c_void_p),
        ("is_wanted", c_void_p),
        ("column_of_cell", c_void_p),
        ("classes", c_int32),
        ("columns", c_int32),
        ("grid_cells", c_int32),
        ("is_half", c_int32),
        ("lowest", c_float),
    ]


class RankParameters(ctypes.Structure):
    """Of rank_candidates."""

    _fields_ = [
        ("candidates", c_void_p),
        ("count", c_void_p),
        ("state", c_void_p),
        ("histogram", c_void_p),
        ("rank", c_int32),
        ("capacity", c_int32),
        ("index_bits", c_int32),
        ("shift", c_int32),
        ("is_first", c_int32),
    ]


class CompactParameters(ctypes.Structure):
    """Of compact_candidates."""

    _fields_ = [
        ("candidates", c_void_p),
        ("count", c_void_p),
        ("state", c_void_p),
        ("compacted", c_void_p),
        ("capacity", c_int32),
        ("index_bits", c_int32),
    ]


class DecodeParameters(ctypes.Structure):
    """Of decode_cells."""

    _fields_ = [
        ("head", c_void_p),
        ("cells", c_void_p),
        ("is_wanted", c_void_p),
        ("boxes", c_void_p),
        ("coding", c_int32),
        ("bins", c_int32),
        ("columns", c_int32),
        ("input_height", c_int32),
        ("input_width", c_int32),
        ("levels", c_int32),
        ("strides", c_int32 * MOST_LEVELS),
        ("is_half", c_int32),
    ]


class SelectParameters(ctypes.Structure):
    """Of select_boxes."""

    _fields_ = [
        ("candidates", c_void_p),
        ("count", c_void_p),
        ("compacted", c_void_p),
        ("ranks", c_void_p),
        ("boxes", c_void_p),
        ("column_of_cell", c_void_p),
        ("kept_boxes", c_void_p),
        ("kept_classes", c_void_p),
        ("kept", c_void_p),
        ("summary", c_void_p),
        ("image_boxes", c_void_p),
        ("scores", c_void_p),
        ("class_ids", c_void_p),
        ("columns", c_void_p),
        ("regions", c_void_p),
        ("tile_offsets", c_void_p),
        ("block_offsets", c_void_p),
        ("scale_y", c_double),
        ("scale_x", c_double),
        ("pad_top", c_int32),
        ("pad_left", c_int32),
        ("image_height", c_int32),
        ("image_width", c_int32),
        ("grid_cells", c_int32),
        ("max_detections", c_int32),
        ("max_candidates", c_int32),
        ("class_agnostic", c_int32),
        ("capacity", c_int32),
        ("score_coding", c_int32),
        ("iou_threshold", c_float),
    ]


class MaskParameters(ctypes.Structure):
    """Of fill_masks."""

    _fields_ = [
        ("summary", c_void_p),
        ("prototypes", c_void_p),
        ("coefficients", c_void_p),
        ("columns", c_void_p),
        ("regions", c_void_p),
        ("tile_offsets", c_void_p),
        ("block_offsets", c_void_p),
        ("rows", c_void_p),
        ("columns_of_row", c_void_p),
        ("tiles", c_void_p),
        ("tile_capacity", c_int64),
        ("channels", c_int32),
        ("grid_height", c_int32),
        ("grid_width", c_int32),
        ("head_columns", c_int32),
        ("prototypes_are_half", c_int32),
        ("coefficients_are_half", c_int32),
    ]


class LeadersParameters(ctypes.Structure):
    """Of find_leaders."""

    _fields_ = [
        ("logits", c_void_p),
        ("leaders", c_void_p),
        ("classes", c_int32),
        ("points", c_int32),
        ("is_half", c_int32),
    ]


class SemanticParameters(ctypes.Structure):
    """Of fill_semantic."""

    _fields_ = [
        ("logits", c_void_p),
        ("leaders", c_void_p),
        ("rows", c_void_p),
        ("columns", c_void_p),
        ("row_begins", c_void_p),
        ("row_ends", c_void_p),
        ("column_begins", c_void_p),
        ("column_ends", c_void_p),
        ("map", c_void_p),
        ("classes", c_int32),
        ("grid_height", c_int32),
        ("grid_width", c_int32),
        ("image_width", c_int32),
        ("is_half", c_int32),
    ]


class ResampleParameters(ctypes.Structure):
    """Of resample_map."""

    _fields_ = [
        ("source", c_void_p),
        ("rows", c_void_p),
        ("columns", c_void_p),
        ("map", c_void_p),
        ("input_width", c_int32),
        ("image_height", c_int32),
        ("image_width", c_int32),
    ]
