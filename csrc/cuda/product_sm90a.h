// The int8 product of linear_int8 for sm_90a, by CUTLASS: TMA, wgmma, two groups of four warps in turn.
#pragma once

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "cuda/tile.h"

namespace wxkernels::cuda::sm90a {

using namespace cute;

using RowStride = Stride<int64_t, _1, int64_t>;  // of (row, K, 1) and (row, column, 1)

// CUTLASS's slot for an epilogue, filled with ours. It knows C and D, operands that it does not see here.
struct Epilogue {
  using ElementAccumulator = int32_t;
  using ElementC = int8_t;
  using ElementD = int8_t;
  using StrideC = RowStride;
  using StrideD = RowStride;
  struct SharedStorage {};
  using Arguments = LinearInt8Cuda;
  using Params = LinearInt8Cuda;

  template <class Problem>
  static Params to_underlying_arguments(const Problem&, const Arguments& op, void*) {
    return op;
  }
  template <class Problem>
  static size_t get_workspace_size(const Problem&, const Arguments&) {
    return 0;
  }
  template <class... Any>
  static cutlass::Status initialize_workspace(const Any&...) {
    return cutlass::Status::kSuccess;
  }
  template <class Problem>
  static bool can_implement(const Problem&, const Arguments&) {
    return true;
  }

  CUTE_HOST_DEVICE explicit Epilogue(const Params& params) : op(params) {}

  template <class Problem, class Tile, class Corner, class Sums, class TiledMma, class Rest>
  CUTE_DEVICE void operator()(const Problem&, Tile tile, const Corner& corner, const Sums& sums, TiledMma mma,
                              const Rest&, int thread, char*) {
    finish_tile(op, sums, mma, tile, get<0>(corner) * int64_t{size<0>(Tile{})},
                get<1>(corner) * int64_t{size<1>(Tile{})}, thread);
  }

  const LinearInt8Cuda& op;  // in the kernel's parameters
};

// While one group of warps is in the epilogue, the other multiplies. Two blocks share a tile of the weight.
using Tile = Shape<_128, _128, _128>;
using Cluster = Shape<_2, _1, _1>;
using Mainloop = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, int8_t, RowStride, 16, int8_t, RowStride, 16,
    int32_t, Tile, Cluster, cutlass::gemm::collective::StageCountAutoCarveout<0>,
    cutlass::gemm::KernelTmaWarpSpecializedPingpong>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<
    Shape<int, int, int, int>, Mainloop,
    cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<Epilogue>,
    cutlass::gemm::PersistentScheduler>;
static_assert(Kernel::SharedStorageSize <= 227 << 10);

}  // namespace wxkernels::cuda::sm90a
