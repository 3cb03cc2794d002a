#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <tuple>

#include "wxkernels/cpu.h"
#include "wxkernels/layer_norm.h"
#include "wxkernels/linear_int8.h"
#include "wxkernels/linear_int8_cuda.h"
#include "wxkernels/mlp.h"
#include "wxkernels/patch.h"
#include "wxkernels/spectral_filter.h"
#include "wxkernels/spectral_filter_cuda.h"

namespace py = pybind11;

namespace {

// wxkernels/_native.py takes a module of this number alone: raise both where a call here changes its
// arguments or their meaning.
constexpr int kInterface = 2;

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

wxkernels::Dtype dtype_of(const std::string& name) {
  if (name == "float32") return wxkernels::Dtype::float32;
  if (name == "bfloat16") return wxkernels::Dtype::bfloat16;
  if (name == "float16") return wxkernels::Dtype::float16;
  if (name == "int8") return wxkernels::Dtype::int8;
  throw py::value_error("dtype: expected float32, bfloat16, float16 or int8, got " + name);
}

wxkernels::Dtype floating_dtype_of(const std::string& name) {
  const wxkernels::Dtype dtype = dtype_of(name);
  if (dtype == wxkernels::Dtype::int8)
    throw py::value_error("dtype: expected float32, bfloat16 or float16, got int8");
  return dtype;
}

wxkernels::Activation activation_of(const std::string& name) {
  if (name == "none") return wxkernels::Activation::none;
  if (name == "gelu") return wxkernels::Activation::gelu;
  if (name == "gelu_tanh") return wxkernels::Activation::gelu_tanh;
  throw py::value_error("activation: expected none, gelu or gelu_tanh, got " + name);
}

// What would be read past an end, or divided by.
void check_sizes(std::initializer_list<int64_t> sizes, int64_t least = 0) {
  for (int64_t size : sizes)
    if (size < least)
      throw py::value_error("sizes: expected " + std::to_string(least) + " or more, got " +
                            std::to_string(size));
}

wxkernels::Weights weights_of(std::uintptr_t weight, const std::string& dtype, int64_t outputs,
                              int64_t inputs, std::uintptr_t scale, std::uintptr_t bias) {
  wxkernels::Weights weights;
  weights.weight = pointer<const void>(weight);
  weights.dtype = dtype_of(dtype);
  weights.outputs = outputs;
  weights.inputs = inputs;
  weights.scale = pointer<const float>(scale);
  weights.bias = pointer<const float>(bias);
  check_sizes({outputs, inputs});
  if (weights.dtype == wxkernels::Dtype::float16)
    throw py::value_error("weight: expected float32, bfloat16 or int8, got float16");
  if (weights.dtype == wxkernels::Dtype::int8 && weights.scale == nullptr)
    throw py::value_error("weight: expected a scale for int8, got none");
  return weights;
}

using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;

void spectral_filter(std::uintptr_t x, std::uintptr_t out, const std::string& dtype, Shape shape,
                     Shape strides, int64_t blocks, int64_t hidden_size, std::uintptr_t w1, std::uintptr_t b1,
                     std::uintptr_t w2, std::uintptr_t b2, float threshold,
                     std::tuple<int64_t, int64_t, int64_t> kept, int threads, std::uintptr_t norm_weight,
                     std::uintptr_t norm_bias, float eps, bool bf16) {
  wxkernels::SpectralFilter op;
  int64_t channels, stride_channel;
  op.x = pointer<const void>(x);
  op.out = pointer<void>(out);
  op.dtype = floating_dtype_of(dtype);
  std::tie(op.batch, op.height, op.width, channels) = shape;
  std::tie(op.stride_batch, op.stride_height, op.stride_width, stride_channel) = strides;
  op.blocks = blocks;
  op.block_size = blocks > 0 ? channels / blocks : 0;
  op.hidden_size = hidden_size;
  op.w1 = pointer<const float>(w1);
  op.b1 = pointer<const float>(b1);
  op.w2 = pointer<const float>(w2);
  op.b2 = pointer<const float>(b2);
  op.threshold = threshold;
  std::tie(op.row_start, op.row_stop, op.columns) = kept;
  op.norm_weight = pointer<const float>(norm_weight);
  op.norm_bias = pointer<const float>(norm_bias);
  op.eps = eps;
  op.bf16 = bf16;

  check_sizes({op.batch, op.height, op.width, channels, op.hidden_size});
  if (blocks < 1 || op.block_size * blocks != channels)
    throw py::value_error("blocks: expected a divisor of " + std::to_string(channels) + " channels, got " +
                          std::to_string(blocks));
  if (stride_channel != 1 && channels > 1)
    throw py::value_error("strides: expected channel stride 1, got " + std::to_string(stride_channel));
  if (op.row_start < 0 || op.row_stop < op.row_start || op.row_stop > op.height || op.columns < 0 ||
      op.columns > op.width / 2 + 1)
    throw py::value_error("kept: expected rows within the height and columns within width / 2 + 1");
  const py::gil_scoped_release release;
  wxkernels::spectral_filter(op, threads);
}

wxkernels::Rows rows_of(std::uintptr_t x, const std::string& dtype, int64_t rows, int64_t channels,
                        int64_t row_stride) {
  check_sizes({rows, channels});
  return {pointer<const void>(x), floating_dtype_of(dtype), rows, channels, row_stride};
}

void layer_norm(std::uintptr_t x, std::uintptr_t out, std::uintptr_t scale, const std::string& dtype,
                int64_t rows, int64_t channels, int64_t row_stride, std::uintptr_t weight,
                std::uintptr_t bias, float eps, int threads) {
  wxkernels::LayerNorm op;
  op.in = rows_of(x, dtype, rows, channels, row_stride);
  op.out = pointer<void>(out);
  op.scale = pointer<float>(scale);
  op.weight = pointer<const float>(weight);
  op.bias = pointer<const float>(bias);
  op.eps = eps;
  const py::gil_scoped_release release;
  wxkernels::layer_norm(op, threads);
}

void quantize_rows(std::uintptr_t x, std::uintptr_t out, std::uintptr_t scale, const std::string& dtype,
                   int64_t rows, int64_t channels, int64_t row_stride, int threads) {
  wxkernels::QuantizeRows op;
  op.in = rows_of(x, dtype, rows, channels, row_stride);
  op.out = pointer<int8_t>(out);
  op.scale = pointer<float>(scale);
  const py::gil_scoped_release release;
  wxkernels::quantize_rows(op, threads);
}

void linear_int8(std::uintptr_t x, const std::string& x_dtype, std::uintptr_t x_scale, int64_t x_scale_stride,
                 int64_t M, int64_t N, int64_t K, int64_t row_stride, std::uintptr_t weight,
                 std::uintptr_t weight_scale, std::uintptr_t bias, const std::string& activation,
                 std::uintptr_t residual, const std::string& residual_dtype, int64_t residual_stride,
                 std::uintptr_t out, const std::string& out_dtype, float out_scale, int threads) {
  wxkernels::LinearInt8 op;
  op.x = pointer<const void>(x);
  op.dtype = dtype_of(x_dtype);
  op.rows = M;
  op.row_stride = row_stride;
  op.x_scale = pointer<const float>(x_scale);
  op.x_scale_stride = x_scale_stride;
  op.weights = weights_of(weight, "int8", N, K, weight_scale, bias);
  op.activation = activation_of(activation);
  op.residual = pointer<const void>(residual);
  op.residual_dtype = floating_dtype_of(residual_dtype);
  op.residual_stride = residual_stride;
  op.out = pointer<void>(out);
  op.out_dtype = dtype_of(out_dtype);
  op.out_scale = out_scale;
  check_sizes({M});
  if (op.dtype == wxkernels::Dtype::int8 && op.x_scale == nullptr)
    throw py::value_error("x: expected a scale for int8, got none");
  const py::gil_scoped_release release;
  wxkernels::linear_int8(op, threads);
}

void mlp(std::uintptr_t x, std::uintptr_t out, const std::string& dtype, int64_t rows, int64_t channels,
         int64_t hidden, int64_t row_stride, std::uintptr_t norm_weight, std::uintptr_t norm_bias, float eps,
         const std::string& weight_dtype, std::uintptr_t fc1_weight, std::uintptr_t fc1_scale,
         std::uintptr_t fc1_bias, std::uintptr_t fc2_weight, std::uintptr_t fc2_scale,
         std::uintptr_t fc2_bias, float hidden_scale, int32_t hidden_offset, const std::string& activation,
         int threads) {
  wxkernels::Mlp op;
  op.x = pointer<const void>(x);
  op.out = pointer<void>(out);
  op.dtype = floating_dtype_of(dtype);
  op.rows = rows;
  op.row_stride = row_stride;
  op.norm_weight = pointer<const float>(norm_weight);
  op.norm_bias = pointer<const float>(norm_bias);
  op.eps = eps;
  op.fc1 = weights_of(fc1_weight, weight_dtype, hidden, channels, fc1_scale, fc1_bias);
  op.fc2 = weights_of(fc2_weight, weight_dtype, channels, hidden, fc2_scale, fc2_bias);
  op.fc2.row_offset = hidden_offset;
  op.hidden_scale = hidden_scale;
  op.activation = activation_of(activation);
  check_sizes({rows});
  const py::gil_scoped_release release;
  wxkernels::mlp(op, threads);
}

void patch_embed(std::uintptr_t x, std::uintptr_t out, const std::string& dtype, Shape shape,
                 std::tuple<int64_t, int64_t> patch, int64_t dim, const std::string& weight_dtype,
                 std::uintptr_t weight, std::uintptr_t bias, std::uintptr_t pos, const std::string& pos_dtype,
                 std::uintptr_t pos_scale, int threads) {
  wxkernels::PatchEmbed op;
  int64_t height, width;
  op.x = pointer<const void>(x);
  op.out = pointer<void>(out);
  op.dtype = floating_dtype_of(dtype);
  std::tie(op.batch, op.channels, height, width) = shape;
  std::tie(op.patch_height, op.patch_width) = patch;
  check_sizes({op.batch, op.channels, height, width});
  check_sizes({op.patch_height, op.patch_width}, 1);
  op.rows = height / op.patch_height;
  op.columns = width / op.patch_width;
  op.weights = weights_of(weight, weight_dtype, dim, op.channels * op.patch_height * op.patch_width, 0, bias);
  op.position = pointer<const void>(pos);
  op.position_dtype = dtype_of(pos_dtype);
  op.position_scale = pointer<const float>(pos_scale);
  if (op.position != nullptr && op.position_dtype == wxkernels::Dtype::int8 && op.position_scale == nullptr)
    throw py::value_error("pos: expected a scale for int8, got none");
  const py::gil_scoped_release release;
  wxkernels::patch_embed(op, threads);
}

void patch_head(std::uintptr_t tokens, std::uintptr_t out, const std::string& dtype, Shape shape,
                std::tuple<int64_t, int64_t> patch, int64_t out_chans, const std::string& weight_dtype,
                std::uintptr_t weight, std::uintptr_t bias, int threads) {
  wxkernels::PatchHead op;
  int64_t dim;
  op.x = pointer<const void>(tokens);
  op.out = pointer<void>(out);
  op.dtype = floating_dtype_of(dtype);
  std::tie(op.batch, op.rows, op.columns, dim) = shape;
  std::tie(op.patch_height, op.patch_width) = patch;
  check_sizes({op.batch, op.rows, op.columns, out_chans});
  check_sizes({op.patch_height, op.patch_width}, 1);
  op.channels = out_chans;
  op.weights = weights_of(weight, weight_dtype, op.patch_height * op.patch_width * out_chans, dim, 0, bias);
  const py::gil_scoped_release release;
  wxkernels::patch_head(op, threads);
}

std::map<std::string, double> peak_flops(int threads) {
  const py::gil_scoped_release release;
  const wxkernels::PeakFlops peak = wxkernels::peak_flops(threads);
  std::map<std::string, double> flops = {{"float32", peak.float32}};
  if (peak.bfloat16 > 0) flops["bfloat16"] = peak.bfloat16;
  if (peak.int8 > 0) flops["int8"] = peak.int8;
  return flops;
}

double copy_rate(int64_t bytes, int threads) {
  check_sizes({bytes}, 1);
  const py::gil_scoped_release release;
  return wxkernels::copy_rate(static_cast<size_t>(bytes), threads);
}

py::dict build_info() {
  py::dict info;
  info["version"] = WX_VERSION;
  info["compiler"] = WX_COMPILER;
  info["isas"] = wxkernels::built_isas();
#ifdef WX_CUDA
  info["cuda"] = WX_CUDA;
  info["cuda_architectures"] = WX_CUDA_ARCHITECTURES;
  info["cutlass"] = WX_CUTLASS;
#else
  info["cuda"] = py::none();
  info["cuda_missing"] = WX_CUDA_MISSING;
#endif
  return info;
}

#ifdef WX_CUDA

void linear_int8_cuda(std::uintptr_t x, std::uintptr_t x_scale, int64_t x_scale_stride, int64_t M, int64_t N,
                      int64_t K, int64_t row_stride, std::uintptr_t weight, std::uintptr_t weight_scale,
                      std::uintptr_t bias, const std::string& activation, std::uintptr_t residual,
                      const std::string& residual_dtype, int64_t residual_stride, std::uintptr_t out,
                      const std::string& out_dtype, std::uintptr_t out_scale, int device,
                      std::uintptr_t stream) {
  wxkernels::LinearInt8Cuda op;
  op.x = pointer<const int8_t>(x);
  op.rows = M;
  op.row_stride = row_stride;
  op.x_scale = pointer<const float>(x_scale);
  op.x_scale_stride = x_scale_stride;
  op.weights = weights_of(weight, "int8", N, K, weight_scale, bias);
  op.activation = activation_of(activation);
  op.residual = pointer<const void>(residual);
  op.residual_dtype = dtype_of(residual_dtype);
  op.residual_stride = residual_stride;
  op.out = pointer<void>(out);
  op.out_dtype = dtype_of(out_dtype);
  op.out_scale = pointer<const float>(out_scale);
  const py::gil_scoped_release release;
  wxkernels::linear_int8_cuda(op, device, pointer<void>(stream));
}

void set_sizes(wxkernels::SpectralFilterCuda& op, const std::string& dtype, bool tf32, Shape shape,
               int64_t blocks, int64_t hidden_size, std::tuple<int64_t, int64_t> kept) {
  int64_t channels;
  op.dtype = floating_dtype_of(dtype);
  op.tf32 = tf32;
  std::tie(op.batch, op.height, op.width, channels) = shape;
  check_sizes({blocks}, 1);
  op.blocks = blocks;
  op.block_size = channels / blocks;
  op.hidden_size = hidden_size;
  std::tie(op.rows, op.columns) = kept;
}

void spectral_filter_cuda(std::uintptr_t x, std::uintptr_t out, const std::string& dtype, bool tf32,
                          Shape shape, Shape strides, int64_t blocks, int64_t hidden_size,
                          std::tuple<int64_t, int64_t> kept, std::uintptr_t forward_width,
                          std::uintptr_t inverse_width, std::uintptr_t forward_height,
                          std::uintptr_t inverse_height, std::uintptr_t w1, std::uintptr_t b1,
                          std::uintptr_t w2, std::uintptr_t b2, float threshold, std::uintptr_t norm_weight,
                          std::uintptr_t norm_bias, float eps, int64_t samples, std::uintptr_t spectrum,
                          std::uintptr_t moments, int device, std::uintptr_t stream) {
  wxkernels::SpectralFilterCuda op;
  set_sizes(op, dtype, tf32, shape, blocks, hidden_size, kept);
  op.x = pointer<const void>(x);
  op.out = pointer<void>(out);
  int64_t stride_channel;
  std::tie(op.stride_batch, op.stride_height, op.stride_width, stride_channel) = strides;
  op.forward_width = pointer<const void>(forward_width);
  op.inverse_width = pointer<const void>(inverse_width);
  op.forward_height = pointer<const void>(forward_height);
  op.inverse_height = pointer<const void>(inverse_height);
  op.w1 = pointer<const void>(w1);
  op.b1 = pointer<const float>(b1);
  op.w2 = pointer<const void>(w2);
  op.b2 = pointer<const float>(b2);
  op.threshold = threshold;
  op.norm_weight = pointer<const float>(norm_weight);
  op.norm_bias = pointer<const float>(norm_bias);
  op.eps = eps;
  op.samples = samples;
  op.spectrum = pointer<void>(spectrum);
  op.moments = pointer<float>(moments);
  if (stride_channel != 1)
    throw py::value_error("strides: expected channel stride 1, got " + std::to_string(stride_channel));
  const py::gil_scoped_release release;
  wxkernels::spectral_filter_cuda(op, device, pointer<void>(stream));
}

std::string spectral_filter_cuda_refusal(const std::string& dtype, bool tf32, Shape shape, int64_t blocks,
                                         int64_t hidden_size, std::tuple<int64_t, int64_t> kept, int device) {
  wxkernels::SpectralFilterCuda op = {};
  set_sizes(op, dtype, tf32, shape, blocks, hidden_size, kept);
  return wxkernels::spectral_filter_cuda_refusal(op, device);
}

#endif

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled kernels of wxkernels: addresses, sizes and strides in, nothing of PyTorch.";
  m.attr("interface") = kInterface;
  m.def("spectral_filter", &spectral_filter, py::arg("x"), py::arg("out"), py::arg("dtype"), py::arg("shape"),
        py::arg("strides"), py::arg("blocks"), py::arg("hidden_size"), py::arg("w1"), py::arg("b1"),
        py::arg("w2"), py::arg("b2"), py::arg("threshold"), py::arg("kept"), py::arg("threads"),
        py::arg("norm_weight") = 0, py::arg("norm_bias") = 0, py::arg("eps") = 0.0f, py::arg("bf16") = false);
  m.def("layer_norm", &layer_norm, py::arg("x"), py::arg("out"), py::arg("scale"), py::arg("dtype"),
        py::arg("rows"), py::arg("channels"), py::arg("row_stride"), py::arg("weight"), py::arg("bias"),
        py::arg("eps"), py::arg("threads"));
  m.def("quantize_rows", &quantize_rows, py::arg("x"), py::arg("out"), py::arg("scale"), py::arg("dtype"),
        py::arg("rows"), py::arg("channels"), py::arg("row_stride"), py::arg("threads"));
  m.def("linear_int8", &linear_int8, py::arg("x"), py::arg("x_dtype"), py::arg("x_scale"),
        py::arg("x_scale_stride"), py::arg("M"), py::arg("N"), py::arg("K"), py::arg("row_stride"),
        py::arg("weight"), py::arg("weight_scale"), py::arg("bias"), py::arg("activation"),
        py::arg("residual"), py::arg("residual_dtype"), py::arg("residual_stride"), py::arg("out"),
        py::arg("out_dtype"), py::arg("out_scale"), py::arg("threads"));
  m.def("mlp", &mlp, py::arg("x"), py::arg("out"), py::arg("dtype"), py::arg("rows"), py::arg("channels"),
        py::arg("hidden"), py::arg("row_stride"), py::arg("norm_weight"), py::arg("norm_bias"),
        py::arg("eps"), py::arg("weight_dtype"), py::arg("fc1_weight"), py::arg("fc1_scale"),
        py::arg("fc1_bias"), py::arg("fc2_weight"), py::arg("fc2_scale"), py::arg("fc2_bias"),
        py::arg("hidden_scale"), py::arg("hidden_offset"), py::arg("activation"), py::arg("threads"));
  m.def("patch_embed", &patch_embed, py::arg("x"), py::arg("out"), py::arg("dtype"), py::arg("shape"),
        py::arg("patch"), py::arg("dim"), py::arg("weight_dtype"), py::arg("weight"), py::arg("bias"),
        py::arg("pos"), py::arg("pos_dtype"), py::arg("pos_scale"), py::arg("threads"));
  m.def("patch_head", &patch_head, py::arg("tokens"), py::arg("out"), py::arg("dtype"), py::arg("shape"),
        py::arg("patch"), py::arg("out_chans"), py::arg("weight_dtype"), py::arg("weight"), py::arg("bias"),
        py::arg("threads"));
  m.def("isa", &wxkernels::isa, "The instruction set in force.");
  m.def("set_isa", &wxkernels::set_isa, py::arg("name"), "ValueError where it does not run here.");
  m.def("isas", &wxkernels::runnable_isas, "Instruction sets that were built and run here, lowest first.");
  m.def("peak_flops", &peak_flops, py::arg("threads"), "FLOP/s on registers alone, by dtype.");
  m.def("copy_rate", &copy_rate, py::arg("bytes"), py::arg("threads"),
        "Bytes/s, read and written, of a copy that passes the caches by.");
  m.def("build_info", &build_info,
        "What was built: version, compiler, isas; cuda (nvcc's version), cuda_architectures, cutlass, or "
        "cuda None and "
        "cuda_missing, the reason.");
#ifdef WX_CUDA
  m.def("linear_int8_cuda", &linear_int8_cuda, py::arg("x"), py::arg("x_scale"), py::arg("x_scale_stride"),
        py::arg("M"), py::arg("N"), py::arg("K"), py::arg("row_stride"), py::arg("weight"),
        py::arg("weight_scale"), py::arg("bias"), py::arg("activation"), py::arg("residual"),
        py::arg("residual_dtype"), py::arg("residual_stride"), py::arg("out"), py::arg("out_dtype"),
        py::arg("out_scale"), py::arg("device"), py::arg("stream"));
  m.def("linear_int8_cuda_refusal", &wxkernels::linear_int8_cuda_refusal, py::arg("device"),
        "Why this build has no kernel for a device; empty where it has.");
  m.def("spectral_filter_cuda", &spectral_filter_cuda, py::arg("x"), py::arg("out"), py::arg("dtype"),
        py::arg("tf32"), py::arg("shape"), py::arg("strides"), py::arg("blocks"), py::arg("hidden_size"),
        py::arg("kept"), py::arg("forward_width"), py::arg("inverse_width"), py::arg("forward_height"),
        py::arg("inverse_height"), py::arg("w1"), py::arg("b1"), py::arg("w2"), py::arg("b2"),
        py::arg("threshold"), py::arg("norm_weight"), py::arg("norm_bias"), py::arg("eps"),
        py::arg("samples"), py::arg("spectrum"), py::arg("moments"), py::arg("device"), py::arg("stream"));
  m.def("spectral_filter_cuda_refusal", &spectral_filter_cuda_refusal, py::arg("dtype"), py::arg("tf32"),
        py::arg("shape"), py::arg("blocks"), py::arg("hidden_size"), py::arg("kept"), py::arg("device"),
        "Why this build or a device cannot run a filter of these sizes; empty where it can.");
#endif
}
