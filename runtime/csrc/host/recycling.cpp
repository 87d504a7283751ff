#include "host/recycling.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace yolor_edge {
namespace {

#ifdef __linux__

constexpr size_t kHugePage = size_t{2} << 20;

constexpr size_t up_to_huge_page(size_t bytes) noexcept {
    return (bytes + kHugePage - 1) & ~(kHugePage - 1);
}

/// Cleared memory of whole huge pages: where the system grants them, 64 masks at 720 x 1280 are 29 page
/// faults instead of 14,400.
uint8_t* map_memory(size_t* capacity) noexcept {
    const size_t wanted = up_to_huge_page(*capacity);
    const size_t reserved = wanted + kHugePage;
    if (wanted < *capacity || reserved < wanted) return nullptr;
    void* memory = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    auto* begin = static_cast<uint8_t*>(memory);
    const size_t before =
        up_to_huge_page(reinterpret_cast<uintptr_t>(begin)) - reinterpret_cast<uintptr_t>(begin);
    if (before > 0) munmap(begin, before);
    begin += before;
    if (before < kHugePage) munmap(begin + wanted, kHugePage - before);
    madvise(begin, wanted, MADV_HUGEPAGE);  // a wish
    *capacity = wanted;
    return begin;
}

void unmap_memory(uint8_t* data, size_t capacity) noexcept {
    munmap(data, capacity);
}

/// Let the system take the pages when it is short of them; until then they keep what they hold and cost no
/// fault.
void offer_memory(uint8_t* data, size_t capacity) noexcept {
#ifdef MADV_FREE
    madvise(data, capacity, MADV_FREE);
#else
    static_cast<void>(data), static_cast<void>(capacity);
#endif
}

#else

uint8_t* map_memory(size_t* capacity) noexcept {
    return static_cast<uint8_t*>(std::calloc(*capacity, 1));
}

void unmap_memory(uint8_t* data, size_t) noexcept {
    std::free(data);
}

void offer_memory(uint8_t*, size_t) noexcept {}

#endif

/// Blocks that nobody uses, the one released last first. Whoever takes one out of its place has it alone, so
/// that no lock is needed, which a fork could leave locked in the child.
std::atomic<MemoryBlock*> kept_blocks[kKeptBlocks];

void destroy(MemoryBlock* block) noexcept {
    if (block == nullptr) return;
    unmap_memory(block->data, block->capacity);
    delete block;
}

}  // namespace

MemoryBlock* acquire_block(size_t bytes) noexcept {
    for (std::atomic<MemoryBlock*>& place : kept_blocks) {
        MemoryBlock* block = place.exchange(nullptr, std::memory_order_acq_rel);
        if (block == nullptr) continue;
        if (bytes <= block->capacity && block->capacity / 4 <= bytes) return block;
        MemoryBlock* none = nullptr;
        if (!place.compare_exchange_strong(none, block, std::memory_order_acq_rel)) destroy(block);
    }
    size_t capacity = bytes;
    uint8_t* data = map_memory(&capacity);
    if (data == nullptr) return nullptr;
    auto* block = new (std::nothrow) MemoryBlock{data, capacity, true};
    if (block == nullptr) unmap_memory(data, capacity);
    return block;
}

void release_block(MemoryBlock* block) noexcept {
    if (block->capacity > kMostRecycled) return destroy(block);
    block->is_clear = false;
    offer_memory(block->data, block->capacity);
    for (std::atomic<MemoryBlock*>& place : kept_blocks) {
        block = place.exchange(block, std::memory_order_acq_rel);
        if (block == nullptr) return;
    }
    destroy(block);
}

size_t drop_kept_blocks() noexcept {
    size_t bytes = 0;
    for (std::atomic<MemoryBlock*>& place : kept_blocks) {
        MemoryBlock* block = place.exchange(nullptr, std::memory_order_acq_rel);
        if (block != nullptr) bytes += block->capacity;
        destroy(block);
    }
    return bytes;
}

}  // namespace yolor_edge
