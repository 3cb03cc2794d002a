#pragma once

#include "wxkernels/weights.h"

namespace wxkernels {

// out = activation(x_scale weight_scale (x weight^T) + bias) + residual; int8 by int8 summed exactly in
// int32.
struct LinearInt8 {
  const void* x;  // (rows, inputs): int8, or a floating dtype whose rows are quantised first
  Dtype dtype;
  int64_t rows, row_stride;
  const float* x_scale;  // of int8 rows, x_scale_stride (0 or 1) from row to row
  int64_t x_scale_stride;
  Weights weights;
  Activation activation;
  const void* residual;  // (rows, outputs), floating, or null
  Dtype residual_dtype;
  int64_t residual_stride;
  void* out;  // (rows, outputs), contiguous
  Dtype out_dtype;
  float out_scale;  // of an int8 out
};

// Runs on the CPU with the instruction set in force (cpu.h) and at most `threads` threads. A row's bits
// depend neither on the other rows nor on `threads`. Throws std::bad_alloc.
void linear_int8(const LinearInt8& op, int threads);

}  // namespace wxkernels
