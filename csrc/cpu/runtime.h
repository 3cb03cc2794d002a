#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cpu/fft_plan.h"
#include "cpu/thread_pool.h"
#include "wxkernels/dtype.h"

namespace wxkernels {

// Asks for huge pages where the memory has not been touched yet: it is then faulted in by 2 MiB, not by 4
// KiB.
void prefer_huge_pages(void* memory, size_t bytes);

constexpr size_t kLineBytes = 64;
constexpr int64_t kLineFloats = kLineBytes / sizeof(float);
constexpr size_t to_cache_line(size_t floats) {
  return (floats + kLineFloats - 1) / kLineFloats * kLineFloats;
}

// Before `bytes` of results are written: large ones may be fresh from the operating system.
void prepare_output(void* out, int64_t bytes);

// Whether results, in runs of `run` floats, are best stored past the caches: there are so many that they are
// out of them before anyone reads them, and lines are written whole.
bool passes_caches(const void* out, int64_t bytes, Dtype dtype, int64_t run);

// Floats aligned to a cache line, which grow and never shrink.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();
  float* reserve(size_t floats);

 private:
  float* data_ = nullptr;
  size_t floats_ = 0;
};

// What calls share. After a fork the child starts with a new one: its threads are gone, its locks may be
// held.
class Runtime {
 public:
  static Runtime& instance();

  ThreadPool& pool() { return pool_; }
  const FftPlan& fft_plan(int n);
  // Scratch memory for one call: given back by the pointer's end, and used again by the next call.
  std::unique_ptr<Scratch, void (*)(Scratch*)> scratch();

 private:
  ThreadPool pool_;
  std::mutex guard_;
  std::map<int, FftPlanner> plans_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace wxkernels
