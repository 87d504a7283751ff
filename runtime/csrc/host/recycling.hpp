/// Memory for large results that goes round: a result gets what an earlier one lay in that is gone, since new
/// memory costs several times what is written into it, for the system clears it page by page.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolor_edge {

/// Smaller results are better off on the heap, where memory goes round anyway.
constexpr size_t kLeastRecycled = size_t{4} << 20;

/// Larger memory is never kept for another result. 64 masks at 1080 x 1920 lie below it.
constexpr size_t kMostRecycled = size_t{128} << 20;

/// Results' worth of memory kept at most while nobody uses it.
constexpr int kKeptBlocks = 2;

/// Memory lent to one result.
struct MemoryBlock {
    uint8_t* data;
    size_t capacity;
    bool is_clear;  // all zero: it comes from the system, nobody has written there
};

/// Memory for `bytes`, from kLeastRecycled on, at most four times as much; null where the system has none. It
/// is the caller's alone until `give_back_block`. Any thread may call either, also a forked child's, whatever
/// its parent was doing; nothing waits for anybody.
MemoryBlock* lend_block(size_t bytes) noexcept;

/// The end of a loan. The block is kept for the next one if it is not too large; the kKeptBlocks given back
/// last stay. The system may take what is kept when it is short of memory.
void give_back_block(MemoryBlock* block) noexcept;

/// Hand to the system what is kept; returns how many bytes that was.
size_t drop_kept_blocks() noexcept;

}  // namespace yolor_edge
