// The CUDA kernels of the spectral filter on a CPU, for test_cuda.py.
#include <string>

#include "cuda/device.h"
#include "wxkernels/spectral_filter_cuda.h"

namespace {

thread_local std::string error;

}

extern "C" {

void run_backwards(bool backwards) { wxkernels::cuda::machine.backwards = backwards; }

// Null, or the message of what it threw.
const char* spectral_filter_cuda(const wxkernels::SpectralFilterCuda* op) {
  try {
    wxkernels::spectral_filter_cuda(*op, 0, nullptr);
    return nullptr;
  } catch (const std::exception& thrown) {
    return (error = thrown.what()).c_str();
  }
}

const char* spectral_filter_cuda_refusal(const wxkernels::SpectralFilterCuda* sizes) {
  return (error = wxkernels::spectral_filter_cuda_refusal(*sizes, 0)).c_str();
}
}
