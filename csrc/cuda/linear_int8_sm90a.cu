#include <cutlass/device_kernel.h>

#include <cutlass/cluster_launch.hpp>

#include "cuda/linear_int8.h"
#include "cuda/product_sm90a.h"

namespace wxkernels::cuda {

using sm90a::Kernel;

void linear_int8_sm90a(const LinearInt8Cuda& op, int device, cudaStream_t stream) {
  const int M = static_cast<int>(op.rows), N = static_cast<int>(op.weights.outputs);
  const int K = static_cast<int>(op.weights.inputs);
  const Kernel::Arguments arguments = {
      cutlass::gemm::GemmUniversalMode::kGemm,
      {M, N, K, 1},
      {op.x,
       {op.row_stride, {}, 0},
       static_cast<const int8_t*>(op.weights.weight),
       {op.weights.inputs, {}, 0}},
      op,
      cutlass::KernelHardwareInfo::make_kernel_hardware_info<Kernel>(device),
  };
  if (!Kernel::can_implement(arguments) || Kernel::get_workspace_size(arguments) != 0)
    throw std::runtime_error("linear_int8 on CUDA: CUTLASS does not take this shape");
  Kernel::Params params = Kernel::to_underlying_arguments(arguments, nullptr);
  const auto kernel = cutlass::device_kernel<Kernel>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::SharedStorageSize));
  const dim3 cluster(cute::size<0>(sm90a::Cluster{}), cute::size<1>(sm90a::Cluster{}), 1);
  void* of_kernel[] = {&params};
  const auto launched = cutlass::ClusterLauncher::launch(
      Kernel::get_grid_shape(params), cluster, Kernel::get_block_shape(), Kernel::SharedStorageSize, stream,
      reinterpret_cast<const void*>(kernel), of_kernel);
  check(cudaGetLastError());
  if (launched != cutlass::Status::kSuccess)
    throw std::runtime_error("linear_int8 on CUDA: CUTLASS did not launch");
}

bool has_sm90a() {
  cudaFuncAttributes attributes;
  const bool has = cudaFuncGetAttributes(&attributes, cutlass::device_kernel<Kernel>) == cudaSuccess;
  cudaGetLastError();  // forget it
  return has;
}

}  // namespace wxkernels::cuda
