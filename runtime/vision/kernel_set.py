"""The compiled kernels on a device, and the tables they read for an image of some size."""

from __future__ import annotations

import numpy as np

from ..bundle.tensors import MASK_STRIDE
from ..cuda.device import Device, DeviceBuffer, Function, HostArray, Stream
from ..cuda.kernels import launches
from ..cuda.kernels.kernel_image import kernel_image
from ..cuda.kernels.launches import AxisTables, Launch
from ..images.preprocess import Letterbox


class KernelSet:
    """All kernels, ready to be put into streams.

    Args:
        device: Where; stays open longer than this.
        image: The compiled kernels; None to compile them for the device, or take them from the cache.

    Raises:
        BackendMissingError: If they have to be compiled, and there is no compiler.
        BackendError: If they do not compile, or the driver refuses them.
    """

    def __init__(self, device: Device, image: bytes | None = None):
        self.device = device
        self._module = device.load_module(image or kernel_image(device.info.compute_capability))
        self._functions: dict[str, Function] = {}

    def put(self, launch: Launch, stream: Stream) -> None:
        """Put a kernel into a stream."""
        function = self._functions.get(launch.name)
        if function is None:
            function = self._functions[launch.name] = self._module.function(launch.name)
        self.device.launch(function, launch.grid, launch.block, [launch.parameters], stream=stream)

    def close(self) -> None:
        """Unload them."""
        self._functions = {}
        self._module.close()


class ImageTables:
    """What depends on the size of an image alone: where the letterbox reads, and where heads are sampled.

    Args:
        kernels: Fill the tables, in `stream`.
        stream: Where they are used.
        placed: The image's letterbox.
        semantic_stride: Pixels of the input from one point of the semantic logits to the next.

    Attributes:
        rows, columns: Addresses of the letterbox's taps.
        mask_rows, mask_columns: Tables of the prototypes.
        semantic_rows, semantic_columns: Tables of the semantic logits.
        map_rows, map_columns: Addresses of the indices into a map of the graph's.

    Raises:
        CudaError: If the device has no memory for them.
    """

    def __init__(self, kernels: KernelSet, stream: Stream, placed: Letterbox, semantic_stride: int):
        (height, width), (input_height, input_width) = placed.image_size, placed.input_size
        resized = launches.resized_size(placed)
        grids = [(input_height // stride, input_width // stride) for stride in (MASK_STRIDE, semantic_stride)]
        sizes = [launches.tap_bytes(resized[0]), launches.tap_bytes(resized[1])]
        sizes += [AxisTables.size(pixels, n) for grid in grids for pixels, n in zip((height, width), grid, strict=True)]
        sizes += [4 * height, 4 * width]
        starts = np.cumsum([0, *(-(-size // 16) * 16 for size in sizes)])
        self._memory = kernels.device.allocate(int(starts[-1]), "tables of an image's size")
        address = [self._memory.address + int(start) for start in starts]
        self.rows, self.columns = address[0], address[1]
        (mask_h, mask_w), (semantic_h, semantic_w) = grids
        self.mask_rows = AxisTables.at(address[2], height, mask_h)
        self.mask_columns = AxisTables.at(address[3], width, mask_w)
        self.semantic_rows = AxisTables.at(address[4], height, semantic_h)
        self.semantic_columns = AxisTables.at(address[5], width, semantic_w)
        self.map_rows, self.map_columns = address[6], address[7]
        kernels.device.fill(self._memory, 0, self._memory.nbytes, stream)
        y, x = (placed.scale_y, placed.pad_top), (placed.scale_x, placed.pad_left)
        for launch in (
            launches.fill_taps(self.rows, height, resized[0]),
            launches.fill_taps(self.columns, width, resized[1]),
            launches.fill_axis(self.mask_rows, height, *y, MASK_STRIDE, mask_h),
            launches.fill_axis(self.mask_columns, width, *x, MASK_STRIDE, mask_w),
            launches.fill_axis(self.semantic_rows, height, *y, semantic_stride, semantic_h),
            launches.fill_axis(self.semantic_columns, width, *x, semantic_stride, semantic_w),
            launches.fill_nearest(self.map_rows, height, *y, input_height),
            launches.fill_nearest(self.map_columns, width, *x, input_width),
        ):
            kernels.put(launch, stream)

    def close(self) -> None:
        """Free them."""
        self._memory.close()


class Exchange:
    """Memory that the device writes and the host reads, or the other way round.

    On a GPU that shares its memory with the CPU it is one piece that both see. Elsewhere it is one on each side, and
    `fetch` and `send` copy between them.

    Args:
        device: Where.
        nbytes: Size.
        purpose: What for, in a complaint that there is not so much.

    Attributes:
        address: Where the device sees it.
        host: (nbytes,) uint8.

    Raises:
        CudaError: If there is not so much.
    """

    def __init__(self, device: Device, nbytes: int, purpose: str):
        self._device = device
        self._on_device: DeviceBuffer | None = None
        if device.info.is_integrated:
            self._on_host: HostArray = device.mapped((nbytes,), np.uint8, purpose)
            self.address = self._on_host.address
        else:
            self._on_device = device.allocate(nbytes, purpose)
            self.address = self._on_device.address
            try:
                self._on_host = device.pinned((nbytes,), np.uint8, purpose)
            except BaseException:
                self._on_device.close()
                raise
        self.host = self._on_host.array
        self.nbytes = nbytes

    def fetch(self, nbytes: int, stream: Stream) -> None:
        """Bring the first bytes to the host, in `stream`."""
        if self._on_device is not None and nbytes:
            self._device.to_host(self.host[:nbytes], self._on_device, stream)

    def send(self, nbytes: int, stream: Stream) -> None:
        """Bring the first bytes to the device, in `stream`."""
        if self._on_device is not None:
            self._device.to_device(self._on_device, self.host[:nbytes], stream)

    def close(self) -> None:
        """Free it; it is of no size then."""
        self.host, self.nbytes = self.host[:0], 0
        self._on_host.close()
        if self._on_device is not None:
            self._on_device.close()
