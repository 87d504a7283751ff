"""The interface to the driver, on a pretended GPU whose streams do nothing before somebody waits for them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.runtime.cuda import Device, Function, Module, open_device
from yolor_edge.runtime.cuda.driver import CudaError
from yolor_edge.runtime.errors import BackendError

BINDING = os.environ["PRETENDED_BINDING"]
DRIVER = ctypes.CDLL("libcuda.so.1")
DRIVER.fake_cuda_launches.restype = ctypes.c_long
KERNELS = """
extern "C" {
struct Pair { float x; int n; };
extern const unsigned scale_sizes[] = {8, 8, 4, 1, 8, 0};
void scale(void **p, const unsigned *grid, const unsigned *block, unsigned shared) {
    const float *in = *(const float **)p[0];
    float *out = *(float **)p[1];
    float by = *(float *)p[2];
    bool add = *(bool *)p[3];
    Pair pair = *(Pair *)p[4];
    for (unsigned i = 0; i < grid[0] * block[0] && i < (unsigned)pair.n; ++i) out[i] = in[i] * by + (add ? pair.x : 0);
    (void)shared;
}
}
"""


class Pair(ctypes.Structure):
    _fields_ = (("x", ctypes.c_float), ("n", ctypes.c_int))


@pytest.fixture
def device() -> Iterator[Device]:
    """A GPU; nothing of it is left over."""
    with open_device() as device:
        yield device
    assert DRIVER.fake_cuda_living() == 0
    assert DRIVER.fake_cuda_contexts() == 0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A module of kernels compiled for the host."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(KERNELS)
    library = folder / "kernels.so"
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "kernels.cpp"], check=True)
    return b"host module " + str(library).encode() + b"\0"


def test_the_gpu_is_described(device: Device) -> None:
    info = device.info
    assert (info.name, info.compute_capability, info.is_integrated) == ("Pretended GPU", "sm_86", False)
    assert info.total_bytes == 64 << 20 and info.multiprocessors == 4
    assert device.binding == BINDING
    assert device.memory() == (64 << 20, 64 << 20)


def test_arrays_go_there_and_back_once_the_stream_is_waited_for(device: Device) -> None:
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    with device.stream() as stream, device.allocate(48) as buffer, device.pinned((3, 4), np.float32) as back:
        device.to_device(buffer, sent, stream)
        sent[:] = 0  # what is not page-locked is read at once
        device.to_host(back.array, buffer, stream)
        assert not np.array_equal(back.array, np.arange(12).reshape(3, 4))
        stream.synchronize()
        assert np.array_equal(back.array, np.arange(12).reshape(3, 4))


def test_buffers_are_copied_and_filled(device: Device) -> None:
    with device.stream() as stream, device.allocate(8) as one, device.allocate(8) as other:
        device.fill(one, 7, 8, stream)
        device.copy(other, one, 4, stream)
        device.fill(other.address + 4, 9, 4, stream)
        found = np.empty(8, np.uint8)
        device.to_host(found, other, stream)
        stream.synchronize()
        assert found.tolist() == [7] * 4 + [9] * 4


def test_mapped_memory_is_seen_by_the_device(device: Device) -> None:
    with device.stream() as stream, device.mapped((4,), np.int32) as shared:
        assert shared.address != 0
        device.fill(shared, 1, 16, stream)
        stream.synchronize()
        assert shared.array.tolist() == [0x01010101] * 4
    assert shared.address == 0 and shared.array.size == 0


def test_too_much_memory_is_told_in_one_line(device: Device) -> None:
    with device.allocate(48 << 20):
        with pytest.raises(
            CudaError, match=r"allocating 32\.0 MiB of GPU memory for the images failed: 16\.0 MiB of 64"
        ) as e:
            device.allocate(32 << 20, "the images")
        assert e.value.code == "CUDA_ERROR_OUT_OF_MEMORY"
        assert "\n" not in str(e.value) and "smaller batch" in str(e.value)


def test_events_order_streams_and_tell_time(device: Device) -> None:
    with (
        device.stream() as one,
        device.stream() as other,
        device.allocate(4) as buffer,
        device.pinned((4,), "u1") as back,
        device.event() as start,
        device.event() as end,
    ):
        start.record(one)
        device.fill(buffer, 3, 4, one)
        end.record(one)
        other.wait(end)
        device.to_host(back.array, buffer, other)
        other.synchronize()
        assert back.array.tolist() == [3] * 4
        end.synchronize()
        assert end.elapsed_ms(start) >= 0


def test_a_stream_tells_whether_it_is_done(device: Device) -> None:
    with device.stream() as stream, device.allocate(4) as buffer:
        assert stream.is_done
        device.fill(buffer, 3, 4, stream)
        assert not stream.is_done
        stream.synchronize()
        assert stream.is_done


def test_a_captured_graph_does_its_work_each_time_it_is_launched(device: Device) -> None:
    stream, buffer = device.stream(), device.allocate(4)
    given, back = device.pinned((4,), "u1"), device.pinned((4,), "u1")
    given.array[:], back.array[:] = 1, 0

    def work() -> None:
        device.to_device(buffer, given.array, stream)
        device.to_host(back.array, buffer, stream)

    graph = device.capture(stream, work)
    stream.synchronize()
    assert back.array.tolist() == [0] * 4  # nothing was done
    for value in (5, 6):
        given.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert back.array.tolist() == [value] * 4
    for owned in (graph, buffer, given, back, stream):
        owned.close()


def test_what_cannot_be_captured_is_an_error_and_leaves_the_stream_usable(device: Device) -> None:
    with device.stream() as stream, device.allocate(4) as buffer:
        with pytest.raises(CudaError, match="not permitted when stream is capturing"):
            device.capture(stream, stream.synchronize)
        with pytest.raises(ZeroDivisionError):
            device.capture(stream, lambda: 1 / 0)
        device.fill(buffer, 3, 4, stream)
        stream.synchronize()


def test_kernels_take_buffers_scalars_and_structures(device: Device, image: bytes) -> None:
    sent = np.arange(6, dtype=np.float32)
    before = DRIVER.fake_cuda_launches()
    with device.stream() as stream, device.allocate(24) as given, device.allocate(24) as answer:
        module: Module = device.load_module(image)
        scale: Function = module.function("scale")
        device.to_device(given, sent, stream)
        arguments = [given, ctypes.c_void_p(answer.address), np.float32(2), np.bool_(True), Pair(0.5, 6)]
        device.launch(scale, 2, (3, 1), arguments, stream=stream)
        found = np.empty(6, np.float32)
        assert DRIVER.fake_cuda_launches() == before
        device.to_host(found, answer, stream)
        stream.synchronize()
        assert found.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]
        with pytest.raises(TypeError, match="must be a buffer, a numpy scalar or an instance of ctypes, got float"):
            device.launch(scale, 1, 1, [given, answer, 2.0, True, Pair(0, 6)], stream=stream)
        with pytest.raises(CudaError, match="invalid argument"):
            device.launch(scale, 1, 2048, arguments, stream=stream)
        with pytest.raises(CudaError, match="named symbol not found"):
            module.function("shrink")
        del scale
        module.close()


def test_kernels_are_captured_with_their_arguments(device: Device, image: bytes) -> None:
    stream, given, answer = device.stream(), device.allocate(8), device.allocate(8)
    module = device.load_module(image)
    device.to_device(given, np.array([1, 2], np.float32), stream)

    def work() -> None:
        arguments = [given, answer, np.float32(3), np.bool_(False), Pair(0, 2)]
        device.launch(module.function("scale"), 1, 2, arguments, stream=stream)

    graph = device.capture(stream, work)
    found = np.empty(2, np.float32)
    for _ in range(2):
        graph.launch(stream)
        device.to_host(found, answer, stream)
        stream.synchronize()
        assert found.tolist() == [3, 6]
        device.fill(answer, 0, 8, stream)
    for owned in (graph, module, given, answer, stream):
        owned.close()


def test_a_module_for_no_gpu_is_refused(device: Device, tmp_path: Path) -> None:
    with pytest.raises(CudaError, match="device kernel image is invalid"):
        device.load_module(b"nonsense\0")
    with pytest.raises(CudaError, match="no kernel image") as error:
        device.load_module(b"host module " + str(tmp_path / "none").encode() + b"\0")
    assert error.value.code == "CUDA_ERROR_NO_BINARY_FOR_GPU"


def test_any_thread_may_call(device: Device) -> None:
    found = np.zeros(4, np.uint8)

    def work() -> None:
        with device.stream() as stream, device.allocate(4) as buffer:
            device.fill(buffer, 8, 4, stream)
            device.to_host(found, buffer, stream)
            stream.synchronize()
        assert DRIVER.fake_cuda_contexts() == 0

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found.tolist() == [8] * 4


def test_the_context_is_current_as_long_as_it_is_asked_for(device: Device) -> None:
    with device.current(), device.current():
        assert DRIVER.fake_cuda_contexts() == 1
        device.memory()
        assert DRIVER.fake_cuda_contexts() == 1
    assert DRIVER.fake_cuda_contexts() == 0


def test_closed_things_are_of_no_use() -> None:
    device = open_device()
    buffer, stream = device.allocate(4), device.stream()
    buffer.close()
    buffer.close()
    with pytest.raises(BackendError, match="DeviceBuffer: is closed"):
        device.fill(buffer, 0, 4, stream)
    with pytest.raises(ValueError, match="8 bytes do not fit into a buffer of 4"), device.allocate(4) as small:
        device.fill(small, 0, 8, stream)
    with pytest.raises(ValueError, match="only contiguous arrays"):
        device.to_host(np.empty((4, 4), np.uint8)[:, ::2], 0, stream)
    with pytest.raises(ValueError, match="nbytes must be at least 1"):
        device.allocate(0)
    stream.close()
    device.close()
    device.close()
    with pytest.raises(BackendError, match="the device is closed"):
        device.memory()
    assert DRIVER.fake_cuda_living() == 0


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    with pytest.raises(BackendError, match=r"there is no GPU 3 here \(cuDeviceGet failed: invalid device ordinal"):
        open_device(3)
