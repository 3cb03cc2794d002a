#include "cpu/runtime.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace wxkernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kLargeBytes = int64_t{16} << 20;

std::atomic<Runtime*> the_runtime{nullptr};

}  // namespace

void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const auto start = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t first = (start + page - 1) / page * page, last = (start + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

void prepare_output(void* out, int64_t bytes) {
  if (bytes >= kLargeBytes) prefer_huge_pages(out, static_cast<size_t>(bytes));
}

bool passes_caches(const void* out, int64_t bytes, Dtype dtype, int64_t run) {
  return bytes >= kLargeBytes && dtype == Dtype::float32 && run % kLineFloats == 0 &&
         reinterpret_cast<std::uintptr_t>(out) % kLineBytes == 0;
}

Scratch::~Scratch() { std::free(data_); }

float* Scratch::reserve(size_t floats) {
  if (floats <= floats_) return data_;
  std::free(data_);
  data_ = nullptr;
  floats_ = 0;
  const size_t bytes = (floats * sizeof(float) + kHugePage - 1) / kHugePage * kHugePage;
  data_ = static_cast<float*>(std::aligned_alloc(kHugePage, bytes));
  if (data_ == nullptr) throw std::bad_alloc();
  prefer_huge_pages(data_, bytes);  // columns lie pages apart
  floats_ = bytes / sizeof(float);
  return data_;
}

Runtime& Runtime::instance() {
  static const bool once = [] {
    the_runtime = new Runtime;  // never deleted: its threads run until the process ends
    pthread_atfork(nullptr, nullptr, [] { the_runtime = new Runtime; });
    return true;
  }();
  (void)once;
  return *the_runtime;
}

const FftPlan& Runtime::fft_plan(int n) {
  const std::lock_guard<std::mutex> lock(guard_);
  return plans_.try_emplace(n, n).first->second.plan();
}

std::unique_ptr<Scratch, void (*)(Scratch*)> Runtime::scratch() {
  const auto give_back = [](Scratch* scratch) {
    Runtime& runtime = instance();
    const std::lock_guard<std::mutex> lock(runtime.guard_);
    runtime.idle_.emplace_back(scratch);
  };
  const std::lock_guard<std::mutex> lock(guard_);
  if (idle_.empty()) return {new Scratch, give_back};
  Scratch* last = idle_.back().release();
  idle_.pop_back();
  return {last, give_back};
}

}  // namespace wxkernels
