/// Reading heads in float32 or float16, and writing the network's input in either.
#pragma once

#include "shared/host_device.hpp"

namespace yolor_edge::cuda {

/// A half-precision number; every one is a float32 exactly, NaN is one again.
__device__ __forceinline__ float float_of_half(uint16_t half) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    uint32_t bits = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    copy_bits(bits, &value);
    value *= 5.192296858534828e33f;  // 2^112, the difference of the biases
    copy_bits(value, &bits);
    if ((half & 0x7c00u) == 0x7c00u) bits = 0x7f800000u | (static_cast<uint32_t>(half & 0x3ffu) << 13);
    bits |= static_cast<uint32_t>(half & 0x8000u) << 16;
    copy_bits(bits, &value);
    return value;
#endif
}

/// The nearest half-precision number, of two the even one; for finite numbers of at most 65504 in size.
__device__ __forceinline__ uint16_t half_of_float(float value) {
#ifdef __CUDA_ARCH__
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#else
    uint32_t bits;
    copy_bits(value, &bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits < 0x38800000u) {  // below the normal numbers: 0.5 has steps of 2^-24
        float size;
        copy_bits(bits, &size);
        size += 0.5f;
        copy_bits(size, &bits);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
    }
    bits += 0xc8000fffu + (bits >> 13 & 1u);  // exponents rebased, half of what is cut off added
    return static_cast<uint16_t>(sign | bits >> 13);
#endif
}

__device__ __forceinline__ float head_value(const void* head, int64_t index, int32_t is_half) {
    return is_half != 0 ? float_of_half(static_cast<const uint16_t*>(head)[index])
                        : static_cast<const float*>(head)[index];
}

}  // namespace yolor_edge::cuda
