// One row of K channels: read as float32, normalised (LayerNorm), quantised. A row in float32 is aligned to a
// vector and has room for whole vectors; what lies past K is 0.
#pragma once

#include "cpu/simd.h"

namespace wxkernels::WX_ISA {

// f(i, k, lanes) on each vector of a row: lanes k .. k + lanes - 1, and i = 0 .. N - 1 in turns, for N sums
// that do not wait for each other.
template <int N, class F>
WX_INLINE void over_row(int K, const F& f) {
  const Lanes all(kLanes);
  int k = 0;
  for (; k + N * kLanes <= K; k += N * kLanes)
    unroll<N>([&](auto i) WX_LAMBDA { f(i, k + i * kLanes, all); });
  for (; k + kLanes <= K; k += kLanes) f(Int<0>{}, k, all);
  if (k < K) f(Int<0>{}, k, Lanes(K - k));
}

constexpr int kRowSums = 4;
// Channels that are summed before their sum joins the total: the error stays near that of a sum in pairs.
constexpr int kRowRun = 4 * kRowSums * kLanes;

WX_INLINE vec add_up(const vec (&sum)[kRowSums]) { return (sum[0] + sum[2]) + (sum[1] + sum[3]); }

template <class T>
inline RowMoments moments(const T* x, int K, float eps) {
  const float size = static_cast<float>(K);
  vec total = set1(0.0f), total_squares = total;
  for (int first = 0; first < K; first += kRowRun) {
    vec sum[kRowSums] = {};
    over_row<kRowSums>(K - first < kRowRun ? K - first : kRowRun, [&](auto i, int k, Lanes lanes) WX_LAMBDA {
      sum[i] = sum[i] + load(x + first + k, lanes);
    });
    total = total + add_up(sum);
  }
  const float mean = sum_lanes(total) / size;

  total = set1(0.0f);
  for (int first = 0; first < K; first += kRowRun) {
    vec sum[kRowSums] = {}, squares[kRowSums] = {};
    over_row<kRowSums>(K - first < kRowRun ? K - first : kRowRun, [&](auto i, int k, Lanes lanes) WX_LAMBDA {
      const vec off = load(x + first + k, lanes) - only(lanes, set1(mean));
      sum[i] = sum[i] + off;
      squares[i] = fma(off, off, squares[i]);
    });
    total = total + add_up(sum);
    total_squares = total_squares + add_up(squares);
  }
  const float rest = sum_lanes(total) / size;  // what the rounded mean lacks
  const float variance = sum_lanes(total_squares) / size - rest * rest;
  const float rstd = 1 / __builtin_sqrtf((variance < 0 ? 0 : variance) + eps);
  return {mean, rstd, -rest * rstd};
}

WX_INLINE vec normalised(vec x, const RowMoments& row, vec weight, vec bias) {
  return fma(fma(x - set1(row.mean), set1(row.rstd), set1(row.shift)), weight, bias);
}

// store(k, LayerNorm(x) as a vector, lanes), 0 past the end; bias may be null.
template <class T, class Store>
WX_INLINE void layer_norm_row(const T* x, int K, const float* weight, const float* bias, float eps,
                              const Store& store) {
  const RowMoments row = moments(x, K, eps);
  over_row<1>(K, [&](auto, int k, Lanes lanes) WX_LAMBDA {
    const vec b = bias == nullptr ? set1(0.0f) : load(bias + k, lanes);
    store(k, normalised(load(x + k, lanes), row, load(weight + k, lanes), b), lanes);
  });
}

template <class T>
inline void norm_row(const T* x, int K, const float* weight, const float* bias, float eps, float* out) {
  layer_norm_row(x, K, weight, bias, eps, [&](int k, vec y, Lanes) WX_LAMBDA { store(out + k, y); });
}

template <class T>
inline void load_row(const T* x, int K, float* out) {
  over_row<1>(K, [&](auto, int k, Lanes lanes) WX_LAMBDA { store(out + k, load(x + k, lanes)); });
}

// Symmetric int8 of a row in float32: out = offset + q, where q = x / scale rounded half to even and the
// result, scale = max |x| / 127. out[K .. K_padded) = offset. Zeros have scale 1; a row that is not finite
// has scale NaN and q = 0.
inline float quantise_row(const float* x, int K, int K_padded, uint8_t* out, int offset) {
  vec largest[kRowSums] = {};
  over_row<kRowSums>(
      K, [&](auto i, int k, Lanes) WX_LAMBDA { largest[i] = max_magnitude(largest[i], load(x + k)); });
  const float amax =
      max_lane(max_magnitude(max_magnitude(largest[0], largest[1]), max_magnitude(largest[2], largest[3])));
  if (!(amax < __builtin_inff())) {
    std::memset(out, offset, static_cast<size_t>(K_padded));
    return __builtin_nanf("");
  }
  const float scale = amax / 127 > 0 ? amax / 127 : 1;
  const vec limit = set1(127.0f), least = set1(-127.0f);
  over_row<1>(K, [&](auto, int k, Lanes lanes) WX_LAMBDA {
    store_bytes(out + k, max(least, min(limit, load(x + k) / set1(scale))), offset, lanes);
  });
  std::memset(out + K, offset, static_cast<size_t>(K_padded - K));
  return scale;
}

}  // namespace wxkernels::WX_ISA
