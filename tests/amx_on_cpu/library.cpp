// What runs on tiles, for ctypes: a layer as the drivers in csrc/cpu run it, in work space full of NaNs.
#include <cstdlib>
#include <memory>

#include "cpu/block_mlp.h"
#include "cpu/linear_kernels.h"

namespace wxkernels::amx {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Memory = std::unique_ptr<float, Free>;

Memory nans(size_t floats) {
  const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
  float* const p = static_cast<float*>(std::aligned_alloc(64, bytes));
  std::memset(p, 0xff, bytes);
  return Memory(p);
}

Memory packed(const Weights& w) {
  Memory to = nans(packed_size(w));
  for (int64_t panel = 0; panel < panels_of(w); ++panel) pack_panel(w, panel, to.get());
  return to;
}

// run(first row, rows) on blocks of rows.
template <class Run>
void over_rows(int64_t rows, int64_t block, const Run& run) {
  for (int64_t first = 0; first < rows; first += block)
    run(first, rows - first < block ? rows - first : block);
}

// One layer of a block MLP: relu or softshrink of (modes, inputs) complex numbers by weights, plus the bias.
template <bool kLast>
void block_layer(int modes, int inputs, int outputs, const float* re, const float* im, const float* w,
                 const float* bias, float threshold, float* out_re, float* out_im) {
  const int in_width = round_up(inputs, kLanes), out_width = round_up(outputs, kLanes);
  const int rows = round_up(modes, PairDot::kRows);
  const Memory in = nans(static_cast<size_t>(rows) * in_width),
               weights = nans(PairDot::size(inputs, out_width));
  const Memory out = nans(static_cast<size_t>(rows) * 2 * out_width), sums = nans(rows * kPanel);
  const Memory total = nans(PairDot::kRows * kPanel), both = nans(2 * static_cast<size_t>(out_width));
  for (int m = 0; m < modes; ++m)
    for (int c = 0; c < inputs; c += kLanes) {
      const Lanes lanes = lanes_of(inputs - c);
      PairDot::put(in.get() + m * in_width + c, 0, load(re + m * inputs + c, lanes),
                   load(im + m * inputs + c, lanes));
    }
  PairDot::pack(inputs, outputs, out_width, w, w + inputs * outputs, weights.get());
  for (int part = 0; part < 2; ++part)
    for (int n = 0; n < out_width; ++n)
      both.get()[part * out_width + n] = n < outputs ? bias[part * outputs + n] : 0;
  Layer layer;
  layer.inputs = inputs, layer.outputs = outputs, layer.out_width = out_width;
  layer.weights = weights.get(), layer.bias = both.get();
  layer.in = in.get(), layer.in_stride = in_width;
  layer.out = out.get(), layer.out_stride = kLast ? 2 * out_width : out_width;
  layer.modes = rows, layer.half_sums = sums.get(), layer.total = total.get(), layer.threshold = threshold;
  PairDot::run<kLast>(layer);
  for (int m = 0; m < modes; ++m)
    for (int n = 0; n < outputs; ++n) {
      const float* const at = layer.out + m * layer.out_stride + n;
      const uint32_t pair = float_bits(*at);
      out_re[m * outputs + n] = kLast ? *at : bits_float(pair << 16);
      out_im[m * outputs + n] = kLast ? at[out_width] : bits_float(pair & 0xffff0000);
    }
}

}  // namespace
}  // namespace wxkernels::amx

using namespace wxkernels;

extern "C" {

void linear_int8_on_tiles(const int8_t* x, const float* x_scale, int64_t M, int64_t K, const int8_t* weight,
                          const float* scale, const float* bias, int64_t N, bool gelu, int64_t block,
                          float* out) {
  LinearInt8 op{};
  op.x = x, op.dtype = Dtype::int8, op.rows = M, op.row_stride = K, op.x_scale = x_scale,
  op.x_scale_stride = 1;
  op.weights = {weight, Dtype::int8, N, K, scale, bias};
  op.activation = gelu ? Activation::gelu : Activation::none;
  op.out = out, op.out_dtype = Dtype::float32, op.out_scale = 1;
  const amx::Memory weights = amx::packed(op.weights), work = amx::nans(amx::linear_int8_work(op, block));
  amx::over_rows(M, block, [&](int64_t first, int64_t rows) {
    amx::linear_int8_rows(op, weights.get(), first, rows, work.get());
  });
}

void mlp_on_tiles(const float* x, int64_t M, int64_t C, int64_t D, const float* norm_weight,
                  const float* norm_bias, const void* w1, const float* b1, const float* s1, const void* w2,
                  const float* b2, const float* s2, float hidden_scale, int32_t hidden_offset, int64_t block,
                  float* out) {
  const Dtype dtype = s1 == nullptr ? Dtype::bfloat16 : Dtype::int8;
  Mlp op{};
  op.x = x, op.out = out, op.dtype = Dtype::float32, op.rows = M, op.row_stride = C;
  op.norm_weight = norm_weight, op.norm_bias = norm_bias, op.eps = 1e-6f;
  op.fc1 = {w1, dtype, D, C, s1, b1}, op.fc2 = {w2, dtype, C, D, s2, b2, hidden_offset};
  op.hidden_scale = hidden_scale, op.activation = Activation::gelu;
  const amx::Memory first_layer = amx::packed(op.fc1), second_layer = amx::packed(op.fc2);
  const amx::Memory work = amx::nans(amx::mlp_work(op, block));
  amx::over_rows(M, block, [&](int64_t first, int64_t rows) {
    amx::mlp_rows(op, false, first_layer.get(), second_layer.get(), first, rows, work.get());
  });
}

void block_layer_on_tiles(int modes, int inputs, int outputs, const float* re, const float* im,
                          const float* w, const float* bias, bool last, float threshold, float* out_re,
                          float* out_im) {
  (last ? amx::block_layer<true> : amx::block_layer<false>)(modes, inputs, outputs, re, im, w, bias,
                                                            threshold, out_re, out_im);
}
}
