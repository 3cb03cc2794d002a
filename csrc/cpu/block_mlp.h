// The complex block MLP on the modes of a few columns: o1 = relu(x w1 + b1), o2 = softshrink(o1 w2 + b2),
// relu and softshrink on real and imaginary part alone. Each product is a real matrix product tiled in
// registers.
#pragma once

#include "cpu/amx.h"
#include "cpu/simd.h"

namespace wxkernels::WX_ISA {

constexpr int kPanel = kTileVecs * kLanes;  // output channels that a pass over the weights makes

constexpr int round_up(int a, int to) { return (a + to - 1) / to * to; }

// One layer of one channel block. All pointers are aligned to a vector; `in` and `out` are rows of modes.
struct Layer {
  int inputs, outputs;  // true sizes
  int out_width;        // outputs rounded up to whole vectors
  const float* weights;
  const float* bias;  // (2, out_width)
  const float* in;
  float* out;
  int in_stride, out_stride;  // floats from mode to mode
  int modes;                  // a multiple of the MLP's kRows; the rows past the last true mode hold anything
  float* half_sums;           // (modes, kPanel)
  float* total;               // (kRows, kPanel)
  float threshold;
};

WX_INLINE vec relu(vec a) { return max(set1(0.0f), a); }  // keeps a NaN
WX_INLINE vec softshrink(vec a, vec threshold) {          // keeps a NaN
  return a - max(set1(0.0f) - threshold, min(threshold, a));
}

// Inputs that are summed before the sum joins the total. One long sum would round more, and the three
// products of Gauss already do: so the error stays near that of four products.
constexpr int kRun = 32;

// finish(row, n, start(row, n) + sum) for a kTileRows x VECS tile of in (modes x inputs) * weights (inputs x
// VECS vectors).
template <int VECS, class Element, class Start, class Accumulate, class Finish>
WX_INLINE void tile(const Element* in, int stride, const Element* weights, int inputs, const Start& start,
                    const Accumulate& accumulate, const Finish& finish, float* total) {
  for (int done = 0; done < inputs;) {
    const int stop = inputs - done > kRun ? done + kRun : inputs;
    const bool first = done == 0;
    vec sum[kTileRows][VECS];
    unroll<kTileRows>([&](auto row)
                          WX_LAMBDA { unroll<VECS>([&](auto n) WX_LAMBDA { sum[row][n] = set1(0.0f); }); });
    for (; done < stop; ++done) {
      decltype(load(weights)) w[VECS];
      unroll<VECS>([&](auto n) WX_LAMBDA { w[n] = load(weights + n * kLanes); });
      unroll<kTileRows>([&](auto row) WX_LAMBDA {
        const auto a = set1(in[row * stride]);
        unroll<VECS>([&](auto n) WX_LAMBDA { sum[row][n] = accumulate(sum[row][n], a, w[n]); });
      });
      ++in;
      weights += VECS * kLanes;
    }
    unroll<kTileRows>([&](auto row) WX_LAMBDA {
      unroll<VECS>([&](auto n) WX_LAMBDA {
        float* const carried = total + (row * VECS + n) * kLanes;
        const vec so_far = (first ? start(row, n) : load(carried)) + sum[row][n];
        if (done == inputs) {
          finish(row, n, so_far);
        } else {
          store(carried, so_far);
        }
      });
    });
  }
}

// f(panel's first output channel, Int<vectors in the panel>)
template <class F>
WX_INLINE void for_each_panel(int width, const F& f) {
  int first = 0;
  for (; first + kPanel <= width; first += kPanel) f(first, Int<kTileVecs>{});
  const int rest = (width - first) / kLanes;
  if constexpr (kTileVecs > 2) {
    if (rest == 2) f(first, Int<2>{});
  }
  if (rest == 1) f(first, Int<1>{});
}

// Three real products make a complex one (Gauss): with t = (re + im) w_re,
//   out_re = t - im (w_re + w_im),  out_im = t + re (w_im - w_re).
// A row of modes is (re, im, re + im), each of the padded width. The sums run on from t, so nothing is added
// twice.
struct Gauss {
  static constexpr int kParts = 3;
  static constexpr int kRows = kTileRows;

  // Floats of the weights of a layer.
  static size_t size(int inputs, int out_width) { return static_cast<size_t>(kParts) * inputs * out_width; }

  static void pack(int inputs, int outputs, int out_width, const float* re, const float* im, float* to) {
    for_each_panel(out_width, [&](int first, auto vecs) {
      const int width = vecs * kLanes;
      for (int part = 0; part < kParts; ++part)
        for (int i = 0; i < inputs; ++i)
          for (int n = 0; n < width; ++n, ++to) {
            const int o = first + n;
            if (o >= outputs) {
              *to = 0;
              continue;
            }
            const float a = re[static_cast<int64_t>(i) * outputs + o],
                        b = im[static_cast<int64_t>(i) * outputs + o];
            *to = part == 0 ? a : part == 1 ? -(a + b) : b - a;
          }
    });
  }

