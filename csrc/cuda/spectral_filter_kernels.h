// Kernels of the spectral filter. The spectrum is (samples, columns, 2, height, channels), real part first.
#pragma once

#include "cuda/product.h"

namespace wxkernels::cuda {

// Of a field (samples, lines, tokens, channels), channel stride 1.
struct Strides {
  int64_t sample, line, token;
};

template <class T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));  // elements of a Chunk

template <class Integer>
WX_HOST_DEVICE constexpr Integer padded(Integer n) {
  return (n + 15) / 16 * 16;
}

// Rows in shared memory are multiples of 16 elements and a chunk: eight rows that are read at once, each a
// chunk, lie in different banks.
template <class T, class Integer>
WX_HOST_DEVICE constexpr Integer padded_stride(Integer n) {
  return padded(n) + kChunk<T>;
}

// LayerNorm over channels.
struct Norm {
  float* moments;       // (samples, lines, tokens, 2): mean and 1 / sqrt(variance + eps); null: no norm
  const float* weight;  // (channels,)
  const float* bias;    // (channels,), or null
};

WX_DEVICE float normalized(float v, const Norm& norm, int64_t token, int channel) {
  const float scaled = (v - norm.moments[2 * token]) * norm.moments[2 * token + 1] * norm.weight[channel];
  return norm.bias == nullptr ? scaled : scaled + norm.bias[channel];
}

template <class T>
WX_DEVICE Chunk& chunk(T* address) {
  return *reinterpret_cast<Chunk*>(address);
}

struct Moments {
  const void* x;
  Strides strides;
  float* moments;  // (samples, lines, tokens, 2)
  int64_t tokens;  // of all samples
  int width, height, channels;
  float eps;
};

constexpr int kMomentsThreads = 256;

// Mean and 1 / sqrt(variance + eps) of each token: a warp reads it twice, the second time from its cache.
template <class T>
WX_KERNEL(kMomentsThreads, 1)
find_moments(const Moments op) {
  const int64_t token = block() * (kMomentsThreads / kWarp) + thread() / kWarp;
  if (token >= op.tokens) return;
  const int64_t w = token % op.width, line = token / op.width;
  const T* const x = static_cast<const T*>(op.x) + line / op.height * op.strides.sample +
                     line % op.height * op.strides.line + w * op.strides.token;
  const auto sum = [&](const auto& f) {
    float total = 0;
    for (int c = lane() * kChunk<T>; c < op.channels; c += kWarp * kChunk<T>) {
      const Chunk values = load_constant(x + c);
      for (int i = 0; i < kChunk<T>; ++i) total += f(to_float(reinterpret_cast<const T*>(&values)[i]));
    }
    return sum_of_warp(total);
  };
  const float channels = static_cast<float>(op.channels);
  const float mean = sum([](float v) { return v; }) / channels;
  const float variance = sum([mean](float v) { return (v - mean) * (v - mean); }) / channels;
  if (lane() == 0) {
    op.moments[2 * token] = mean;
    op.moments[2 * token + 1] = 1.0f / sqrtf(variance + op.eps);
  }
}

// y = scale a x over the tokens of each line, for the transforms over the width.
struct Transform {
  const void* a;  // real, in fragments
  const void* x;
  void* y;
  Strides x_strides, y_strides;
  int x_tokens, y_tokens, lines, channels;
  float scale;
  Norm x_norm;       // of x
  const void* skip;  // like y: y has it, and with skip_norm LayerNorm of it, on top; or null
  Strides skip_strides;
  Norm skip_norm;
};

constexpr int kTransformThreads = 128, kTransformChannels = 64;  // of a block; 64 of 16 bits are a cache line

template <class T>
constexpr int kTransformStride = padded_stride<T>(kTransformChannels);

