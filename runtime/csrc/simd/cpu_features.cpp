#include "simd/cpu_features.hpp"

#include <cstdlib>
#include <stdexcept>

#ifdef YOLOR_EDGE_X86
#include <cpuid.h>
#endif

namespace yolor_edge {
namespace {

constexpr const char* kVariable = "YOLOR_EDGE_SIMD";

/// What the variable says, or null where it is not set or empty.
const char* wanted_level() noexcept {
    const char* name = std::getenv(kVariable);
    return name != nullptr && *name != '\0' ? name : nullptr;
}

/// Whether the variable's level is not to be had and none was set since.
std::atomic<bool>& is_refused() noexcept {
    static std::atomic<bool> refused{[] {
        const char* name = wanted_level();
        SimdLevel level;
        return name != nullptr && !find_simd_level(name, &level);
    }()};
    return refused;
}

#ifdef YOLOR_EDGE_X86
/// CPUID leaf 1, bit 29 of ECX: Clang's __builtin_cpu_supports does not know it.
bool has_f16c() noexcept {
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & 1u << 29) != 0;
}
#endif

}  // namespace

const char* simd_level_name(SimdLevel level) noexcept {
    switch (level) {
        case SimdLevel::avx512:
            return "avx512";
        case SimdLevel::avx2:
            return "avx2";
        default:
            return "portable";
    }
}

SimdLevel best_simd_level() noexcept {
#ifdef YOLOR_EDGE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !has_f16c()) return SimdLevel::portable;
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return has_avx512 ? SimdLevel::avx512 : SimdLevel::avx2;
#else
    return SimdLevel::portable;
#endif
}

std::string simd_level_names() {
    std::string names = simd_level_name(SimdLevel::portable);
    for (int i = 1; i <= static_cast<int>(best_simd_level()); ++i)
        names += std::string(", ") + simd_level_name(static_cast<SimdLevel>(i));
    return names;
}

bool find_simd_level(const char* name, SimdLevel* found) noexcept {
    for (int i = 0; i <= static_cast<int>(best_simd_level()); ++i) {
        if (std::strcmp(name, simd_level_name(static_cast<SimdLevel>(i))) != 0) continue;
        *found = static_cast<SimdLevel>(i);
        return true;
    }
    return false;
}

void require_simd_level() {
    if (!is_refused().load(std::memory_order_relaxed)) return;
    const char* name = wanted_level();
    throw std::invalid_argument(std::string(kVariable) + "=" + (name != nullptr ? name : "") +
                                ": this processor has no instructions of that name; set it to one of " +
                                simd_level_names() + ", or unset it for the best of them");
}

void set_simd_level(SimdLevel level) noexcept {
    is_refused().store(false, std::memory_order_relaxed);
    detail::active_level().store(level, std::memory_order_relaxed);
}

SimdLevel detail::first_simd_level() noexcept {
    SimdLevel level = best_simd_level();
    if (const char* name = wanted_level()) find_simd_level(name, &level);
    return level;
}

}  // namespace yolor_edge
