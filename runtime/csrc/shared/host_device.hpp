/// What the headers *_math.hpp stand on: arithmetic written once and compiled three times, by the C++
/// compiler for the CPU's kernels, by it again for the tests that run the CUDA kernels on the CPU, and by
/// nvcc or NVRTC for the GPU. Each of them rounds after every operation (-ffp-contract=off, --fmad=false) and
/// none calls a library for more than floor and ceil, so results are the same to the bit.
#pragma once

#ifdef __CUDACC_RTC__
// NVRTC compiles without the headers of a C++ compiler.
using int8_t = signed char;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

#ifdef __CUDACC__
#define YOLOR_EDGE_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define YOLOR_EDGE_HD inline __attribute__((always_inline))
#else
#define YOLOR_EDGE_HD inline
#endif

namespace yolor_edge {

/// The bits of `source` as another type of the same size.
template <class Target, class Source>
YOLOR_EDGE_HD void copy_bits(const Source& source, Target* target) {
    static_assert(sizeof(Target) == sizeof(Source), "bits are copied between types of one size");
    memcpy(target, &source, sizeof(Target));
}

template <class Value>
YOLOR_EDGE_HD Value clamped(Value value, Value low, Value high) {
    return value < low ? low : high < value ? high : value;
}

/// Neither NaN nor infinite.
YOLOR_EDGE_HD bool is_finite_number(float value) {
    return value - value == 0.0f;
}

}  // namespace yolor_edge
