/// Products by VPDPBUSD in registers of 256 bits, for one coding of the instruction: see dot_product.hpp.
/// YE_VPDPBUSD is how the assembler writes it.

constexpr int kLanes = 8, kRegisters = 16;
constexpr int32_t kOffset = kUnsigned;
constexpr int64_t kMostRows = 6, kMostFineRows = 3, kPanel = 3;
constexpr bool kPanelFetch = false;
#include "captions/vectors.hpp"

constexpr int parts_at_once(int digits) {
    return digits <= 2 ? 6 : digits <= 4 ? 3 : 2;
}

YE_INLINE void add_products(Integers& sums, const Integers& values, const Integers& weights) {
    asm(YE_VPDPBUSD " %2, %1, %0" : "+x"(sums) : "x"(values), "x"(weights));
}

#include "captions/dot_product.hpp"
