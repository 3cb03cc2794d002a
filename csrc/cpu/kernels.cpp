// Compiled once an instruction set, with its flags and with WX_ISA for its name.
#include "cpu/isa.h"
#include "cpu/layer_norm_kernels.h"
#include "cpu/linear_kernels.h"
#include "cpu/spectral_filter_kernels.h"

#define WX_JOIN(a, b) a##b
#define WX_NAME(prefix, isa) WX_JOIN(prefix, isa)
#define WX_QUOTE(a) #a
#define WX_STRING(a) WX_QUOTE(a)

namespace wxkernels {
namespace WX_ISA {

constexpr int kSums = 12;  // enough to hide the latency of any of these instructions

template <class Multiplier, class Step>
inline int64_t rounds_of(int64_t rounds, float* values, Multiplier factor, const Step& step,
                         int flops_a_lane) {
  vec sum[kSums];
  unroll<kSums>([&](auto i) WX_LAMBDA { sum[i] = set1(values[i]); });
  for (int64_t round = 0; round < rounds; ++round)
    unroll<kSums>([&](auto i) WX_LAMBDA { sum[i] = step(sum[i], factor); });
  unroll<kSums>([&](auto i) WX_LAMBDA { store(values + i, sum[i], Lanes(1)); });
  return int64_t{kSums} * kLanes * flops_a_lane;
}

#if defined(WX_AMX)

template <class Operand>
inline int64_t tile_rounds(int64_t rounds, float* values) {
  constexpr int kSumTiles = 6;
  const Tiles in_use;
  unroll<kSumTiles>([](auto t) WX_LAMBDA { zero_tile<t>(); });
  load_tile<6>(values, 0);
  load_tile<7>(values, 0);
  for (int64_t round = 0; round < rounds; ++round)
    unroll<kSumTiles>([](auto t) WX_LAMBDA { Operand::Product::template multiply<t, 6, 7>(); });
  return int64_t{kSumTiles} * kTileSide * kTileSide * kTileSide * Operand::kDepth * 2;
}

#endif

inline int64_t float32_rounds(int64_t rounds, float* values) {
  return rounds_of(
      rounds, values, set1(values[0]), [](vec sum, vec a) WX_LAMBDA { return fma(sum, a, a); }, 2);
}

inline int64_t bfloat16_rounds(int64_t rounds, float* values) {
#if defined(WX_AMX)
  return tile_rounds<Bfloat16>(rounds, values);
#elif defined(__AVX512BF16__)
  const vec a = set1(values[0]);
  return rounds_of(rounds, values, pack(a, a), [](vec sum, ints b) WX_LAMBDA { return dot(sum, b, b); }, 4);
#else
  (void)rounds, (void)values;
  return 0;
#endif
}

inline int64_t int8_rounds(int64_t rounds, float* values) {
#if defined(WX_AMX)
  return tile_rounds<Int8>(rounds, values);
#elif defined(__AVX512VNNI__)
  const auto as_ints = [](vec a) WX_LAMBDA { return _mm512_castps_si512(a); };
  return rounds_of(
      rounds, values, as_ints(set1(values[0])),
      [=](vec sum, ints a) WX_LAMBDA { return _mm512_castsi512_ps(_mm512_dpbusd_epi32(as_ints(sum), a, a)); },
      8);
#else
  (void)rounds, (void)values;
  return 0;
#endif
}

}  // namespace WX_ISA

const Kernels WX_NAME(kernels_, WX_ISA) = {
    WX_STRING(WX_ISA),      WX_ISA::kSpectralFilter, WX_ISA::kRows,      WX_ISA::kLinear,
    WX_ISA::float32_rounds, WX_ISA::bfloat16_rounds, WX_ISA::int8_rounds};

}  // namespace wxkernels
