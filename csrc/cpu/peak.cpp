#include <chrono>

#include "cpu/isa.h"
#include "cpu/runtime.h"
#include "wxkernels/cpu.h"

namespace wxkernels {
namespace {

// Best of several short runs: other work on the machine only ever lowers the figure.
double best_flops(int threads, int64_t (*rounds)(int64_t, float*)) {
  constexpr int64_t kRounds = 200000;
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::atomic<int64_t> flops{0};
    const auto start = std::chrono::steady_clock::now();
    Runtime::instance().pool().run(threads, threads, [&](int64_t, int) {
      float values[16];
      for (float& value : values) value = 0.5f;
      flops += kRounds * rounds(kRounds, values);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (flops / seconds.count() > best) best = flops / seconds.count();
  }
  return best;
}

}  // namespace

PeakFlops peak_flops(int threads) {
  const Kernels& kernel = kernels();
  return {best_flops(threads, kernel.float32_rounds), best_flops(threads, kernel.bfloat16_rounds),
          best_flops(threads, kernel.int8_rounds)};
}

}  // namespace wxkernels
