/// A call's work over several threads: a few workers kept for the whole process, who help whoever asks.
#pragma once

#include <cstdint>
#include <type_traits>

namespace yolor_edge {

/// Threads a call may ask for at most.
constexpr int kMostThreads = 64;

namespace detail {

/// `run(context, i)` for every i of [0, tasks), by the caller and at most `threads - 1` workers.
void run_shared(int threads, int64_t tasks, void (*run)(void*, int64_t), void* context);

}  // namespace detail

/// `task(i)` for every i of [0, tasks), in no order, by the caller and at most `threads - 1` workers; returns
/// when all are done. With one thread or one task it is a loop. Tasks must not depend on each other; then the
/// outcome is the same whatever the number of threads.
/// Workers are started by the first call that wants them and wait without using the processor. Calls may come
/// from any thread: a worker who is busy with one call is missing in another, which the caller then does
/// alone. A forked child starts workers of its own. The first exception a task throws is thrown here, once
/// nobody works on this call any more.
template <class Task>
void run_parallel(int threads, int64_t tasks, Task&& task) {
    if (threads <= 1 || tasks <= 1) {
        for (int64_t i = 0; i < tasks; ++i) task(i);
        return;
    }
    using Bare = std::remove_reference_t<Task>;
    detail::run_shared(
        threads, tasks, [](void* context, int64_t i) { (*static_cast<Bare*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
}

}  // namespace yolor_edge
