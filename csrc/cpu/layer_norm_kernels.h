// LayerNorm and int8 over blocks of rows.
#pragma once

#include "cpu/rows.h"

namespace wxkernels::WX_ISA {

// Floats of a row with room for whole vectors.
inline size_t row_floats(int64_t channels) {
  return static_cast<size_t>((channels + kLanes - 1) / kLanes * kLanes);
}

inline void layer_norm_rows(const LayerNorm& op, bool streams, int64_t first, int64_t stop, float* work) {
  const int K = static_cast<int>(op.in.channels);
  with_dtype(op.in.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t r = first; r < stop; ++r) {
      const T* x = static_cast<const T*>(op.in.x) + r * op.in.row_stride;
      if (op.scale != nullptr) {
        norm_row(x, K, op.weight, op.bias, op.eps, work);
        op.scale[r] = quantise_row(work, K, K, static_cast<uint8_t*>(op.out) + r * K, 0);
        continue;
      }
      T* out = static_cast<T*>(op.out) + r * K;
      if constexpr (kStreams && sizeof(T) == sizeof(float)) {
        if (streams) {
          layer_norm_row(x, K, op.weight, op.bias, op.eps,
                         [&](int k, vec y, Lanes) WX_LAMBDA { stream(out + k, y); });
          continue;
        }
      }
      layer_norm_row(x, K, op.weight, op.bias, op.eps,
                     [&](int k, vec y, Lanes lanes) WX_LAMBDA { store(out + k, y, lanes); });
    }
  });
  if (streams) end_streams();
}

inline void quantize_rows(const QuantizeRows& op, int64_t first, int64_t stop, float* work) {
  const int K = static_cast<int>(op.in.channels);
  with_dtype(op.in.dtype, [&](auto element) {
    const auto* x = static_cast<const decltype(element)*>(op.in.x);
    for (int64_t r = first; r < stop; ++r) {
      load_row(x + r * op.in.row_stride, K, work);
      op.scale[r] = quantise_row(work, K, K, reinterpret_cast<uint8_t*>(op.out) + r * K, 0);
    }
  });
}

constexpr RowKernels kRows = {row_floats, layer_norm_rows, quantize_rows};

}  // namespace wxkernels::WX_ISA
