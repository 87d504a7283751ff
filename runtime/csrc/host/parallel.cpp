#include "host/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#define YOLOR_EDGE_POSIX 1
#endif

namespace yolor_edge {
namespace {

/// One call's work. It lives on the caller's stack, who waits until nobody is inside.
struct Job {
    void (*run)(void*, int64_t);
    void* context;
    int64_t tasks;
    std::atomic<int64_t> next{0};
    int seats;       // workers who may still come in
    int inside = 0;  // workers who are in
    std::exception_ptr error;
    Job* following = nullptr;
};

class Workers {
  public:
    explicit Workers(Workers* before) : before(before) {}

    /// Those of the parent process, where nobody works: still reachable, so that no leak is seen.
    Workers* const before;

    void run(int threads, Job* job) {
        const int seats = job->seats;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            start(threads - 1);
            job->following = first_;
            first_ = job;
        }
        for (int i = 0; i < seats; ++i) wake_.notify_one();
        take_part(job);
        std::unique_lock<std::mutex> lock(mutex_);
        for (Job** link = &first_; *link != nullptr; link = &(*link)->following) {
            if (*link != job) continue;
            *link = job->following;
            break;
        }
        left_.wait(lock, [&] { return job->inside == 0; });
        if (job->error) std::rethrow_exception(job->error);
    }

  private:
    /// Have `wanted` workers, or as many as the system allows.
    void start(int wanted) {
#ifdef YOLOR_EDGE_POSIX
        // Signals belong to the threads of the program, which know what to do with them.
        sigset_t all, before;
        sigfillset(&all);
        const bool is_masked = count_ < wanted && pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
#endif
        try {
            for (; count_ < wanted; ++count_) std::thread([this] { work(); }).detach();
        } catch (const std::exception&) {  // no more threads or memory to be had: the caller does the rest
        }
#ifdef YOLOR_EDGE_POSIX
        if (is_masked) pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    }

    Job* open_job() const noexcept {
        for (Job* job = first_; job != nullptr; job = job->following) {
            if (job->seats > 0 && job->next.load(std::memory_order_relaxed) < job->tasks) return job;
        }
        return nullptr;
    }

    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            Job* job = nullptr;
            wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
            --job->seats;
            ++job->inside;
            lock.unlock();
            take_part(job);
            lock.lock();
            if (--job->inside == 0) left_.notify_all();
        }
    }

    void take_part(Job* job) {
        try {
            while (true) {
                const int64_t i = job->next.fetch_add(1, std::memory_order_relaxed);
                if (i >= job->tasks) return;
                job->run(job->context, i);
            }
        } catch (...) {
            job->next.store(job->tasks, std::memory_order_relaxed);
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!job->error) job->error = std::current_exception();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable left_;
    Job* first_ = nullptr;
    int count_ = 0;
};

std::atomic<Workers*> the_workers{nullptr};
std::atomic<Workers*> abandoned{nullptr};

#ifdef YOLOR_EDGE_POSIX
/// A child has none of its parent's threads, and may have a lock that one of them held.
[[maybe_unused]] const int is_watching_forks = pthread_atfork(nullptr, nullptr, [] {
    Workers* of_parent = the_workers.exchange(nullptr);
    if (of_parent != nullptr) abandoned.store(of_parent);
});
#endif

/// The workers of this process. Never destroyed: they may outlive every static object.
Workers& workers() {
    Workers* found = the_workers.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
    auto* made = new Workers(abandoned.load());
    if (the_workers.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
    delete made;
    return *found;
}

}  // namespace

namespace detail {

void run_shared(int threads, int64_t tasks, void (*run)(void*, int64_t), void* context) {
    const auto most = static_cast<int>(std::min<int64_t>(std::min(threads, kMostThreads), tasks));
    Job job;
    job.run = run;
    job.context = context;
    job.tasks = tasks;
    job.seats = most - 1;
    workers().run(most, &job);
}

}  // namespace detail
}  // namespace yolor_edge
