#pragma once

#include <string>

#include "wxkernels/dtype.h"

namespace wxkernels {

// spectral_filter (spectral_filter.h) on an NVIDIA GPU. All addresses are in its memory, but those of b1 and
// b2 at multiples of 16 bytes, and so are the strides and blocks of x.
//
// The six constant matrices are in fragments (cuda/product.h) of the dtype of x; of a complex one the real
// part comes first, and rows and columns are padded with zeros to multiples of 16. They have no factor 1 /
// sqrt(n).
struct SpectralFilterCuda {
  const void* x;  // (batch, height, width, blocks * block_size), channel stride 1
  void* out;      // the same shape, contiguous; must not overlap x
  Dtype dtype;    // of both, and of the operands of all products; sums are float32
  bool tf32;      // float32 operands are rounded to TF32
  int64_t batch, height, width, blocks, block_size, hidden_size;
  int64_t stride_batch, stride_height, stride_width;  // of x
  int64_t rows, columns;                              // kept modes of the height and of the width
  const void* forward_width;   // real, (2 columns, width): parts of column k in rows 2k, 2k + 1
  const void* inverse_width;   // real, (width, 2 columns)
  const void* forward_height;  // complex, (rows, height)
  const void* inverse_height;  // complex, (height, rows)
  const void* w1;              // complex, (hidden_size, block_size), one a block
  const void* w2;              // complex, (block_size, hidden_size), one a block
  const float* b1;             // (2, blocks, hidden_size)
  const float* b2;             // (2, blocks, block_size)
  float threshold;             // of the softshrink
  const float* norm_weight;    // (blocks * block_size,), or null: no norm
  const float* norm_bias;      // (blocks * block_size,), or null
  float eps;
  int64_t samples;  // that go through the steps together
  void* spectrum;   // room for (samples, columns, 2, height, blocks * block_size)
  float* moments;   // room for (samples, height, width, 2), or null without a norm
};

// Puts the work on `stream`, a cudaStream_t of `device`, and returns: no memory is allocated, nothing waited
// for. A sample's bits depend on no other sample. Throws std::invalid_argument for what the struct rules out,
// std::runtime_error with CUDA's own message.
void spectral_filter_cuda(const SpectralFilterCuda& op, int device, void* stream);

// Why this build or `device` cannot run a filter of these sizes (the other fields are not looked at); else
// empty.
std::string spectral_filter_cuda_refusal(const SpectralFilterCuda& sizes, int device);

}  // namespace wxkernels
