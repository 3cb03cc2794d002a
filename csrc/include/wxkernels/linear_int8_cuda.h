#pragma once

#include <string>

#include "wxkernels/weights.h"

namespace wxkernels {

// linear_int8 (linear_int8.h) on an NVIDIA GPU. All addresses are in its memory; those of x, the weight, the
// residual and out, and the rows of these, are aligned to 16 bytes (of an int8 out, 8). inputs is a multiple
// of 16, outputs of 8.
struct LinearInt8Cuda {
  const int8_t* x;  // (rows, inputs)
  int64_t rows, row_stride;
  const float* x_scale;  // x_scale_stride (0 or 1) from row to row
  int64_t x_scale_stride;
  Weights weights;  // int8
  Activation activation;
  const void* residual;  // (rows, outputs), floating, or null
  Dtype residual_dtype;
  int64_t residual_stride;
  void* out;  // (rows, outputs), contiguous
  Dtype out_dtype;
  const float* out_scale;  // one element, of an int8 out
};

// Puts the work on `stream`, a cudaStream_t of `device`, and returns: no memory is allocated, nothing waited
// for. A row's bits depend on no other row. Throws std::invalid_argument for what the struct rules out,
// std::runtime_error with CUDA's own message.
void linear_int8_cuda(const LinearInt8Cuda& op, int device, void* stream);

// Why this build has no kernel for `device`; empty where it has.
std::string linear_int8_cuda_refusal(int device);

}  // namespace wxkernels
