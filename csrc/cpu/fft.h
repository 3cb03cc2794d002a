// Mixed-radix complex FFT of n points, one transform a lane. The first stage reads its input and the last
// writes its output through functions, so that packing, conversion and scaling cost no pass of their own.
#pragma once

#include "cpu/simd.h"

namespace wxkernels::WX_ISA {

struct cvec {
  vec re, im;
};

WX_INLINE cvec operator+(cvec a, cvec b) { return {a.re + b.re, a.im + b.im}; }
WX_INLINE cvec operator-(cvec a, cvec b) { return {a.re - b.re, a.im - b.im}; }
WX_INLINE cvec times(cvec a, vec re, vec im) { return {fnma(a.im, im, a.re * re), fma(a.im, re, a.re * im)}; }

// cos and sin of 2 pi k / n by Taylor series: exact to 1e-15 for |k / n| <= 1/2, which rounds to the right
// float.
struct Angle {
  double cosine, sine;
};
constexpr Angle angle(int k, int n) {
  k %= n;
  const double x = 6.283185307179586476925 * (2 * k > n ? k - n : k) / n;
  double term = 1, cosine = 1, sine = 0;
  for (int i = 1; i < 40; ++i) {
    term *= x / i;
    (i % 2 ? sine : cosine) += (i / 2 % 2 ? -term : term);
  }
  return {cosine, sine};
}

// a e^(-2 pi i K / N)
template <int K, int N>
WX_INLINE cvec rotate(cvec a) {
  constexpr int k = K % N;
  if constexpr (k == 0) {
    return a;
  } else if constexpr (4 * k == N) {
    return {a.im, -a.re};
  } else if constexpr (2 * k == N) {
    return {-a.re, -a.im};
  } else if constexpr (4 * k == 3 * N) {
    return {-a.im, a.re};
  } else {
    constexpr Angle w = angle(k, N);
    return times(a, set1(static_cast<float>(w.cosine)), set1(static_cast<float>(-w.sine)));
  }
}

constexpr int smallest_factor(int n) {
  for (int f = 2; f * f <= n; ++f)
    if (n % f == 0) return f;
  return n;
}
constexpr int greatest_common_divisor(int a, int b) { return b == 0 ? a : greatest_common_divisor(b, a % b); }
// The factor that a composite radix is split by: the part that is coprime to the rest if there is one.
constexpr int split(int n) {
  const int f = smallest_factor(n);
  int power = f;
  while (n % (power * f) == 0) power *= f;
  return power < n ? power : f;
}
// The number below a * b that is i modulo a and j modulo b, for coprime a and b.
constexpr int chinese_remainder(int i, int j, int a, int b) {
  int k = i;
  while (k % b != j) k += a;
  return k;
}

// In place z[k] = sum_n z[n] e^(-2 pi i n k / R), wholly unrolled.
template <int R>
WX_INLINE void dft(cvec (&z)[R]) {
  if constexpr (R == 1) {
    return;
  } else if constexpr (R == 2) {
    const cvec a = z[0], b = z[1];
    z[0] = a + b;
    z[1] = a - b;
  } else if constexpr (smallest_factor(R) == R) {  // odd prime: pair the inputs n and R - n
    constexpr int half = R / 2;
    cvec sum[half], difference[half];
    unroll<half>([&](auto i) WX_LAMBDA {
      sum[i] = z[i + 1] + z[R - 1 - i];
      difference[i] = z[i + 1] - z[R - 1 - i];
    });
    const cvec zero = z[0];
    unroll<half>([&](auto i) WX_LAMBDA { z[0] = z[0] + sum[i]; });
    unroll<half>([&](auto i) WX_LAMBDA {
      cvec even = zero, odd = {set1(0.0f), set1(0.0f)};
      unroll<half>([&](auto j) WX_LAMBDA {
        constexpr Angle w = angle((decltype(i)::value + 1) * (decltype(j)::value + 1), R);
        const vec cosine = set1(static_cast<float>(w.cosine)), sine = set1(static_cast<float>(w.sine));
        even = {fma(sum[j].re, cosine, even.re), fma(sum[j].im, cosine, even.im)};
        if constexpr (decltype(j)::value == 0) {
          odd = {difference[j].re * sine, difference[j].im * sine};
        } else {
          odd = {fma(difference[j].re, sine, odd.re), fma(difference[j].im, sine, odd.im)};
        }
      });
      z[i + 1] = {even.re + odd.im, even.im - odd.re};
      z[R - 1 - i] = {even.re - odd.im, even.im + odd.re};
    });
  } else {
    constexpr int A = split(R), B = R / A;
    constexpr bool coprime =
        greatest_common_divisor(A, B) == 1;  // then no rotations stand between the two steps
    cvec t[R];
    unroll<B>([&](auto b) WX_LAMBDA {
      cvec u[A];
      unroll<A>([&](auto a) WX_LAMBDA { u[a] = z[coprime ? (B * a + A * b) % R : B * a + b]; });
      dft<A>(u);
      unroll<A>([&](auto a) WX_LAMBDA {
        t[a * B + b] = rotate<coprime ? 0 : decltype(a)::value * decltype(b)::value, R>(u[a]);
      });
    });
    unroll<A>([&](auto a) WX_LAMBDA {
      cvec v[B];
      unroll<B>([&](auto b) WX_LAMBDA { v[b] = t[a * B + b]; });
      dft<B>(v);
      unroll<B>([&](auto b) WX_LAMBDA {
        constexpr int ia = decltype(a)::value, ib = decltype(b)::value;
        constexpr int k = coprime ? chinese_remainder(ia, ib, A, coprime ? B : 1) : ia + A * ib;
        z[k] = v[b];
      });
    });
  }
}

template <int R>
struct FixedRadix {
  static constexpr int radix = R;
  template <class Get, class Put>
  WX_INLINE void butterfly(const Get& get, const Put& put) const {
    cvec z[R];
    unroll<R>([&](auto q) WX_LAMBDA { z[q] = get(q); });
    dft<R>(z);
    unroll<R>([&](auto q) WX_LAMBDA { put(q, z[q]); });
  }
};

// Any odd radix by its definition, the inputs n and R - n paired; sums in runs of eight keep the rounding
// low.
struct AnyRadix {
  int radix;
  const float* roots;
  float* work;  // radix complex vectors

