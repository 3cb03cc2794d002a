// The three passes of the spectral filter over one channel block of one sample, vectorised over its channels.
#pragma once

#include "cpu/block_mlp.h"
#include "cpu/fft.h"
#include "cpu/rows.h"

namespace wxkernels::WX_ISA {

inline int kept_rows(const SpectralFilter& op) { return static_cast<int>(op.row_stop - op.row_start); }

template <class F>
WX_INLINE void with_mlp(const SpectralFilter& op, const F& f) {
#if defined(__AVX512BF16__)
  if (op.bf16) return f(PairDot{});
#endif
  (void)op;
  f(Gauss{});
}

// Floats of the packed weights of a layer with so many true inputs.
inline size_t layer_weights(const SpectralFilterJob& job, int64_t inputs, int width) {
  size_t floats = 0;
  with_mlp(job.op, [&](auto mlp) { floats = mlp.size(static_cast<int>(inputs), width); });
  return floats;
}

inline size_t weights_size(const SpectralFilterJob& job) {
  return layer_weights(job, job.op.block_size, job.hidden) +
         layer_weights(job, job.op.hidden_size, job.channels) +
         2 * static_cast<size_t>(job.hidden + job.channels);
}

// Work space of a thread: FFT, then the tile of modes, the tile of hidden modes, sums of a panel and of a
// register tile.
struct Work {
  float* fft;
  float* modes;
  float* hidden;
  float* half_sums;
  float* total;
  size_t size;

