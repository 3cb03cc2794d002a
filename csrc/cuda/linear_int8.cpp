// linear_int8 on CUDA: checks, and the choice of a kernel.
#include "cuda/linear_int8.h"

#include <climits>

namespace wxkernels {
namespace {

using cuda::check;

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

// Launch of a kernel, and whether this build has it for the current device.
struct Kernel {
  void (*launch)(const LinearInt8Cuda&, int device, cudaStream_t) = nullptr;
  bool (*built)() = [] { return false; };
};

struct Choice {
  std::string gpu;
  Kernel kernel;
};

Choice choose(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  Choice choice = {"sm_" + std::to_string(major) + std::to_string(minor), {}};
#ifdef WX_CUDA_SM90A
  if (major == 9 && minor == 0) {
    choice.kernel = {cuda::linear_int8_sm90a, cuda::has_sm90a};
    return choice;
  }
#endif
#ifdef WX_CUDA_SM80
  if (major >= 8) choice.kernel = {cuda::linear_int8_sm80, cuda::has_sm80};
#endif
  return choice;
}

std::string not_built(const Choice& choice) {
  return "it was built for " WX_CUDA_ARCHITECTURES ", and the GPU is " + choice.gpu;
}

void expect(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("linear_int8 on CUDA: expected ") + what);
}

bool aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

int64_t size_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : dtype == Dtype::int8 ? 1 : 2; }

void check_arguments(const LinearInt8Cuda& op) {
  const Weights& w = op.weights;
  expect(op.rows > 0 && op.rows <= INT_MAX - 256, "1 to 2^31 - 257 rows");
  expect(w.inputs > 0 && w.inputs % 16 == 0 && w.inputs <= 131072, "inputs a multiple of 16, at most 131072");
  expect(w.outputs > 0 && w.outputs % 8 == 0 && w.outputs <= INT_MAX - 256, "outputs a multiple of 8");
  expect(w.dtype == Dtype::int8 && w.scale != nullptr, "an int8 weight and its scale");
  expect(aligned(op.x, 16) && op.row_stride >= w.inputs && op.row_stride % 16 == 0,
         "x with rows aligned to 16 bytes");
  expect(aligned(w.weight, 16), "a weight aligned to 16 bytes");
  expect(aligned(w.scale, 16) && aligned(w.bias, 16), "weight_scale and bias aligned to 16 bytes");
  expect(op.x_scale != nullptr && (op.x_scale_stride == 0 || op.x_scale_stride == 1),
         "x_scale with stride 0 or 1");
  expect(op.residual == nullptr ||
             (op.residual_dtype != Dtype::int8 && aligned(op.residual, 16) &&
              op.residual_stride >= w.outputs && op.residual_stride * size_of(op.residual_dtype) % 16 == 0),
         "a floating residual with rows aligned to 16 bytes");
  expect(op.out != nullptr && aligned(op.out, 16), "an out aligned to 16 bytes");
  expect((op.out_dtype == Dtype::int8) == (op.out_scale != nullptr), "out_scale for an int8 out only");
}

}  // namespace

void linear_int8_cuda(const LinearInt8Cuda& op, int device, void* stream) {
  check_arguments(op);
  const OnDevice current(device);
  const Choice choice = choose(device);
  if (choice.kernel.launch == nullptr) throw std::runtime_error("linear_int8 on CUDA: " + not_built(choice));
  choice.kernel.launch(op, device, static_cast<cudaStream_t>(stream));
}

std::string cuda_refusal(int device) {
  try {
    const OnDevice current(device);
    const Choice choice = choose(device);
    return choice.kernel.built() ? "" : not_built(choice);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

}  // namespace wxkernels
