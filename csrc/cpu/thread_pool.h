#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace wxkernels {

// Threads that wait for work. Not OpenMP: a second OpenMP runtime beside PyTorch's would spin against it. The
// threads are never joined: the pool lives as long as the process.
class ThreadPool {
 public:
  // Calls task(i, thread) for i in [0, tasks) on at most `threads` threads, the caller being thread 0. When
  // the pool is at work for another caller, this one does all its tasks itself. Rethrows the first exception
  // of a task.
  void run(int64_t tasks, int threads, const std::function<void(int64_t, int)>& task);

 private:
  struct Job {
    const std::function<void(int64_t, int)>* task;
    int64_t tasks;
    int helpers;                   // threads of the pool that may take part
    std::atomic<int64_t> next{0};  // task that is taken next
    std::atomic<int> busy{0};      // helpers that have not left yet
    std::exception_ptr error;
    std::mutex error_guard;
  };

  static void work(Job& job, int thread);
  void help(int thread);

  std::mutex one_caller_;
  std::mutex guard_;
  std::condition_variable wake_;
  std::vector<std::thread> helpers_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> round_{0};
};

}  // namespace wxkernels
