// The CUDA kernels as a shared library for the CPU: each under its name as
//   void NAME(void** parameters, const unsigned* grid, const unsigned* block, unsigned shared_bytes)
// beside unsigned NAME_sizes[], the bytes of every parameter and a zero.
#include "cuda_emulator.hpp"

#define KERNELS(of)                                                                                 \
    of(fill_taps, TapsParameters) of(fill_axis, AxisParameters) of(fill_nearest, NearestParameters) \
        of(letterbox, LetterboxParameters) of(resample_map, ResampleParameters)                     \
            of(collect_candidates, CollectParameters) of(decode_cells, DecodeParameters)            \
                of(rank_candidates, RankParameters) of(compact_candidates, CompactParameters)       \
                    of(select_boxes, SelectParameters) of(fill_masks, MaskParameters)               \
                        of(find_leaders, LeadersParameters) of(fill_semantic, SemanticParameters)

#define fill_taps emulated_fill_taps
#define fill_axis emulated_fill_axis
#define fill_nearest emulated_fill_nearest
#define letterbox emulated_letterbox
#define resample_map emulated_resample_map
#define collect_candidates emulated_collect_candidates
#define decode_cells emulated_decode_cells
#define rank_candidates emulated_rank_candidates
#define compact_candidates emulated_compact_candidates
#define select_boxes emulated_select_boxes
#define fill_masks emulated_fill_masks
#define find_leaders emulated_find_leaders
#define fill_semantic emulated_fill_semantic
#include "../../runtime/csrc/cuda/kernels.cu"
#undef fill_taps
#undef fill_axis
#undef fill_nearest
#undef letterbox
#undef resample_map
#undef collect_candidates
#undef decode_cells
#undef rank_candidates
#undef compact_candidates
#undef select_boxes
#undef fill_masks
#undef find_leaders
#undef fill_semantic

#define EXPORT(name, Parameters)                                                                            \
    extern "C" {                                                                                            \
    __attribute__((visibility("default"))) unsigned name##_sizes[] = {sizeof(yolor_edge::cuda::Parameters), \
                                                                      0};                                   \
    __attribute__((visibility("default"))) void name(void** parameters, const unsigned* grid,               \
                                                     const unsigned* block, unsigned) {                     \
        const auto& given = *static_cast<const yolor_edge::cuda::Parameters*>(parameters[0]);               \
        emulator::run_grid(grid, block, [&] { emulated_##name(given); });                                   \
    }                                                                                                       \
    }
KERNELS(EXPORT)

/// Another order of threads and blocks.
extern "C" __attribute__((visibility("default"))) void set_order(unsigned seed) {
    emulator::order.seed(seed);
}

/// For the tests of what the kernels compute in one way on a GPU and in another here.
extern "C" __attribute__((visibility("default"))) uint16_t half_of(float value) {
    return yolor_edge::cuda::half_of_float(value);
}
extern "C" __attribute__((visibility("default"))) float float_of(uint16_t half) {
    return yolor_edge::cuda::float_of_half(half);
}
