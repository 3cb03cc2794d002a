#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

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

constexpr size_t kPiece = size_t{1} << 18;

// kPiece bytes, both aligned to a cache line.
void copy_piece(const char* from, char* to) {
#if defined(__x86_64__)
  for (size_t i = 0; i < kPiece; i += sizeof(__m128i))
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(from + i)));
  _mm_sfence();
#else
  std::memcpy(to, from, kPiece);
#endif
}

}  // namespace

PeakFlops peak_flops(int threads) {
  const Kernels& kernel = kernels();
  return {best_flops(threads, kernel.float32_rounds), best_flops(threads, kernel.bfloat16_rounds),
          best_flops(threads, kernel.int8_rounds)};
}

double copy_rate(size_t bytes, int threads) {
  const size_t pieces = std::max<size_t>(1, bytes / kPiece), size = pieces * kPiece;
  Scratch scratch;
  char* const from = reinterpret_cast<char*>(scratch.reserve(2 * size / sizeof(float)));
  char* const to = from + size;
  std::memset(from, 1, 2 * size);
  double best = 0;
  for (int repeat = 0; repeat < 6; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    Runtime::instance().pool().run(static_cast<int64_t>(pieces), threads, [&](int64_t piece, int) {
      copy_piece(from + static_cast<size_t>(piece) * kPiece, to + static_cast<size_t>(piece) * kPiece);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2 * static_cast<double>(size) / seconds.count());
  }
  return best;
}

}  // namespace wxkernels
