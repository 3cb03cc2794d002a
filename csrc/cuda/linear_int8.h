// Launches of the kernels of linear_int8, an architecture each. They throw std::runtime_error.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "wxkernels/linear_int8_cuda.h"

namespace wxkernels::cuda {

inline void check(cudaError_t error) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("linear_int8 on CUDA: ") + cudaGetErrorString(error));
}

// Ampere and everything newer: mma.sync, cp.async.
void linear_int8_sm80(const LinearInt8Cuda& op, int device, cudaStream_t stream);
bool has_sm80();  // a kernel for the current device is in this build

// Hopper: wgmma, TMA.
void linear_int8_sm90a(const LinearInt8Cuda& op, int device, cudaStream_t stream);
bool has_sm90a();

}  // namespace wxkernels::cuda