// A block has a line and kTransformChannels.
template <class Operand>
WX_KERNEL(kTransformThreads, 4)
transform(const Transform op) {
  using T = typename Operand::Element;
  constexpr int kStride = kTransformStride<T>, kChunks = kTransformChannels / kChunk<T>;
  const int K = padded(op.x_tokens), M = padded(op.y_tokens);
  T* const in = reinterpret_cast<T*>(shared_memory());
  T* const out = in + K * kStride;

  const int tiles = (op.channels + kTransformChannels - 1) / kTransformChannels;
  const int first = static_cast<int>(block() % tiles) * kTransformChannels;
  const int64_t of_all = block() / tiles, sample = of_all / op.lines, line = of_all % op.lines;
  const auto begin = [&](const Strides& strides) {
    return sample * strides.sample + line * strides.line + first;
  };
  const T* const x = static_cast<const T*>(op.x) + begin(op.x_strides);
  T* const y = static_cast<T*>(op.y) + begin(op.y_strides);

  for (int i = thread(); i < K * kChunks; i += kTransformThreads) {
    const int token = i / kChunks, c = i % kChunks * kChunk<T>;
    T* const to = in + token * kStride + c;
    if (token < op.x_tokens && first + c < op.channels)
      copy_async(to, x + token * op.x_strides.token + c);
    else
      chunk(to) = {};
  }
  if (op.skip != nullptr) {
    const T* const skip = static_cast<const T*>(op.skip) + begin(op.skip_strides);
    for (int i = thread(); i < op.y_tokens * kChunks; i += kTransformThreads) {
      const int token = i / kChunks, c = i % kChunks * kChunk<T>;
      if (first + c < op.channels)
        copy_async(out + token * kStride + c, skip + token * op.skip_strides.token + c);
    }
  }
  wait_for_copies();
  if (op.x_norm.moments != nullptr) {  // a thread changes what it copied
    for (int i = thread(); i < op.x_tokens * kChunks; i += kTransformThreads) {
      const int token = i / kChunks, c = i % kChunks * kChunk<T>;
      if (first + c >= op.channels) continue;
      Chunk values = chunk(in + token * kStride + c);
      T* const v = reinterpret_cast<T*>(&values);
#pragma unroll
      for (int n = 0; n < kChunk<T>; ++n)
        v[n] = rounded<T>(normalized(to_float(v[n]), op.x_norm, of_all * op.x_tokens + token, first + c + n));
      chunk(in + token * kStride + c) = values;
    }
  }
  sync_block();

  product<Operand, false, true>(
      static_cast<const T*>(op.a), M, K, in, kStride, kTransformChannels / 2, kTransformChannels / 2,
      [&](int half, int token, int c, float left, float right) {
        c += half * (kTransformChannels / 2);
        T* const to = out + token * kStride + c;
        left *= op.scale, right *= op.scale;
        if (op.skip != nullptr && token < op.y_tokens && first + c < op.channels) {
          const float skip[2] = {to_float(to[0]), to_float(to[1])};
          if (op.skip_norm.moments != nullptr) {
            left += normalized(skip[0], op.skip_norm, of_all * op.y_tokens + token, first + c);
            right += normalized(skip[1], op.skip_norm, of_all * op.y_tokens + token, first + c + 1);
          }
          left += skip[0], right += skip[1];
        }
        put_pair(to, left, right);
      });
  sync_block();

  for (int i = thread(); i < op.y_tokens * kChunks; i += kTransformThreads) {
    const int token = i / kChunks, c = i % kChunks * kChunk<T>;
    if (first + c < op.channels) chunk(y + token * op.y_strides.token + c) = chunk(out + token * kStride + c);
  }
}

// What happens to a column of the spectrum: transform over the height, block MLP, softshrink, and back.
struct Column {
  void* spectrum;  // changed in place
  const void *forward, *inverse, *w1, *w2;
  const float *b1, *b2;
  int height, rows, blocks, block_size, hidden_size;
  float scale, threshold;
};

constexpr int kColumnThreads = 256;

// Two rooms in shared memory, of two parts each: [h][c], then [j][f] in the first, [f][c], then [i][f] in the
// second, with f a row of modes, c and i channels, j a hidden one.
template <class T>
struct ColumnRooms {
  int64_t by_channels, by_rows;  // strides
  int64_t first, second;         // elements of a part of a room
  WX_HOST_DEVICE ColumnRooms(int64_t height, int64_t rows, int64_t block_size, int64_t hidden_size)
      : by_channels(padded_stride<T>(block_size)), by_rows(padded_stride<T>(rows)) {
    const int64_t spectrum = padded(height) * by_channels, hidden = padded(hidden_size) * by_rows;
    const int64_t modes = padded(rows) * by_channels, out = padded(block_size) * by_rows;
    first = spectrum > hidden ? spectrum : hidden;
    second = modes > out ? modes : out;
  }
  WX_HOST_DEVICE int64_t bytes() const { return 2 * static_cast<int64_t>(sizeof(T)) * (first + second); }
};

