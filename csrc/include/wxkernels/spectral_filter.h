#pragma once

#include <cstdint>

#include "wxkernels/dtype.h"

namespace wxkernels {

// One call of the spectral filter (AFNO2D of FourCastNet): out = irfft2(softshrink(MLP(rfft2(x)))) + x, with
// a complex block-diagonal MLP on the kept modes; every other mode is zero. With a norm, n = LayerNorm(x)
// over the channels takes the place of x and both skips are added, out = irfft2(...(rfft2(n))) + n + x.
// Strides are in elements.
struct SpectralFilter {
  const void* x;  // (batch, height, width, blocks * block_size), channel stride 1
  void* out;      // the same shape, contiguous; must not overlap x
  Dtype dtype;    // of x and out
  int64_t batch, height, width, blocks, block_size, hidden_size;
  int64_t stride_batch, stride_height, stride_width;  // of x
  const float* w1;                                    // (2, blocks, block_size, hidden_size), real part first
  const float* b1;                                    // (2, blocks, hidden_size)
  const float* w2;                                    // (2, blocks, hidden_size, block_size)
  const float* b2;                                    // (2, blocks, block_size)
  float threshold;                                    // of the softshrink
  int64_t row_start, row_stop, columns;  // kept modes: rows of the height, columns of width / 2 + 1
  const float* norm_weight;              // (blocks * block_size,), or null: no norm
  const float* norm_bias;                // (blocks * block_size,), or null
  float eps;
  bool bf16;  // products in bfloat16 where the instruction set has them
};

// Runs on the CPU with the instruction set in force (cpu.h) and at most `threads` threads. A sample's bits do
// not depend on `batch` nor on `threads`. May be called from several threads at once. Throws std::bad_alloc.
void spectral_filter(const SpectralFilter& op, int threads);

}  // namespace wxkernels
