// linear_int8 on CUDA: checks, and the choice of a kernel.
#include "cuda/linear_int8.h"

#include <climits>

namespace wxkernels {
namespace {

using namespace cuda;

// Launch of a kernel, and whether this build has it for the current device.
struct Kernel {
  void (*launch)(const LinearInt8Cuda&, int device, Stream) = nullptr;
  bool (*built)() = [] { return false; };
};

Kernel choose(int device) {
  [[maybe_unused]] const int gpu = architecture(device);
#ifdef WX_CUDA_SM90A
  if (gpu == 90) return {linear_int8_sm90a, has_sm90a};
#endif
#ifdef WX_CUDA_SM80
  if (gpu >= 80) return {linear_int8_sm80, has_sm80};
#endif
  return {};
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
  const Kernel kernel = choose(device);
  if (kernel.launch == nullptr) throw std::runtime_error("linear_int8 on CUDA: " + not_built(device));
  kernel.launch(op, device, static_cast<Stream>(stream));
}

std::string linear_int8_cuda_refusal(int device) {
  try {
    const OnDevice current(device);
    return choose(device).built() ? "" : not_built(device);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

}  // namespace wxkernels