  template <class Get, class Put>
  WX_INLINE void butterfly(const Get& get, const Put& put) const {
    const int half = radix / 2;
    const auto at = [&](int i) WX_LAMBDA { return work + 2 * kLanes * i; };
    const cvec zero = get(0);
    cvec total = zero;
    for (int n = 1; n <= half; ++n) {
      const cvec a = get(n), b = get(radix - n);
      const cvec sum = a + b, difference = a - b;
      total = total + sum;
      store(at(2 * n - 2), sum.re);
      store(at(2 * n - 2) + kLanes, sum.im);
      store(at(2 * n - 1), difference.re);
      store(at(2 * n - 1) + kLanes, difference.im);
    }
    put(0, total);
    for (int k = 1; k <= half; ++k) {
      cvec even = zero, odd = {set1(0.0f), set1(0.0f)};
      for (int n = 1, turn = k; n <= half;) {
        cvec even_run = {set1(0.0f), set1(0.0f)}, odd_run = even_run;
        for (int stop = n + 8; n <= half && n < stop; ++n) {
          const vec cosine = set1(roots[2 * turn]), minus_sine = set1(roots[2 * turn + 1]);
          const float* sum = at(2 * n - 2);
          const float* difference = at(2 * n - 1);
          even_run = {fma(load(sum), cosine, even_run.re), fma(load(sum + kLanes), cosine, even_run.im)};
          odd_run = {fnma(load(difference), minus_sine, odd_run.re),
                     fnma(load(difference + kLanes), minus_sine, odd_run.im)};
          turn += k;
          if (turn >= radix) turn -= radix;
        }
        even = even + even_run;
        odd = odd + odd_run;
      }
      put(k, {even.re + odd.im, even.im - odd.re});
      put(radix - k, {even.re - odd.im, even.im + odd.re});
    }
  }
};

template <class F>
WX_INLINE void with_radix(const FftStage& stage, float* work, const F& f) {
  switch (stage.radix) {
    case 1:
      return f(FixedRadix<1>{});
    case 2:
      return f(FixedRadix<2>{});
    case 3:
      return f(FixedRadix<3>{});
    case 4:
      return f(FixedRadix<4>{});
    case 5:
      return f(FixedRadix<5>{});
    case 6:
      return f(FixedRadix<6>{});
    case 7:
      return f(FixedRadix<7>{});
    case 8:
      return f(FixedRadix<8>{});
    case 9:
      return f(FixedRadix<9>{});
    case 10:
      return f(FixedRadix<10>{});
    case 12:
      return f(FixedRadix<12>{});
    case 15:
      return f(FixedRadix<15>{});
    default:
      return f(AnyRadix{stage.radix, stage.roots, work});
  }
}

// Floats of work space that a transform needs.
constexpr size_t fft_work_size(const FftPlan& plan) {
  return 2 * kLanes * (static_cast<size_t>(plan.n) + plan.widest);
}

WX_INLINE cvec load_complex(const float* p) { return {load(p), load(p + kLanes)}; }
WX_INLINE void store_complex(float* p, cvec z) {
  store(p, z.re);
  store(p + kLanes, z.im);
}

WX_INLINE float* position(float* work, int i) { return work + 2 * kLanes * i; }

// A forward transform Z[k] = sum_n z[n] e^(-2 pi i n k / N) is fft_first, fft_middle up to the last stage,
// fft_last (or fft_middle for that as well, which leaves Z[k] at position k). An inverse swaps real and
// imaginary part in get and put. The stages are functions of their own so that each pass instantiates only
// what it brings along. get and put come by value and hold values: through references the compiler would load
// pointers and strides again after every store.

// The first stage: get(n) is z[n].
template <class Get>
__attribute__((noinline)) void fft_first(const FftPlan& plan, float* work, const Get get) {
  const FftStage& stage = plan.stage[0];
  with_radix(stage, position(work, plan.n), [&](auto r) WX_LAMBDA {
    for (int first = 0; first < plan.n; first += r.radix) {
      const int* source = plan.source + first;
      r.butterfly([&](int q) WX_LAMBDA { return get(source[q]); },
                  [&](int q, cvec z) WX_LAMBDA { store_complex(position(work, first + q), z); });
    }
  });
}

WX_INLINE cvec twiddled(float* work, const float* twiddle, int first, int span, int q) {
  const cvec z = load_complex(position(work, first + span * q));
  return q == 0 ? z : times(z, set1(twiddle[2 * q - 2]), set1(twiddle[2 * q - 1]));
}

// Stages [1, stop) in place.
__attribute__((noinline)) inline void fft_middle(const FftPlan& plan, float* work, int stop) {
  for (int s = 1; s < stop; ++s) {
    const FftStage& stage = plan.stage[s];
    const int span = stage.span;
    with_radix(stage, position(work, plan.n), [&](auto r) WX_LAMBDA {
      for (int j = 0; j < span; ++j) {
        const float* twiddle = stage.twiddle + 2 * j * (r.radix - 1);
        for (int first = j; first < plan.n; first += span * r.radix) {
          r.butterfly([&](int q) WX_LAMBDA { return twiddled(work, twiddle, first, span, q); },
                      [&](int q, cvec z) WX_LAMBDA { store_complex(position(work, first + span * q), z); });
        }
      }
    });
  }
}

// The last stage: put(k, Z[k]).
template <class Put>
__attribute__((noinline)) void fft_last(const FftPlan& plan, float* work, const Put put) {
  const FftStage& stage = plan.stage[plan.stages - 1];
  const int span = stage.span;
  with_radix(stage, position(work, plan.n), [&](auto r) WX_LAMBDA {
    for (int j = 0; j < span; ++j) {
      const float* twiddle = stage.twiddle + 2 * j * (r.radix - 1);
      r.butterfly([&](int q) WX_LAMBDA { return twiddled(work, twiddle, j, span, q); },
                  [&](int q, cvec z) WX_LAMBDA { put(j + span * q, z); });
    }
  });
}

template <class Get, class Put>
WX_INLINE void fft(const FftPlan& plan, float* work, Get get, Put put) {
  fft_first(plan, work, get);
  fft_middle(plan, work, plan.stages - 1);
  fft_last(plan, work, put);
}

}  // namespace wxkernels::WX_ISA
