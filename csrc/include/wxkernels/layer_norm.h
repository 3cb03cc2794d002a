#pragma once

#include <cstdint>

#include "wxkernels/dtype.h"

namespace wxkernels {

// Rows of channels, contiguous over the channels.
struct Rows {
  const void* x;
  Dtype dtype;  // floating
  int64_t rows, channels, row_stride;
};

// Rows as int8: q = x / scale rounded half to even, scale = max |x| / 127 of the row (1 where that is 0). A
// row that is not finite has scale NaN and q = 0.
struct QuantizeRows {
  Rows in;
  int8_t* out;   // (rows, channels), contiguous
  float* scale;  // (rows,)
};

// (x - mean) / sqrt(variance + eps) * weight + bias.
struct LayerNorm {
  Rows in;
  void* out;     // (rows, channels), contiguous: in the dtype of x, or, with a scale, int8 as of QuantizeRows
  float* scale;  // (rows,), or null
  const float* weight;  // (channels,)
  const float* bias;    // (channels,), or null
  float eps;
};

// Run on the CPU with the instruction set in force (cpu.h) and at most `threads` threads. A row's bits depend
// neither on the other rows nor on `threads`. Throw std::bad_alloc.
void layer_norm(const LayerNorm& op, int threads);
void quantize_rows(const QuantizeRows& op, int threads);

}  // namespace wxkernels
