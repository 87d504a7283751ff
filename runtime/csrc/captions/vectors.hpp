/// Vector registers as the caption kernels use them. No include guard: a file of kernels includes this and
/// what builds on it (row_kernels.hpp, float_product.hpp, dot_product.hpp) once for every instruction set,
/// each time in a namespace of its own that says
///   YE_TARGET  attribute of every function: what it is compiled for
///   kLanes     floats in a register
///   kRegisters how many of those there are
/// so that the same lines are compiled for each. Vectors are passed by reference: of those by value, GCC
/// notes that their ABI changed once, and cannot be told not to.

#define YE_INLINE_MEMBER YE_TARGET inline __attribute__((always_inline))
#define YE_INLINE YE_TARGET static inline __attribute__((always_inline, unused))

template <int kCount>
struct Vector {
    typedef float Floats __attribute__((vector_size(kCount * 4)));
    typedef int32_t Integers __attribute__((vector_size(kCount * 4)));
    typedef uint32_t Wrapping __attribute__((vector_size(kCount * 4)));
    typedef uint8_t Bytes __attribute__((vector_size(kCount)));
};
using Floats = Vector<kLanes>::Floats;
using Integers = Vector<kLanes>::Integers;
/// For sums that a made-up weight file may hold any numbers of: they wrap, as the instructions do.
using Wrapping = Vector<kLanes>::Wrapping;

// Registers that hold one block of outputs.
constexpr int kParts = kBlock / kLanes;

/// Whether, in a product of some rows with some registers of outputs, the weights of one input are there for
/// all rows in turn, or else the rows' values for all weights: whichever there are fewer of wait in registers
/// beside the sums. Where there is room for both, weights go first, so that all are on their way from memory
/// at once.
constexpr bool holds_weights(int rows, int across) {
    return kRegisters >= 32 || rows > across;
}

YE_INLINE Floats load(const float* from) {
    Floats lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

YE_INLINE void store(float* to, const Floats& lanes) {
    std::memcpy(to, &lanes, sizeof lanes);
}

YE_INLINE Integers load_integers(const void* from) {
    Integers lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

/// One number, or the same four bytes, in all lanes.
YE_INLINE Floats spread(float value) {
    return value - Floats{};  // not a sum, which would make 0 of -0
}

YE_INLINE Integers spread_four(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, sizeof four);
    return four + Integers{};
}

/// The lower half of a register (kWhich 0) or the upper one (1). Not by `memcpy` where that can be helped:
/// GCC keeps a register in memory, for a whole loop, whose parts are copied after it.
#if __has_builtin(__builtin_shufflevector)
template <int kWhich, class Half, class Whole, size_t... kAt>
YE_INLINE Half part_of(const Whole& lanes, std::index_sequence<kAt...>) {
    return __builtin_shufflevector(lanes, lanes, (kWhich * sizeof...(kAt) + kAt)...);
}

template <int kWhich, class Half, class Whole>
YE_INLINE Half half_of(const Whole& lanes) {
    return part_of<kWhich, Half>(lanes, std::make_index_sequence<sizeof(Half) / 4>{});
}
#else
template <int kWhich, class Half, class Whole>
YE_INLINE Half half_of(const Whole& lanes) {
    Half half;
    std::memcpy(&half, reinterpret_cast<const char*>(&lanes) + kWhich * sizeof half, sizeof half);
    return half;
}
#endif

/// What the whole numbers of one row and kLanes outputs come to. Nothing here is fused, so that all
/// instruction sets give the same floats.
struct Outputs {
    float* y;
    Floats scales, bias;

    YE_INLINE_MEMBER Outputs(const Int8Product& a, int64_t at)
        : y(a.y + at),
          scales(load(a.weight_scales + at)),
          bias(a.bias != nullptr ? load(a.bias + at) : Floats{}) {}

    YE_INLINE_MEMBER void put(const Int8Product& a, int64_t row, const Floats& whole) const {
        store(y + row * a.y_stride, whole * (scales * a.x.scales[row]) + bias);
    }
};
