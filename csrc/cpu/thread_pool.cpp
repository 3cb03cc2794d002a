#include "cpu/thread_pool.h"

#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wxkernels {
namespace {

// Passes follow each other at once; a longer spin would take a core from PyTorch's own threads.
constexpr int kSpins = 1000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

void ThreadPool::work(Job& job, int thread) {
  try {
    for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.tasks;)
      (*job.task)(i, thread);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(job.error_guard);
    if (!job.error) job.error = std::current_exception();
    job.next = job.tasks;
  }
}

void ThreadPool::help(int thread) {
  for (uint64_t seen = 0;;) {
    for (int i = 0; i < kSpins && round_.load(std::memory_order_relaxed) == seen; ++i) pause();
    Job* job = nullptr;
    {
      std::unique_lock<std::mutex> lock(guard_);
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (job_ != nullptr && thread <= job_->helpers) {
        job = job_;
        ++job->busy;
      }
    }
    if (job == nullptr) continue;
    work(*job, thread);
    --job->busy;  // the last touch: the caller may leave now
  }
}

void ThreadPool::run(int64_t tasks, int threads, const std::function<void(int64_t, int)>& task) {
  Job job;
  job.task = &task;
  job.tasks = tasks;
  job.helpers = static_cast<int>(tasks < threads ? tasks : threads) - 1;
  std::unique_lock<std::mutex> mine(one_caller_, std::try_to_lock);
  if (job.helpers < 1 || !mine.owns_lock()) {
    for (int64_t i = 0; i < tasks; ++i) task(i, 0);
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(guard_);
    try {
      while (static_cast<int>(helpers_.size()) < job.helpers) {
        const int thread = static_cast<int>(helpers_.size()) + 1;
        helpers_.emplace_back([this, thread] { help(thread); });
      }
    } catch (
        const std::system_error&) {  // the system grants no more threads: those that are there do the work
    }
    job_ = &job;
    ++round_;
  }
  wake_.notify_all();
  work(job, 0);
  {
    const std::lock_guard<std::mutex> lock(guard_);
    job_ = nullptr;  // a helper that wakes only now finds nothing
  }
  for (int i = 0; job.busy != 0; ++i) {
    if (i < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace wxkernels
