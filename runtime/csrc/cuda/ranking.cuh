/// Singling out the best of very many candidates, so that the one block of `select_boxes` need not go through
/// all.
///
/// A selection by digits over as many blocks as there is work for: a pass counts the candidates by one digit
/// of their keys, from the highest, among those that share the digits before it; the block that ends last
/// finds the digit within which the wanted rank falls. It is over as soon as what lies up to the end of that
/// digit is few enough, mostly after two passes; at the last digit it is the rank itself, since no two keys
/// are equal. Where there are few candidates, all of it is a look at their number.
#pragma once

#include "parameters.hpp"

namespace yolor_edge::cuda {

constexpr int32_t kRankThreads = 256;
constexpr int32_t kRankItems = 8;
constexpr int32_t kRankDigit = 11;  // bits
constexpr int32_t kRankBins = 1 << kRankDigit;
constexpr int32_t kRankOwnBins = kRankBins / kRankThreads;

/// A candidate without the bits that no flat index has: its order, in `32 + index_bits` bits.
__device__ __forceinline__ uint64_t key_of(Candidate candidate, int32_t index_bits) {
    return (candidate >> 32 << index_bits) | (candidate & 0xffffffffu);
}

/// Sum of `value` over the threads of the block up to and with this one; all of them are in `sums` then.
template <int32_t kThreads, class Value>
__device__ inline Value running_sum(Value value, Value* sums) {
    const auto thread = static_cast<int32_t>(threadIdx.x);
    __syncthreads();
    sums[thread] = value;
    for (int32_t distance = 1; distance < kThreads; distance *= 2) {
        __syncthreads();
        const Value other = thread >= distance ? sums[thread - distance] : 0;
        __syncthreads();
        sums[thread] += other;
    }
    __syncthreads();
    return sums[thread];
}

}  // namespace yolor_edge::cuda

extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kRankThreads)
    rank_candidates(yolor_edge::cuda::RankParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ uint32_t histogram[kRankBins];
    __shared__ uint32_t sums[kRankThreads];
    __shared__ int32_t is_last;
    const int64_t total = *p.count;
    // Only the block that ends last changes the state, when all others have looked at it.
    if (total <= p.capacity || p.state->is_found != 0) return;
    const auto thread = static_cast<int32_t>(threadIdx.x);
    const uint64_t prefix = p.state->prefix;
    for (int32_t i = thread; i < kRankBins; i += kRankThreads) histogram[i] = 0;
    __syncthreads();
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * (kRankThreads * kRankItems) + thread;
#pragma unroll
    for (int32_t k = 0; k < kRankItems; ++k) {
        const int64_t i = begin + k * kRankThreads;
        if (i >= total) break;
        const uint64_t key = key_of(p.candidates[i], p.index_bits);
        if (p.is_first == 0 && key >> (p.shift + kRankDigit) != prefix) continue;
        atomicAdd(&histogram[key >> p.shift & (kRankBins - 1)], 1u);
    }
    __syncthreads();
    for (int32_t i = thread; i < kRankBins; i += kRankThreads) {
        if (histogram[i] != 0) atomicAdd(&p.histogram[i], histogram[i]);
    }
    __threadfence();
    __syncthreads();
    if (thread == 0) is_last = atomicAdd(&p.state->tickets, 1u) + 1 == gridDim.x ? 1 : 0;
    __syncthreads();
    if (is_last == 0) return;
    __threadfence();
    const volatile uint32_t* counts = p.histogram + kRankOwnBins * thread;
    uint32_t own = 0;
    for (int32_t i = 0; i < kRankOwnBins; ++i) own += counts[i];
    uint32_t before = p.state->below + running_sum<kRankThreads>(own, sums) - own;
    const auto rank = static_cast<uint32_t>(p.rank);
    if (before >= rank || before + own < rank) return;  // one thread is left
    uint32_t bin = 0;
    while (before + counts[bin] < rank) before += counts[bin++];
    const uint64_t found = prefix << kRankDigit | (kRankOwnBins * static_cast<uint32_t>(thread) + bin);
    p.state->prefix = found;
    p.state->bound = ((found + 1) << p.shift) - 1;
    p.state->below = before;
    p.state->tickets = 0;
    p.state->is_found = before + counts[bin] <= static_cast<uint32_t>(p.capacity) ? 1 : 0;
}

extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kRankThreads)
    compact_candidates(yolor_edge::cuda::CompactParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ uint32_t found;
    __shared__ uint32_t first;
    const int64_t total = *p.count;
    if (total <= p.capacity) return;
    const auto thread = static_cast<int32_t>(threadIdx.x);
    const uint64_t bound = p.state->bound;
    if (thread == 0) found = 0;
    __syncthreads();
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * (kRankThreads * kRankItems) + thread;
    Candidate own[kRankItems];
    uint32_t hits = 0;
    uint32_t count = 0;
#pragma unroll
    for (int32_t k = 0; k < kRankItems; ++k) {
        const int64_t i = begin + k * kRankThreads;
        own[k] = i < total ? p.candidates[i] : 0;
        if (i < total && key_of(own[k], p.index_bits) <= bound) {
            hits |= 1u << k;
            ++count;
        }
    }
    const uint32_t before = count != 0 ? atomicAdd(&found, count) : 0;
    __syncthreads();
    if (thread == 0) first = found != 0 ? atomicAdd(&p.state->count, found) : 0;
    __syncthreads();
    uint32_t to = first + before;
#pragma unroll
    for (int32_t k = 0; k < kRankItems; ++k) {
        if ((hits >> k & 1u) != 0) p.compacted[to++] = own[k];
    }
}