  WX_INLINE static void put(float* row, int width, vec re, vec im) {
    store(row, re);
    store(row + width, im);
    store(row + 2 * width, re + im);
  }

  template <bool kLast>
  static void run(const Layer& layer) {
    const int in_width = layer.in_stride / kParts;
    const vec threshold = set1(layer.threshold);
    const auto activate = [&](vec a) WX_LAMBDA { return kLast ? softshrink(a, threshold) : relu(a); };
    const auto accumulate = [](vec sum, vec a, vec w) WX_LAMBDA { return fma(a, w, sum); };
    const float* weights = layer.weights;
    for_each_panel(layer.out_width, [&](int first, auto vecs) {
      const int panel = vecs * kLanes;
      const size_t part = static_cast<size_t>(layer.inputs) * panel;
      for (int m = 0; m < layer.modes; m += kTileRows) {
        const float* in = layer.in + static_cast<size_t>(m) * layer.in_stride + 2 * in_width;
        float* half = layer.half_sums + static_cast<size_t>(m) * kPanel;
        tile<vecs>(
            in, layer.in_stride, weights, layer.inputs, [](int, int) WX_LAMBDA { return set1(0.0f); },
            accumulate,
            [&](int row, int n, vec sum) WX_LAMBDA { store(half + row * kPanel + n * kLanes, sum); },
            layer.total);
      }
      const float* bias_re = layer.bias + first;
      for (int m = 0; m < layer.modes; m += kTileRows) {
        const float* in = layer.in + static_cast<size_t>(m) * layer.in_stride + in_width;
        const float* half = layer.half_sums + static_cast<size_t>(m) * kPanel;
        float* out = layer.out + static_cast<size_t>(m) * layer.out_stride + first;
        tile<vecs>(
            in, layer.in_stride, weights + part, layer.inputs,
            [&](int row, int n)
                WX_LAMBDA { return load(half + row * kPanel + n * kLanes) + load(bias_re + n * kLanes); },
            accumulate,
            [&](int row, int n, vec sum)
                WX_LAMBDA { store(out + row * layer.out_stride + n * kLanes, activate(sum)); },
            layer.total);
      }
      const float* bias_im = bias_re + layer.out_width;
      for (int m = 0; m < layer.modes; m += kTileRows) {
        const float* in = layer.in + static_cast<size_t>(m) * layer.in_stride;
        const float* half = layer.half_sums + static_cast<size_t>(m) * kPanel;
        float* out = layer.out + static_cast<size_t>(m) * layer.out_stride + first;
        tile<vecs>(
            in, layer.in_stride, weights + 2 * part, layer.inputs,
            [&](int row, int n)
                WX_LAMBDA { return load(half + row * kPanel + n * kLanes) + load(bias_im + n * kLanes); },
            accumulate,
            [&](int row, int n, vec sum) WX_LAMBDA {
              float* to = out + row * layer.out_stride + n * kLanes;
              const vec im = activate(sum);
              store(to + layer.out_width, im);
              if constexpr (!kLast) store(to + 2 * layer.out_width, load(to) + im);
            },
            layer.total);
      }
      weights += kParts * part;
    });
  }
};

#if defined(__AVX512BF16__)

// Modes and weights rounded to bfloat16, sums in float32. A mode is a pair (re, im) in one lane, so that a
// single dot product instruction does re w_re - im w_im, and another re w_im + im w_re.
struct PairDot {
  static constexpr int kParts = 1;
#if defined(WX_AMX)
  static constexpr int kRows = kRowTiles * kTileSide, kWords = kTileSide;
#else
  static constexpr int kRows = kTileRows, kWords = 1;
#endif

  // Inputs as a row has them: those that fill it up are zeros, and so are their weights.
  static int words(int inputs) { return round_up(inputs, kWords); }
  static size_t size(int inputs, int out_width) { return size_t{2} * words(inputs) * out_width; }

  static void pack(int inputs, int outputs, int out_width, const float* re, const float* im, float* to) {
    auto* pairs = reinterpret_cast<uint32_t*>(to);
    alignas(64) float a[kLanes], b[kLanes];
    for_each_panel(out_width, [&](int first, auto vecs) {
      for (int part = 0; part < 2; ++part)
        for (int i = 0; i < words(inputs); ++i)
          for (int n = 0; n < vecs; ++n, pairs += kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) {
              const int o = first + n * kLanes + lane;
              const bool inside = i < inputs && o < outputs;
              a[lane] = inside ? re[static_cast<int64_t>(i) * outputs + o] : 0;
              b[lane] = inside ? im[static_cast<int64_t>(i) * outputs + o] : 0;
            }
            store(pairs, part == 0 ? wxkernels::WX_ISA::pack(load(a), set1(0.0f) - load(b))
                                   : wxkernels::WX_ISA::pack(load(b), load(a)));
          }
    });
  }

