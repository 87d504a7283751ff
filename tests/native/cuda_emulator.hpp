// As much of CUDA as the kernels in runtime/csrc/cuda use, on one thread of the CPU, so that the very sources
// that a GPU runs are tested where there is none: threads of a block are fibers that run from barrier to
// barrier, in an order that changes every time, and so do blocks. A barrier that not all living threads of a
// block reach, or a kernel that works only in the order of its threads, shows. What does not show is what
// only true concurrency does: a race between two barriers on the same word.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
// In a section of their own, whose bounds the linker knows.
#define __shared__ static __attribute__((section("emulated_shared")))
#define __launch_bounds__(...)
#define __syncthreads() emulator::barrier(__FILE__, __LINE__)
#define __threadfence()

struct Index3 {
    unsigned x, y, z;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

extern "C" __attribute__((visibility("hidden"))) char __start_emulated_shared[];
extern "C" __attribute__((visibility("hidden"))) char __stop_emulated_shared[];

namespace emulator {

/// One thread of a block.
struct Fiber {
    ucontext_t context;
    jmp_buf resume;
    std::unique_ptr<char[]> stack;
    Index3 index;
    bool has_started = false;
    bool is_done = false;
    const char* file = nullptr;
    int line = 0;
};

static std::vector<std::unique_ptr<Fiber>> fibers;
static Fiber* running = nullptr;
static jmp_buf scheduler;
static const std::function<void()>* body = nullptr;
static std::mt19937 order(1);

constexpr size_t kStackBytes = 64 << 10;

[[noreturn]] inline void fail(const char* what, const Fiber& fiber) {
    std::fprintf(stderr, "emulator: %s at %s:%d\n", what, fiber.file, fiber.line);
    std::abort();
}

__attribute__((noinline)) inline void barrier(const char* file, int line) {
    running->file = file;
    running->line = line;
    if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

inline void enter() {
    (*body)();
    running->is_done = true;
    _longjmp(scheduler, 1);
}

inline void resume(Fiber& fiber) {
    running = &fiber;
    threadIdx = fiber.index;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.has_started) _longjmp(fiber.resume, 1);
    fiber.has_started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    setcontext(&fiber.context);
}

inline void run_block() {
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    while (fibers.size() < count) {
        fibers.push_back(std::make_unique<Fiber>());
        fibers.back()->stack = std::make_unique<char[]>(kStackBytes);
    }
    std::vector<Fiber*> living;
    for (unsigned i = 0; i < count; ++i) {
        Fiber& fiber = *fibers[i];
        fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        fiber.has_started = fiber.is_done = false;
        living.push_back(&fiber);
    }
    while (!living.empty()) {
        if (order() % 2 == 0) {
            std::reverse(living.begin(), living.end());
        } else {
            std::rotate(living.begin(), living.begin() + order() % living.size(), living.end());
        }
        for (Fiber* fiber : living) resume(*fiber);
        living.erase(std::remove_if(living.begin(), living.end(), [](const Fiber* f) { return f->is_done; }),
                     living.end());
        for (const Fiber* fiber : living) {
            if (fiber->line != living[0]->line || fiber->file != living[0]->file)
                fail("threads wait at different barriers", *fiber);
        }
    }
}

inline void run_grid(const unsigned* grid, const unsigned* block, const std::function<void()>& kernel) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body = &kernel;
    std::vector<unsigned> blocks(grid[0] * grid[1] * grid[2]);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::shuffle(blocks.begin(), blocks.end(), order);
    for (const unsigned number : blocks) {
        // What a block finds in shared memory is not what the last one left there.
        std::memset(__start_emulated_shared, static_cast<int>(order()),
                    static_cast<size_t>(__stop_emulated_shared - __start_emulated_shared));
        blockIdx = {number % grid[0], number / grid[0] % grid[1], number / (grid[0] * grid[1])};
        run_block();
    }
}

}  // namespace emulator

template <class Value>
inline Value atomicAdd(Value* target, Value value) {
    const Value before = *target;
    *target = before + value;
    return before;
}
template <class Value>
inline Value atomicOr(Value* target, Value value) {
    const Value before = *target;
    *target = before | value;
    return before;
}
inline int __popcll(unsigned long long bits) {
    return __builtin_popcountll(bits);
}