WX_DEVICE float relu(float v) { return v < 0 ? 0.0f : v; }  // a NaN stays one
WX_DEVICE float softshrink(float v, float threshold) {
  return v > threshold ? v - threshold : v < -threshold ? v + threshold : v * 0.0f;  // here too
}

// A block has a column and a block of channels.
template <class Operand>
WX_KERNEL(kColumnThreads, Operand::kBlocks)
filter_column(const Column op) {
  using T = typename Operand::Element;
  const ColumnRooms<T> rooms(op.height, op.rows, op.block_size, op.hidden_size);
  const int by_channels = static_cast<int>(rooms.by_channels), by_rows = static_cast<int>(rooms.by_rows);
  const int apart_first = static_cast<int>(rooms.first), apart_second = static_cast<int>(rooms.second);
  T* const first = reinterpret_cast<T*>(shared_memory());
  T* const second = first + 2 * apart_first;
  const int H = padded(op.height), rows = padded(op.rows), bs = padded(op.block_size),
            hidden = padded(op.hidden_size);
  const int nb = static_cast<int>(block() % op.blocks);
  const int64_t C = op.blocks * int64_t{op.block_size};
  T* const spectrum =
      static_cast<T*>(op.spectrum) + block() / op.blocks * (2 * op.height * C) + nb * op.block_size;

  const int chunks = bs / kChunk<T>;
  for (int i = thread(); i < 2 * H * chunks; i += kColumnThreads) {
    const int line = i / chunks, c = i % chunks * kChunk<T>, part = line / H, h = line % H;
    T* const to = first + part * apart_first + h * by_channels + c;
    if (h < op.height && c < op.block_size)
      copy_async(to, spectrum + (part * op.height + h) * C + c);
    else
      chunk(to) = {};
  }
  wait_for_copies();
  sync_block();

  product<Operand, true, true>(static_cast<const T*>(op.forward), rows, H, first, by_channels, apart_first,
                               bs, [&](int part, int f, int c, float left, float right) {
                                 put_pair(second + part * apart_second + f * by_channels + c, op.scale * left,
                                          op.scale * right);
                               });
  sync_block();
  product<Operand, true, false>(
      static_cast<const T*>(op.w1) + int64_t{2} * nb * hidden * bs, hidden, bs, second, by_channels,
      apart_second, rows, [&](int part, int j, int f, float left, float right) {
        const float b = j < op.hidden_size ? op.b1[(part * op.blocks + nb) * op.hidden_size + j] : 0.0f;
        put_pair(first + part * apart_first + j * by_rows + f, relu(left + b), relu(right + b));
      });
  sync_block();
  product<Operand, true, true>(
      static_cast<const T*>(op.w2) + int64_t{2} * nb * bs * hidden, bs, hidden, first, by_rows, apart_first,
      rows, [&](int part, int i, int f, float left, float right) {
        const float b = i < op.block_size ? op.b2[(part * op.blocks + nb) * op.block_size + i] : 0.0f;
        // Modes past the end meet zeros of `inverse`, and must be finite.
        put_pair(second + part * apart_second + i * by_rows + f,
                 f < op.rows ? softshrink(left + b, op.threshold) : 0.0f,
                 f + 1 < op.rows ? softshrink(right + b, op.threshold) : 0.0f);
      });
  sync_block();
  product<Operand, true, false>(static_cast<const T*>(op.inverse), H, rows, second, by_rows, apart_second, bs,
                                [&](int part, int h, int c, float left, float right) {
                                  put_pair(first + part * apart_first + h * by_channels + c, op.scale * left,
                                           op.scale * right);
                                });
  sync_block();

  for (int i = thread(); i < 2 * op.height * chunks; i += kColumnThreads) {
    const int line = i / chunks, c = i % chunks * kChunk<T>, part = line / op.height, h = line % op.height;
    if (c < op.block_size)
      chunk(spectrum + line * C + c) = chunk(first + part * apart_first + h * by_channels + c);
  }
}

}  // namespace wxkernels::cuda
