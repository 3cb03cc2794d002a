#pragma once

#include "wxkernels/weights.h"

namespace wxkernels {

// out = x + fc2(activation(fc1(LayerNorm(x)))). In int8 the normalised rows are quantised one by one, the
// hidden ones by hidden_scale around fc2.row_offset; in bfloat16 both are rounded to it.
struct Mlp {
  const void* x;  // (rows, fc1.inputs), channel stride 1
  void* out;      // the same shape and dtype, contiguous; must not overlap x
  Dtype dtype;    // floating
  int64_t rows, row_stride;
  const float* norm_weight;  // (fc1.inputs,)
  const float* norm_bias;
  float eps;
  Weights fc1, fc2;  // of one dtype; fc2.inputs = fc1.outputs, fc2.outputs = fc1.inputs
  float hidden_scale;
  Activation activation;
};

// As linear_int8: any threads, the same bits for a row.
void mlp(const Mlp& op, int threads);

}  // namespace wxkernels
