// GELU, x Phi(x), in its exact form (Phi the normal distribution function) and in its tanh form.
//
// Both are max(x, 0) - a Q(a) with a = |x| and a falling tail Q; in the exact form Q(a) = Phi(-a). Nothing
// cancels, so the negative tail keeps its digits. Q is a polynomial an interval, its coefficients picked by
// the interval's number: from registers where an instruction does that. The compiler makes them, by
// interpolation at Chebyshev points in double. Against float64 over all of float32 the error is at most 8e-8
// max(|x|, 1) (PyTorch 2.13: 3.6e-7), and in the exact form 1e-4 of the value down to x = -5. AVX-512: 10
// cycles a vector on Zen 4.
#pragma once

#include "cpu/simd.h"

namespace wxkernels::WX_ISA {

#if defined(__AVX512F__)
constexpr int kTailIntervals = 32, kTailDegree = 4;
constexpr float kTailWidth = 0.25f;
#elif defined(__AVX2__)
constexpr int kTailIntervals = 8, kTailDegree = 7;
constexpr float kTailWidth = 1;
#else
constexpr int kTailIntervals = 32, kTailDegree = 4;
constexpr float kTailWidth = 0.25f;
#endif

constexpr double kPi = 3.14159265358979323846;

constexpr double square_root(double a) {
  double root = a > 1 ? a : 1;
  for (int i = 0; i < 60; ++i) root = (root + a / root) / 2;
  return root;
}

constexpr double exponential(double a) {  // a >= 0
  double sum = 1, term = 1;
  for (int i = 1; i < 150; ++i) sum += term *= a / i;
  return sum;
}

constexpr double cosine(double a) {
  double sum = 1, term = 1;
  for (int i = 1; i < 30; ++i) sum += term *= -a * a / ((2 * i - 1) * 2 * i);
  return sum;
}

// Phi(-a) by its series, or where that would cancel by its continued fraction.
struct NormalTail {
  static constexpr double value(double a) {
    const double density = 1 / (exponential(a * a / 2) * square_root(2 * kPi));
    if (a < 2) {
      double sum = a, term = a;
      for (int i = 1; i < 60; ++i) sum += term *= a * a / (2 * i + 1);
      return 0.5 - density * sum;
    }
    double fraction = a;
    for (int i = 150; i > 0; --i) fraction = a + i / fraction;
    return density / fraction;
  }
};

// (1 - tanh(sqrt(2 / pi) (a + 0.044715 a^3))) / 2
struct TanhTail {
  static constexpr double value(double a) {
    const double u = 2 * square_root(2 / kPi) * (a + 0.044715 * a * a * a);
    return u < 0 ? 1 - 1 / (1 + exponential(-u)) : 1 / (1 + exponential(u));
  }
};

// coefficient[k][i]: of r^k, r = a - i kTailWidth in [-kTailWidth / 2, kTailWidth / 2]. The last interval is
// 0.
struct TailTable {
  alignas(64) float coefficient[kTailDegree + 1][kTailIntervals];
};

template <class Tail>
constexpr TailTable make_tail_table() {
  constexpr int kPoints = kTailDegree + 1;
  TailTable table = {};
  for (int i = 0; i + 1 < kTailIntervals; ++i) {
    double point[kPoints] = {}, difference[kPoints] = {}, polynomial[kPoints] = {};
    for (int k = 0; k < kPoints; ++k) {
      point[k] = kTailWidth / 2.0 * cosine(kPi * (k + 0.5) / kPoints);
      difference[k] = Tail::value(static_cast<double>(i) * kTailWidth + point[k]);
    }
    for (int order = 1; order < kPoints; ++order)
      for (int k = kPoints - 1; k >= order; --k)
        difference[k] = (difference[k] - difference[k - 1]) / (point[k] - point[k - order]);
    for (int k = kPoints - 1; k >= 0; --k) {  // polynomial = polynomial (r - point) + difference
      for (int j = kPoints - 1; j > 0; --j) polynomial[j] = polynomial[j - 1] - point[k] * polynomial[j];
      polynomial[0] = difference[k] - point[k] * polynomial[0];
    }
    for (int k = 0; k < kPoints; ++k) table.coefficient[k][i] = static_cast<float>(polynomial[k]);
  }
  return table;
}

template <class Tail>
constexpr TailTable kTailTable = make_tail_table<Tail>();

// Adding it leaves the number of the interval in the low bits.
constexpr float kTailShift = kTailWidth * 0x1p23f;
constexpr float kTailEnd = kTailWidth * (kTailIntervals - 1);

#if defined(__AVX512F__)

WX_INLINE vec tail_argument(vec x) {  // min(|x|, kTailEnd)
  return _mm512_range_ps(x, set1(kTailEnd), 0b1010);
}

WX_INLINE vec pick(const float* table, vec shifted) {
  static_assert(kTailIntervals == 2 * kLanes);
  return _mm512_permutex2var_ps(load(table), _mm512_castps_si512(shifted), load(table + kLanes));
}

#elif defined(__AVX2__)

WX_INLINE vec tail_argument(vec x) { return min(_mm256_andnot_ps(set1(-0.0f), x), set1(kTailEnd)); }

WX_INLINE vec pick(const float* table, vec shifted) {
  static_assert(kTailIntervals == kLanes);
  return _mm256_permutevar8x32_ps(load(table), _mm256_castps_si256(shifted));
}

#else

WX_INLINE vec tail_argument(vec x) { return min(max(x, set1(0.0f) - x), set1(kTailEnd)); }

WX_INLINE vec pick(const float* table, vec shifted) {
  static_assert((kTailIntervals & (kTailIntervals - 1)) == 0);
  const auto of = [&](float a) WX_LAMBDA { return table[float_bits(a) & (kTailIntervals - 1)]; };
  return vec{of(shifted[0]), of(shifted[1]), of(shifted[2]), of(shifted[3])};
}

#endif

// On N vectors at a time, whose steps do not wait for each other.
template <class Tail, int N>
WX_INLINE void gelu_with(vec (&x)[N]) {
  const auto& table = kTailTable<Tail>.coefficient;
  const vec shift = set1(kTailShift);
  vec a[N], shifted[N], r[N], q[N];
  unroll<N>([&](auto n) WX_LAMBDA { a[n] = tail_argument(x[n]); });
  unroll<N>([&](auto n) WX_LAMBDA { shifted[n] = a[n] + shift; });
  unroll<N>([&](auto n) WX_LAMBDA { r[n] = a[n] - (shifted[n] - shift); });
  unroll<N>([&](auto n) WX_LAMBDA { q[n] = pick(table[kTailDegree], shifted[n]); });
  unroll<kTailDegree>([&](auto k) WX_LAMBDA {
    unroll<N>([&](auto n)
                  WX_LAMBDA { q[n] = fma(q[n], r[n], pick(table[kTailDegree - 1 - k], shifted[n])); });
  });
  unroll<N>([&](auto n) WX_LAMBDA { x[n] = fnma(a[n], q[n], max(set1(0.0f), x[n])); });
}

template <int N>
WX_INLINE void gelu(vec (&x)[N]) {
  gelu_with<NormalTail>(x);
}
template <int N>
WX_INLINE void gelu_tanh(vec (&x)[N]) {
  gelu_with<TanhTail>(x);
}

}  // namespace wxkernels::WX_ISA
