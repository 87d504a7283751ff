/// Memory that is reused, without Python, for the sanitizers: threads that acquire, write and release at
/// once, each asking for its own marks again; a child forked meanwhile does the same. `make sanitize` builds
/// and runs it.
#include "host/recycling.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace yolor_edge;

constexpr size_t kMib = size_t{1} << 20;
constexpr size_t kStep = 4096;

std::atomic<bool> is_good{true};

void check(bool is_true, const char* what) {
    if (is_true) return;
    std::fprintf(stderr, "%s\n", what);
    is_good = false;
}

/// Whether every 4096th byte and the last one are `mark`.
bool holds(const MemoryBlock& block, size_t bytes, uint8_t mark) {
    for (size_t i = 0; i < bytes; i += kStep) {
        if (block.data[i] != mark) return false;
    }
    return block.data[bytes - 1] == mark;
}

void hammer(unsigned seed) {
    std::mt19937 dice(seed);
    struct Loan {
        MemoryBlock* block;
        size_t bytes;
        uint8_t mark;
    };
    std::vector<Loan> loans;
    const auto end_one = [&] {
        std::swap(loans[dice() % loans.size()], loans.back());
        const Loan loan = loans.back();
        loans.pop_back();
        check(holds(*loan.block, loan.bytes, loan.mark), "somebody else wrote into a loan");
        release_block(loan.block);
    };
    for (unsigned step = 0; step < 300; ++step) {
        const size_t bytes = (4 + dice() % 9) * kMib - dice() % 3;
        MemoryBlock* block = acquire_block(bytes);
        check(block != nullptr, "no memory");
        if (block == nullptr) return;
        check(block->capacity >= bytes && block->capacity <= 4 * bytes + 3, "a block of another size");
        check(!block->is_clear || holds(*block, bytes, 0), "new memory that is not clear");
        const auto mark = static_cast<uint8_t>(1 + (seed * 37 + step) % 255);
        for (size_t i = 0; i < bytes; i += kStep) block->data[i] = mark;
        block->data[bytes - 1] = mark;
        loans.push_back({block, bytes, mark});
        if (loans.size() > 3) end_one();
        if (step % 64 == seed) drop_kept_blocks();
    }
    while (!loans.empty()) end_one();
}

}  // namespace

int main() {
    check(acquire_block(~size_t{0} - 5) == nullptr, "more memory than there is");
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) threads.emplace_back(hammer, seed);
#ifndef __SANITIZE_THREAD__  // which cannot follow a child of several threads
    const pid_t child = fork();
    if (child == 0) {
        hammer(9);
        _exit(is_good ? 0 : 1);
    }
    int status = 0;
    check(waitpid(child, &status, 0) == child && status == 0, "the child failed");
#endif
    for (std::thread& thread : threads) thread.join();
    const size_t kept = drop_kept_blocks();
    check(kept > 0 && kept <= kKeptBlocks * 14 * kMib, "another amount of memory kept");
    MemoryBlock* large = acquire_block(kMostRecycled + 1);
    check(large != nullptr && large->is_clear, "no large block");
    if (large != nullptr) release_block(large);
    check(drop_kept_blocks() == 0, "a large block is kept");
    std::puts(is_good ? "recycling: every loan alone" : "recycling: FAILED");
    return is_good ? 0 : 1;
}
