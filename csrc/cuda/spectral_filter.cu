// spectral_filter on CUDA: checks and launches.
#include <algorithm>
#include <climits>
#include <cmath>
#include <stdexcept>

#include "cuda/spectral_filter_kernels.h"
#include "wxkernels/spectral_filter_cuda.h"

namespace wxkernels {
namespace {

using namespace cuda;

void expect(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("spectral_filter on CUDA: expected ") + what);
}

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

int64_t channels(const SpectralFilterCuda& op) { return op.blocks * op.block_size; }

Column column_of(const SpectralFilterCuda& op) {
  Column column = {};
  column.spectrum = op.spectrum;
  column.forward = op.forward_height, column.inverse = op.inverse_height;
  column.w1 = op.w1, column.w2 = op.w2, column.b1 = op.b1, column.b2 = op.b2;
  column.height = static_cast<int>(op.height), column.rows = static_cast<int>(op.rows);
  column.blocks = static_cast<int>(op.blocks), column.block_size = static_cast<int>(op.block_size);
  column.hidden_size = static_cast<int>(op.hidden_size);
  column.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(op.height)));
  column.threshold = op.threshold;
  return column;
}

// Shared memory of the kernels.
template <class Operand>
struct Bytes {
  using T = typename Operand::Element;
  int64_t transform, column;
  explicit Bytes(const SpectralFilterCuda& op)
      : transform(int64_t{sizeof(T)} * kTransformStride<T> * (padded(op.width) + padded(2 * op.columns))),
        column(ColumnRooms<T>(op.height, op.rows, op.block_size, op.hidden_size).bytes()) {}
};

template <class Operand>
std::string refusal(const SpectralFilterCuda& op, int device) {
  if (!built(filter_column<Operand>)) return not_built(device);
  const Bytes<Operand> bytes(op);
  const int64_t needed = std::max(bytes.transform, bytes.column), limit = shared_limit(device);
  if (needed <= limit) return "";
  return "these sizes need " + std::to_string(needed / 1024) + " KiB of shared memory, and the GPU has " +
         std::to_string(limit / 1024);
}

template <class Operand>
void run(const SpectralFilterCuda& op, Stream stream) {
  using T = typename Operand::Element;
  const Bytes<Operand> bytes(op);
  const int height = static_cast<int>(op.height), width = static_cast<int>(op.width);
  const int both = static_cast<int>(2 * op.columns);
  const int64_t C = channels(op), tiles = (C + kTransformChannels - 1) / kTransformChannels;
  const Strides of_x = {op.stride_batch, op.stride_height, op.stride_width};
  const Strides of_out = {op.height * op.width * C, op.width * C, C};
  const Strides of_spectrum = {both * op.height * C, C, op.height * C};
  const Norm norm = {op.moments, op.norm_weight, op.norm_bias};

  // Samples of a group take all steps before the next group: what one step wrote is in L2 for the next.
  for (int64_t sample = 0; sample < op.batch; sample += op.samples) {
    const int64_t samples = std::min(op.samples, op.batch - sample), lines = samples * op.height;
    const T* const x = static_cast<const T*>(op.x) + sample * op.stride_batch;
    T* const out = static_cast<T*>(op.out) + sample * of_out.sample;
    if (norm.moments != nullptr) {
      const Moments moments = {x,     of_x,   op.moments,          lines * width,
                               width, height, static_cast<int>(C), op.eps};
      constexpr int kTokens = kMomentsThreads / kWarp;
      launch(find_moments<T>, (moments.tokens + kTokens - 1) / kTokens, kMomentsThreads, 0, stream, moments);
    }
    Transform forward = {};
    forward.a = op.forward_width, forward.x = x, forward.y = op.spectrum;
    forward.x_strides = of_x, forward.y_strides = of_spectrum;
    forward.x_tokens = width, forward.y_tokens = both;
    forward.lines = height, forward.channels = static_cast<int>(C);
    forward.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width)));
    forward.x_norm = norm;
    launch(transform<Operand>, lines * tiles, kTransformThreads, static_cast<int>(bytes.transform), stream,
           forward);

    launch(filter_column<Operand>, samples * op.columns * op.blocks, kColumnThreads,
           static_cast<int>(bytes.column), stream, column_of(op));

    Transform inverse = forward;
    inverse.a = op.inverse_width, inverse.x = op.spectrum, inverse.y = out;
    inverse.x_strides = of_spectrum, inverse.y_strides = of_out;
    inverse.x_tokens = both, inverse.y_tokens = width;
    inverse.x_norm = {};
    inverse.skip = x, inverse.skip_strides = of_x, inverse.skip_norm = norm;
    launch(transform<Operand>, lines * tiles, kTransformThreads, static_cast<int>(bytes.transform), stream,
           inverse);
  }
}

void check_arguments(const SpectralFilterCuda& op) {
  const int chunk = op.dtype == Dtype::float32 ? 4 : 8;
  expect(op.dtype != Dtype::int8, "x in float32, bfloat16 or float16");
  expect(op.batch >= 0 && op.height > 0 && op.width > 0 && op.hidden_size > 0, "sizes of 1 or more");
  expect(op.blocks > 0 && op.block_size > 0 && op.block_size % chunk == 0,
         "blocks of a multiple of 16 bytes");
  expect(op.rows > 0 && op.rows <= op.height && op.columns > 0 && op.columns <= op.width / 2 + 1,
         "1 to height rows and 1 to width / 2 + 1 columns");
  expect(op.samples > 0, "1 or more samples at once");
  const int64_t tiles = (channels(op) + kTransformChannels - 1) / kTransformChannels;
  expect(op.samples * op.height * op.width <= INT_MAX && op.samples * op.height * tiles <= INT_MAX &&
             op.samples * op.columns * op.blocks <= INT_MAX,
         "fewer samples at once: a grid has at most 2^31 blocks");
  for (const void* address :
       {op.x, static_cast<const void*>(op.out), op.forward_width, op.inverse_width, op.forward_height,
        op.inverse_height, op.w1, op.w2, static_cast<const void*>(op.spectrum)})
    expect(address != nullptr && aligned(address), "addresses at multiples of 16 bytes");
  for (int64_t stride : {op.stride_batch, op.stride_height, op.stride_width})
    expect(stride % chunk == 0, "strides of x of a multiple of 16 bytes");
  expect(op.b1 != nullptr && op.b2 != nullptr, "b1 and b2");
  expect(
      (op.norm_weight == nullptr) == (op.moments == nullptr) && (op.norm_bias == nullptr || op.norm_weight),
      "room for moments with a norm, and only then");
}

// f of the operands that op asks for.
template <class F>
auto with_operand(const SpectralFilterCuda& op, const F& f) {
  if (op.dtype == Dtype::bfloat16) return f(Half<bfloat16>());
  if (op.dtype == Dtype::float16) return f(Half<float16>());
  if (op.tf32) return f(Tf32());
  return f(Float32());
}

}  // namespace

void spectral_filter_cuda(const SpectralFilterCuda& op, int device, void* stream) {
  check_arguments(op);
  const OnDevice current(device);
  with_operand(op, [&](auto operand) { run<decltype(operand)>(op, static_cast<Stream>(stream)); });
}

std::string spectral_filter_cuda_refusal(const SpectralFilterCuda& sizes, int device) {
  try {
    const OnDevice current(device);
    return with_operand(sizes, [&](auto operand) { return refusal<decltype(operand)>(sizes, device); });
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

}  // namespace wxkernels
