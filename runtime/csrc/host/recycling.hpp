/// Memory of large results: a new one reuses the memory of one that was freed, since new memory costs several
/// times what is written into it, for the system clears it page by page.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolor_edge {

/// Smaller results are better off on the heap, which reuses memory anyway.
constexpr size_t kLeastRecycled = size_t{4} << 20;

/// Larger memory is never kept for another result. 64 masks at 1080 x 1920 lie below it.
constexpr size_t kMostRecycled = size_t{128} << 20;

/// Results' worth of memory kept at most while nobody uses it.
constexpr int kKeptBlocks = 2;

/// Memory of one result.
struct MemoryBlock {
    uint8_t* data;
    size_t capacity;
    bool is_clear;  // all zero: it comes from the system, nobody has written there
};

/// Memory for `bytes`, from kLeastRecycled on, at most four times as much; null where the system has none. It
/// is the caller's alone until `release_block`. Any thread may call either, also a forked child's, whatever
/// its parent was doing; nothing waits for anybody.
MemoryBlock* acquire_block(size_t bytes) noexcept;

/// The block is kept for the next result if it is not too large; the kKeptBlocks released last stay. The
/// system may take what is kept when it is short of memory.
void release_block(MemoryBlock* block) noexcept;

/// Hand to the system what is kept; returns how many bytes that was.
size_t drop_kept_blocks() noexcept;

}  // namespace yolor_edge
