// The CUDA runtime as the hosts of kernels use it. Throws std::runtime_error with CUDA's own message.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace wxkernels::cuda {

using Stream = cudaStream_t;

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Makes a device the current one inside a block.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_));
    check(cudaSetDevice(device));
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

inline int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

// 10 * major + minor.
inline int architecture(int device) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
         attribute(cudaDevAttrComputeCapabilityMinor, device);
}

// Bytes of shared memory that a block may have.
inline int shared_limit(int device) { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device); }

inline std::string not_built(int device) {
  return "it was built for " WX_CUDA_ARCHITECTURES ", and the GPU is sm_" +
         std::to_string(architecture(device));
}

}  // namespace wxkernels::cuda
