// Launches of the kernels of linear_int8, an architecture each. They throw std::runtime_error.
#pragma once

#include "cuda/runtime.h"
#include "wxkernels/linear_int8_cuda.h"

namespace wxkernels::cuda {

// Ampere and everything newer: mma.sync, cp.async.
void linear_int8_sm80(const LinearInt8Cuda& op, int device, Stream stream);
bool has_sm80();  // a kernel for the current device is in this build

// Hopper: wgmma, TMA.
void linear_int8_sm90a(const LinearInt8Cuda& op, int device, Stream stream);
bool has_sm90a();

}  // namespace wxkernels::cuda