  Work(const SpectralFilterJob& job, float* base) {
    const size_t over_width = fft_work_size(*job.over_width), over_height = fft_work_size(*job.over_height);
    // All kept modes of a group of columns, padded to whole tiles of the MLP.
    int tile = 1;
    with_mlp(job.op, [&](auto mlp) { tile = decltype(mlp)::kRows; });
    const size_t rows = static_cast<size_t>(round_up(job.group * kept_rows(job.op), tile));
    size_t at = 0;
    const auto take = [&](size_t floats) {
      float* p = base + at;
      at += (floats + 15) / 16 * 16;
      return p;
    };
    fft = take(over_width > over_height ? over_width : over_height);
    modes = take(rows * Gauss::kParts * job.channels);
    hidden = take(rows * Gauss::kParts * job.hidden);
    half_sums = take(rows * kPanel);
    total = take(static_cast<size_t>(tile) * kPanel);
    size = at;
  }
};

inline size_t work_size(const SpectralFilterJob& job) { return Work(job, nullptr).size; }

// Packed: bias 1, bias 2 (padded with zeros), weights 1, weights 2.
inline void pack_weights(const SpectralFilterJob& job, int64_t block, float* to) {
  const SpectralFilter& op = job.op;
  const int inputs = static_cast<int>(op.block_size), hidden = static_cast<int>(op.hidden_size);
  const auto pack_bias = [&](const float* bias, int n, int width) {
    for (int part = 0; part < 2; ++part)
      for (int i = 0; i < width; ++i) *to++ = i < n ? bias[(part * op.blocks + block) * n + i] : 0;
  };
  pack_bias(op.b1, hidden, job.hidden);
  pack_bias(op.b2, inputs, job.channels);
  const int64_t size = op.block_size * op.hidden_size;
  const float* w1 = op.w1 + block * size;
  const float* w2 = op.w2 + block * size;
  with_mlp(op, [&](auto mlp) {
    mlp.pack(inputs, hidden, job.hidden, w1, w1 + op.blocks * size, to);
    mlp.pack(hidden, inputs, job.channels, w2, w2 + op.blocks * size,
             to + layer_weights(job, inputs, job.hidden));
  });
}

// f(first channel of a vector, its true lanes)
template <class F>
WX_INLINE void for_each_vector(int64_t channels, const F& f) {
  for (int c = 0; c < channels; c += kLanes)
    f(c, Lanes(static_cast<int>(channels - c < kLanes ? channels - c : kLanes)));
}

inline void row_moments(const SpectralFilterJob& job, int64_t sample, int64_t h) {
  const SpectralFilter& op = job.op;
  const int channels = static_cast<int>(op.blocks * op.block_size);
  RowMoments* const to = job.moments + (sample * op.height + h) * op.width;
  with_dtype(op.dtype, [&](auto element) {
    const auto* x =
        static_cast<const decltype(element)*>(op.x) + sample * op.stride_batch + h * op.stride_height;
    for (int64_t w = 0; w < op.width; ++w) to[w] = moments(x + w * op.stride_width, channels, op.eps);
  });
}

// Fetches into L2: tokens lie 3 KiB apart, all in the same few sets of L1, where they would not stay.
WX_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// What the filter sees of x: one vector of channels of rows h and h + 1, whose tokens are counted through.
struct Plain {
  Plain(const SpectralFilterJob&, int64_t, int64_t, int64_t, Lanes) {}
  WX_INLINE vec operator()(vec x, int64_t) const { return x; }
};

struct Normalised {
  const RowMoments* moments;
  vec weight, bias;
  Normalised(const SpectralFilterJob& job, int64_t sample, int64_t h, int64_t channel, Lanes lanes)
      : moments(job.moments + (sample * job.op.height + h) * job.op.width),
        weight(load(job.op.norm_weight + channel, lanes)),
        bias(job.op.norm_bias == nullptr ? set1(0.0f) : load(job.op.norm_bias + channel, lanes)) {}
  WX_INLINE vec operator()(vec x, int64_t token) const { return normalised(x, moments[token], weight, bias); }
};

// f(a value of the C++ type of x's dtype, whether there is a norm as an Int)
template <class F>
WX_INLINE void with_input(const SpectralFilter& op, const F& f) {
  with_dtype(op.dtype, [&](auto element) {
    if (op.norm_weight != nullptr) {
      f(element, Int<true>{});
    } else {
      f(element, Int<false>{});
    }
  });
}

// Two real rows make one complex row; its transform Z holds both spectra: (Z[k] +- conj Z[-k]) / 2.
inline void forward_rows(const SpectralFilterJob& job, int64_t sample, int64_t block, int64_t h,
                         float* spectrum, float* work) {
  const SpectralFilter& op = job.op;
  const FftPlan& plan = *job.over_width;
  const bool both = h + 1 < op.height;
  const int64_t column = 2 * job.channels, row = op.columns * column, x_stride = op.stride_width,
                x_row = op.stride_height;
  const vec scale = set1(0.5f * job.scale), scale_rest = set1(0.5f * job.scale_rest);
  const auto scaled = [&](vec a) WX_LAMBDA { return fma(a, scale, a * scale_rest); };
  spectrum += h * row;
  with_input(op, [&](auto element, auto norm) {
    using T = decltype(element);
    using Input = std::conditional_t<norm, Normalised, Plain>;
    const T* x =
        static_cast<const T*>(op.x) + sample * op.stride_batch + h * op.stride_height + block * op.block_size;
    for_each_vector(op.block_size, [&](int c, Lanes lanes) {
      const T* first = x + c;
      const T* next = c + kLanes < op.block_size ? first + kLanes : x + 2 * x_row;
      const T* second = both ? first + x_row : first;
      const int64_t second_token = both ? op.width : 0;
      const Input input(job, sample, h, block * op.block_size + c, lanes);
      fft_first(plan, work, [=](int w) WX_LAMBDA {
        fetch(next + w * x_stride);
        fetch(next + w * x_stride + x_row);
        return cvec{input(load(first + w * x_stride, lanes), w),
                    input(load(second + w * x_stride, lanes), second_token + w)};
      });
      fft_middle(plan, work, plan.stages);
      float* to = spectrum + c;
      for (int k = 0; k < op.columns; ++k, to += column) {
        const cvec a = load_complex(position(work, k));
        const cvec b = load_complex(position(work, k == 0 ? 0 : plan.n - k));
        store(to, scaled(a.re + b.re));
        store(to + job.channels, scaled(a.im - b.im));
        if (both) {
          store(to + row, scaled(a.im + b.im));
          store(to + row + job.channels, scaled(b.re - a.re));
        }
      }
    });
  });
}

inline void filter_columns(const SpectralFilterJob& job, const float* weights, int64_t k, float* spectrum,
                           float* base) {
  const SpectralFilter& op = job.op;
  const FftPlan& plan = *job.over_height;
  const Work work(job, base);
  const int start = static_cast<int>(op.row_start), rows = kept_rows(op);
  const int columns = static_cast<int>(op.columns - k < job.group ? op.columns - k : job.group);
  const int channels = job.channels;
  const int64_t column = 2 * channels, row = op.columns * column;
  spectrum += k * column;
  with_mlp(op, [&](auto mlp) {
    using Mlp = decltype(mlp);
    const int stride = Mlp::kParts * job.channels;
    for (int j = 0; j < columns; ++j)
      for (int c = 0; c < job.channels; c += kLanes) {
        const float* from = spectrum + j * column + c;
        float* to = work.modes + static_cast<size_t>(j) * rows * stride + c;
        fft(
            plan, work.fft,
            [=](int h) WX_LAMBDA { return cvec{load(from + h * row), load(from + h * row + channels)}; },
            [=](int h, cvec z) WX_LAMBDA {
              const int i = h - start;
              if (0 <= i && i < rows) Mlp::put(to + static_cast<size_t>(i) * stride, channels, z.re, z.im);
            });
      }

    Layer layer;
    layer.inputs = static_cast<int>(op.block_size);
    layer.outputs = static_cast<int>(op.hidden_size);
    layer.out_width = job.hidden;
    layer.bias = weights;
    layer.weights = weights + 2 * (job.hidden + job.channels);
    layer.in = work.modes;
    layer.in_stride = stride;
    layer.out = work.hidden;
    layer.out_stride = Mlp::kParts * job.hidden;
    layer.modes = round_up(columns * rows, Mlp::kRows);
    layer.half_sums = work.half_sums;
    layer.total = work.total;
    layer.threshold = op.threshold;
    mlp.template run<false>(layer);

    layer.weights += layer_weights(job, op.block_size, job.hidden);
    layer.bias += 2 * job.hidden;
    layer.inputs = static_cast<int>(op.hidden_size);
    layer.outputs = static_cast<int>(op.block_size);
    layer.out_width = job.channels;
    layer.in = work.hidden;
    layer.in_stride = layer.out_stride;
    layer.out = work.modes;
    layer.out_stride = 2 * job.channels;
    mlp.template run<true>(layer);

    for (int j = 0; j < columns; ++j)
      for (int c = 0; c < job.channels; c += kLanes) {
        const float* from = work.modes + static_cast<size_t>(j) * rows * column + c;
        float* to = spectrum + j * column + c;
        fft(
            plan, work.fft,
            [=](int h) WX_LAMBDA {
              const int i = h - start;
              if (i < 0 || i >= rows) return cvec{set1(0.0f), set1(0.0f)};
              return cvec{load(from + i * column + channels), load(from + i * column)};
            },
            [=](int h, cvec z) WX_LAMBDA {
              store(to + h * row, z.im);
              store(to + h * row + channels, z.re);
            });
      }
  });
}

// Two half spectra A and B make the spectrum of one complex row, Z[k] = A[k] + i B[k], Z[-k] = conj A[k] + i
// conj B[k]; as in any complex-to-real transform the imaginary parts of k = 0 and of the Nyquist column do
// not count.
inline void inverse_rows(const SpectralFilterJob& job, int64_t sample, int64_t block, int64_t h,
                         const float* spectrum, float* work) {
  const SpectralFilter& op = job.op;
  const FftPlan& plan = *job.over_width;
  const int n = plan.n, columns = static_cast<int>(op.columns), channels = job.channels;
  const int64_t column = 2 * channels, row = op.columns * column;
  const bool both = h + 1 < op.height, streams = job.streams;
  const int64_t second = both ? row : 0;  // a last single row is made twice, and stored once
  const vec scale = set1(job.scale), scale_rest = set1(job.scale_rest);
  const auto add_scaled = [=](vec a, vec residual)
                              WX_LAMBDA { return fma(a, scale, fma(a, scale_rest, residual)); };
  spectrum += h * row;
  // Out here it is of one type for all inputs: the first stage is compiled once, not six times.
  const auto row_spectrum = [=](const float* from) {
    return [=](int k) WX_LAMBDA {  // swapped, as it is the inverse
      const int mirrored = n - k;
      if (k < columns) {
        const float* a = from + k * column;
        const float* b = a + second;
        if (k == 0 || k == mirrored) return cvec{load(b), load(a)};
        return cvec{load(a + channels) + load(b), load(a) - load(b + channels)};
      }
      if (mirrored < columns) {
        const float* a = from + mirrored * column;
        const float* b = a + second;
        return cvec{load(b) - load(a + channels), load(a) + load(b + channels)};
      }
      return cvec{set1(0.0f), set1(0.0f)};
    };
  };
  with_input(op, [&](auto element, auto norm) {
    using T = decltype(element);
    using Input = std::conditional_t<norm, Normalised, Plain>;
    const int64_t second_token = both ? op.width : 0;
    const int64_t x_row = both ? op.stride_height : 0, x_stride = op.stride_width,
                  offset = block * op.block_size;
    const int64_t out_stride = op.blocks * op.block_size, out_row = op.width * out_stride;
    const T* x = static_cast<const T*>(op.x) + sample * op.stride_batch + h * op.stride_height + offset;
    T* out = static_cast<T*>(op.out) + (sample * op.height + h) * out_row + offset;
    for_each_vector(op.block_size, [&](int c, Lanes lanes) {
      const T* next = c + kLanes < op.block_size ? x + c + kLanes : x + 2 * x_row;
      const Input input(job, sample, h, offset + c, lanes);
      const auto skip = [=](vec x, int64_t token) WX_LAMBDA { return norm ? input(x, token) + x : x; };
      fft(plan, work, row_spectrum(spectrum + c), [=](int w, cvec z) WX_LAMBDA {
        const T* residual = x + w * x_stride + c;
        fetch(next + w * x_stride);
        fetch(next + w * x_stride + x_row);
        T* to = out + w * out_stride + c;
        const vec y0 = add_scaled(z.im, skip(load(residual, lanes), w));
        const vec y1 = add_scaled(z.re, skip(load(residual + x_row, lanes), second_token + w));
        if constexpr (kStreams && sizeof(T) == sizeof(float)) {
          if (streams) {
            stream(to, y0);
            if (both) stream(to + out_row, y1);
            return;
          }
        }
        store(to, y0, lanes);
        if (both) store(to + out_row, y1, lanes);
      });
    });
  });
  end_streams();
}

constexpr SpectralFilterKernels kSpectralFilter = {kLanes,      weights_size, work_size,      pack_weights,
                                                   row_moments, forward_rows, filter_columns, inverse_rows};

}  // namespace wxkernels::WX_ISA
