/// Which vector instructions the kernels use: found out once, lowered by YOLOR_EDGE_SIMD or by a test.
///
/// A kernel writes its inner loop once, as plain C++ in the static `run` of a struct, and calls
/// `dispatch<Struct>(...)`: the loop is compiled for every level and the active one runs. Results are the
/// same to the bit at every level, since nothing is reordered and multiplications are never fused with
/// additions.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

#if defined(__x86_64__) && defined(__GNUC__)
#define YOLOR_EDGE_X86 1
#define YOLOR_EDGE_AVX2 __attribute__((target("avx2,f16c")))
#if defined(__clang__)
#define YOLOR_EDGE_AVX512 __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define YOLOR_EDGE_AVX512 \
    __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif
#endif
/// Four lanes of two vectors: lanes 0 to 3 are a's, 4 to 7 are b's.
#if defined(__clang__)
#define YOLOR_EDGE_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define YOLOR_EDGE_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, yolor_edge::FourInts{i, j, k, l})
#endif
#if defined(__GNUC__)
#define YOLOR_EDGE_INLINE inline __attribute__((always_inline))
#else
#define YOLOR_EDGE_INLINE inline
#endif

namespace yolor_edge {

using Four = float __attribute__((vector_size(16)));
using FourInts = int32_t __attribute__((vector_size(16)));
using Eight = float __attribute__((vector_size(32)));
using EightInts = int32_t __attribute__((vector_size(32)));

/// Vectors of the width a level has, for loops that are written in them: `portable` has four lanes. The
/// compiler would take wider ones apart, comparisons lane by lane.
struct FourLanes {
    using Floats = Four;
    using Ints = FourInts;
    using Bits = uint32_t __attribute__((vector_size(16)));
    static constexpr int64_t kWidth = 4;
};
struct EightLanes {
    using Floats = Eight;
    using Ints = EightInts;
    using Bits = uint32_t __attribute__((vector_size(32)));
    static constexpr int64_t kWidth = 8;
};

template <class Vector, class Value>
YOLOR_EDGE_INLINE void load(const Value* source, Vector* vector) noexcept {
    std::memcpy(vector, source, sizeof *vector);
}
template <class Vector, class Value>
YOLOR_EDGE_INLINE void store(const Vector& vector, Value* target) noexcept {
    std::memcpy(target, &vector, sizeof vector);
}

/// The lowest byte of every lane.
template <class Ints>
YOLOR_EDGE_INLINE void store_low_bytes(const Ints& lanes, uint8_t* target) noexcept {
    if constexpr (sizeof(Ints) == sizeof(EightInts)) {
        using EightBytes = uint8_t __attribute__((vector_size(8)));
        store(__builtin_convertvector(lanes, EightBytes), target);
    } else {
        for (size_t i = 0; i < sizeof(Ints) / sizeof(int32_t); ++i)
            target[i] = static_cast<uint8_t>(lanes[i]);
    }
}

/// What the compiler emits by default is `portable`: SSE2 on x86-64, NEON on aarch64.
enum class SimdLevel : int { portable = 0, avx2 = 1, avx512 = 2 };

const char* simd_level_name(SimdLevel level) noexcept;

/// The highest level this processor has.
SimdLevel best_simd_level() noexcept;

/// The names of this processor's levels, from the lowest on, joined by ", ".
std::string simd_level_names();

/// Finds a level by name among those this processor has; false where there is none of that name.
bool find_simd_level(const char* name, SimdLevel* found) noexcept;

/// Throws std::invalid_argument where YOLOR_EDGE_SIMD names none of this processor's levels and no
/// `set_simd_level` has replaced it. Whoever hands out kernels asks this first; without it, the best level is
/// in use then.
void require_simd_level();

namespace detail {

/// What YOLOR_EDGE_SIMD says, or the best level.
SimdLevel first_simd_level() noexcept;

inline std::atomic<SimdLevel>& active_level() noexcept {
    static std::atomic<SimdLevel> level{first_simd_level()};
    return level;
}

#ifdef YOLOR_EDGE_X86
template <class Body, class... Args>
YOLOR_EDGE_AVX2 auto run_avx2(Args... args) {
    return Body::run(args...);
}
template <class Body, class... Args>
YOLOR_EDGE_AVX512 auto run_avx512(Args... args) {
    return Body::run(args...);
}
#endif

}  // namespace detail

/// The level in use: the best there is, or the one the environment variable YOLOR_EDGE_SIMD names, until
/// `set_simd_level` changes it for all threads.
inline SimdLevel simd_level() noexcept {
    return detail::active_level().load(std::memory_order_relaxed);
}

void set_simd_level(SimdLevel level) noexcept;

/// `Body::run(args...)`, compiled for the active level. `run` is YOLOR_EDGE_INLINE and calls nothing that is
/// not.
template <class Body, class... Args>
inline auto dispatch(Args... args) {
#ifdef YOLOR_EDGE_X86
    switch (simd_level()) {
        case SimdLevel::avx512:
            return detail::run_avx512<Body>(args...);
        case SimdLevel::avx2:
            return detail::run_avx2<Body>(args...);
        default:
            break;
    }
#endif
    return Body::run(args...);
}

/// The same for a kernel that is written in vectors, `Body<Lanes>::run(args...)`.
template <template <class> class Body, class... Args>
inline auto dispatch_lanes(Args... args) {
#ifdef YOLOR_EDGE_X86
    switch (simd_level()) {
        case SimdLevel::avx512:
            return detail::run_avx512<Body<EightLanes>>(args...);
        case SimdLevel::avx2:
            return detail::run_avx2<Body<EightLanes>>(args...);
        default:
            break;
    }
#endif
    return Body<FourLanes>::run(args...);
}

}  // namespace yolor_edge
