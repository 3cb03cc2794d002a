#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "wxkernels/cpu.h"
#include "wxkernels/spectral_filter.h"

namespace py = pybind11;

namespace {

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

wxkernels::Dtype dtype_of(const std::string& name) {
  if (name == "float32") return wxkernels::Dtype::float32;
  if (name == "bfloat16") return wxkernels::Dtype::bfloat16;
  if (name == "float16") return wxkernels::Dtype::float16;
  throw py::value_error("dtype: expected float32, bfloat16 or float16, got " + name);
}

using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;

void spectral_filter(std::uintptr_t x, std::uintptr_t out, const std::string& dtype, Shape shape,
                     Shape strides, int64_t blocks, int64_t hidden_size, std::uintptr_t w1, std::uintptr_t b1,
                     std::uintptr_t w2, std::uintptr_t b2, float threshold,
                     std::tuple<int64_t, int64_t, int64_t> kept, int threads) {
  wxkernels::SpectralFilter op;
  int64_t channels, stride_channel;
  op.x = pointer<const void>(x);
  op.out = pointer<void>(out);
  op.dtype = dtype_of(dtype);
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

std::map<std::string, double> peak_flops(int threads) {
  const py::gil_scoped_release release;
  const wxkernels::PeakFlops peak = wxkernels::peak_flops(threads);
  std::map<std::string, double> flops = {{"float32", peak.float32}};
  if (peak.bfloat16 > 0) flops["bfloat16"] = peak.bfloat16;
  return flops;
}

py::dict build_info() {
  py::dict info;
  info["version"] = WX_VERSION;
  info["compiler"] = WX_COMPILER;
  info["isas"] = wxkernels::built_isas();
  info["cuda"] = *WX_CUDA ? py::object(py::str(WX_CUDA)) : py::none();
  return info;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled kernels of wxkernels: addresses, sizes and strides in, nothing of PyTorch.";
  m.def("spectral_filter", &spectral_filter, py::arg("x"), py::arg("out"), py::arg("dtype"), py::arg("shape"),
        py::arg("strides"), py::arg("blocks"), py::arg("hidden_size"), py::arg("w1"), py::arg("b1"),
        py::arg("w2"), py::arg("b2"), py::arg("threshold"), py::arg("kept"), py::arg("threads"));
  m.def("isa", &wxkernels::isa, "The instruction set in force.");
  m.def("set_isa", &wxkernels::set_isa, py::arg("name"), "ValueError where it does not run here.");
  m.def("isas", &wxkernels::runnable_isas, "Instruction sets that were built and run here, lowest first.");
  m.def("peak_flops", &peak_flops, py::arg("threads"), "FLOP/s on registers alone, by dtype.");
  m.def("build_info", &build_info, "What was built: version, compiler, isas, cuda (None without).");
}
