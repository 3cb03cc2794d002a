// The matrix instructions of device.h on the CPU, with fragments filled and read as CuTe's descriptions of
// the real ones place them. ci/cuda.sh compiles and runs it; no GPU is touched.
#include <cstdio>
#include <cstdlib>
#include <cute/arch/copy_sm75.hpp>
#include <cute/arch/mma_sm80.hpp>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <random>

#include "cuda/device.h"

namespace on_cpu = wxkernels::cuda;

namespace {

std::mt19937 generator(1);
float small() { return static_cast<float>(static_cast<int>(generator() % 17) - 8); }  // exact in every dtype

// Bits of a 16-bit or TF32 value in word w of a lane.
template <class T>
void put(uint32_t* words, int i, float v) {
  if constexpr (std::is_same_v<T, float>) {
    words[i] = on_cpu::to_tf32(v);
  } else {
    const T value = on_cpu::rounded<T>(v);
    uint16_t bits;
    std::memcpy(&bits, &value, 2);
    words[i / 2] |= static_cast<uint32_t>(bits) << i % 2 * 16;
  }
}

int failures = 0;

// M x N x K with A(M, K), B(N, K), C(M, N): layouts of (lane, value) to the offset in a column-major matrix.
template <class T, class Instruction>
void test_product(const char* name) {
  using Traits = cute::MMA_Traits<Instruction>;
  constexpr int M = cute::size<0>(typename Traits::Shape_MNK{}),
                N = cute::size<1>(typename Traits::Shape_MNK{});
  constexpr int K = cute::size<2>(typename Traits::Shape_MNK{}), kOfLaneA = M * K / 32, kOfLaneB = N * K / 32;
  static float a[M * K], b[N * K], c[M * N], found[M * N];
  for (float& v : a) v = small();
  for (float& v : b) v = small();
  for (float& v : c) v = small();
  on_cpu::run_block(0, 32, 0, [&] {
    const int lane = on_cpu::thread();
    uint32_t words_a[4] = {}, words_b[2] = {};
    float sum[4];
    for (int i = 0; i < kOfLaneA; ++i) put<T>(words_a, i, a[typename Traits::ALayout{}(lane, i)]);
    for (int i = 0; i < kOfLaneB; ++i) put<T>(words_b, i, b[typename Traits::BLayout{}(lane, i)]);
    for (int i = 0; i < 4; ++i) sum[i] = c[typename Traits::CLayout{}(lane, i)];
    on_cpu::multiply_matrices<T>(sum, words_a, words_b);
    for (int i = 0; i < 4; ++i) found[typename Traits::CLayout{}(lane, i)] = sum[i];
  });
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) {
      float exact = c[m + M * n];
      for (int k = 0; k < K; ++k) exact += a[m + M * k] * b[n + N * k];
      if (found[m + M * n] != exact) {
        ++failures;
        std::fprintf(stderr, "%s: row %d column %d is %g, not %g\n", name, m, n, found[m + M * n], exact);
      }
    }
}

// What lane l gets of 16-bit elements that are numbered as they lie, rows of 8 given by the lanes in turn.
template <bool kTransposed, class Instruction>
void test_loads(const char* name) {
  using Traits = cute::Copy_Traits<Instruction>;
  alignas(16) static uint16_t elements[32 * 8];
  for (int i = 0; i < 32 * 8; ++i) elements[i] = static_cast<uint16_t>(i);
  on_cpu::run_block(0, 32, 0, [&] {
    const int lane = on_cpu::thread();
    uint32_t word[4];
    on_cpu::load_matrices<kTransposed>(word, elements + 8 * lane);
    for (int i = 0; i < 8; ++i) {
      const int got = word[i / 2] >> i % 2 * 16 & 0xffff;
      // Layouts of (lane, bit) to a number; that of source and destination is the same for the same bit.
      const int place = typename Traits::DstLayout{}(lane, 16 * i);
      int expected = -1;
      for (int l = 0; l < 32; ++l)
        for (int e = 0; e < 8; ++e)
          if (typename Traits::SrcLayout{}(l, 16 * e) == place) expected = 8 * l + e;
      if (got != expected) {
        ++failures;
        std::fprintf(stderr, "%s: lane %d has element %d at %d, not %d\n", name, lane, got, i, expected);
      }
    }
  });
}

}  // namespace

int main() {
  test_product<on_cpu::bfloat16, cute::SM80_16x8x16_F32BF16BF16F32_TN>("mma bfloat16");
  test_product<on_cpu::float16, cute::SM80_16x8x16_F32F16F16F32_TN>("mma float16");
  test_product<float, cute::SM80_16x8x8_F32TF32TF32F32_TN>("mma tf32");
  test_loads<false, cute::SM75_U32x4_LDSM_N>("ldmatrix");
  test_loads<true, cute::SM75_U16x8_LDSM_T>("ldmatrix.trans");
  std::printf("matrix instructions on the CPU: %d places differ from CuTe's\n", failures);
  return failures != 0;
}