  WX_INLINE static void put(float* row, int, vec re, vec im) {
    store(reinterpret_cast<uint32_t*>(row), wxkernels::WX_ISA::pack(re, im));
  }

  template <bool kLast>
  WX_INLINE static void put_result(const Layer& layer, float* to, vec re, vec im) {
    if constexpr (kLast) {
      store(to, re);
      store(to + layer.out_width, im);
    } else {
      put(to, 0, re, im);
    }
  }

#if defined(WX_AMX)

  template <bool kLast>
  static void run(const Layer& layer) {
    const vec threshold = set1(layer.threshold);
    const auto activate = [&](vec a) WX_LAMBDA { return kLast ? softshrink(a, threshold) : relu(a); };
    const auto* weights = reinterpret_cast<const uint32_t*>(layer.weights);
    const int inputs = words(layer.inputs);
    const Tiles in_use;
    for_each_panel(layer.out_width, [&](int first, auto vecs) {
      const size_t part = static_cast<size_t>(inputs) * vecs * kLanes;
      const float* bias_re = layer.bias + first;
      const float* bias_im = bias_re + layer.out_width;
      for (int m = 0; m < layer.modes; m += kRows) {
        const auto* in =
            reinterpret_cast<const uint32_t*>(layer.in) + static_cast<size_t>(m) * layer.in_stride;
        const auto multiply = [&](const uint32_t* w, const float* bias, float* to) {
          product_of_tiles<Bfloat16Tiles, vecs>(in, layer.in_stride, w, inputs, bias, 0, to);
        };
        multiply(weights, bias_re, layer.half_sums);
        multiply(weights + part, bias_im, layer.total);
        for (int row = 0; row < kRows; ++row) {
          float* const to = layer.out + static_cast<size_t>(m + row) * layer.out_stride + first;
          unroll<vecs>([&](auto n) WX_LAMBDA {
            const int at = row * kPanel + n * kLanes;
            put_result<kLast>(layer, to + n * kLanes, activate(load(layer.half_sums + at)),
                              activate(load(layer.total + at)));
          });
        }
      }
      weights += 2 * part;
    });
  }

#else

  template <bool kLast>
  static void run(const Layer& layer) {
    const vec threshold = set1(layer.threshold);
    const auto activate = [&](vec a) WX_LAMBDA { return kLast ? softshrink(a, threshold) : relu(a); };
    const auto accumulate = [](vec sum, ints a, ints w) WX_LAMBDA { return dot(sum, a, w); };
    const auto* all_in = reinterpret_cast<const uint32_t*>(layer.in);
    const auto* weights = reinterpret_cast<const uint32_t*>(layer.weights);
    for_each_panel(layer.out_width, [&](int first, auto vecs) {
      const int panel = vecs * kLanes;
      const size_t part = static_cast<size_t>(layer.inputs) * panel;
      const float* bias_re = layer.bias + first;
      const float* bias_im = bias_re + layer.out_width;
      for (int m = 0; m < layer.modes; m += kTileRows) {
        float* half = layer.half_sums + static_cast<size_t>(m) * kPanel;
        tile<vecs>(
            all_in + static_cast<size_t>(m) * layer.in_stride, layer.in_stride, weights, layer.inputs,
            [&](int, int n) WX_LAMBDA { return load(bias_re + n * kLanes); }, accumulate,
            [&](int row, int n, vec sum)
                WX_LAMBDA { store(half + row * kPanel + n * kLanes, activate(sum)); },
            layer.total);
      }
      for (int m = 0; m < layer.modes; m += kTileRows) {
        const float* half = layer.half_sums + static_cast<size_t>(m) * kPanel;
        float* out = layer.out + static_cast<size_t>(m) * layer.out_stride + first;
        tile<vecs>(
            all_in + static_cast<size_t>(m) * layer.in_stride, layer.in_stride, weights + part, layer.inputs,
            [&](int, int n) WX_LAMBDA { return load(bias_im + n * kLanes); }, accumulate,
            [&](int row, int n, vec sum) WX_LAMBDA {
              const vec re = load(half + row * kPanel + n * kLanes), im = activate(sum);
              put_result<kLast>(layer, out + row * layer.out_stride + n * kLanes, re, im);
            },
            layer.total);
      }
      weights += 2 * part;
    });
  }
#endif
};

#endif

}  // namespace wxkernels::WX_ISA
