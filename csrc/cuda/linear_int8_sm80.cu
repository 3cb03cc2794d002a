#include "cuda/linear_int8.h"
#include "cuda/product_sm80.h"
#include "cuda/tile.h"

namespace wxkernels::cuda {
namespace {

using namespace cute;

__global__ void __launch_bounds__(sm80::kThreads, sm80::kBlocksOfMultiprocessor)
    multiply(const __grid_constant__ LinearInt8Cuda op, int column_tiles) {
  extern __shared__ __align__(128) char shared[];
  const sm80::Tile tile;
  // Neighbouring blocks share rows of x; the weight is small and stays in L2.
  const int row_tile = blockIdx.x / column_tiles, column_tile = blockIdx.x % column_tiles;
  const int M = static_cast<int>(op.rows), N = static_cast<int>(op.weights.outputs);
  const int K = static_cast<int>(op.weights.inputs);
  const Tensor x = make_tensor(make_gmem_ptr(op.x), make_shape(M, K), make_stride(op.row_stride, _1{}));
  const Tensor w = make_tensor(make_gmem_ptr(static_cast<const int8_t*>(op.weights.weight)), make_shape(N, K),
                               make_stride(op.weights.inputs, _1{}));
  const auto corner = make_coord(row_tile, column_tile, _);
  const Tensor x_tiles = local_tile(x, tile, corner, Step<_1, X, _1>{});  // (rows, k, tiles of K)
  const Tensor w_tiles = local_tile(w, tile, corner, Step<X, _1, _1>{});
  const int k_tiles = size<2>(x_tiles);
  const auto rest =
      make_tuple(M - row_tile * size<0>(tile), N - column_tile * size<1>(tile), K - k_tiles * size<2>(tile));

  sm80::TiledMma mma;
  Tensor sums = partition_fragment_C(mma, take<0, 2>(tile));
  clear(sums);
  sm80::Mainloop()(sums, x_tiles, w_tiles, sums, make_coord_iterator(shape<2>(x_tiles)), k_tiles, rest,
                   threadIdx.x, shared);
  finish_tile(op, sums, mma, tile, row_tile * int64_t{size<0>(tile)}, column_tile * int64_t{size<1>(tile)},
              threadIdx.x);
}

}  // namespace

void linear_int8_sm80(const LinearInt8Cuda& op, int /*device*/, cudaStream_t stream) {
  const sm80::Tile tile;
  const int64_t row_tiles = ceil_div(op.rows, int64_t{size<0>(tile)});
  const int64_t column_tiles = ceil_div(op.weights.outputs, int64_t{size<1>(tile)});
  check(cudaFuncSetAttribute(multiply, cudaFuncAttributeMaxDynamicSharedMemorySize, sm80::kSharedBytes));
  multiply<<<static_cast<unsigned>(row_tiles * column_tiles), sm80::kThreads, sm80::kSharedBytes, stream>>>(
      op, static_cast<int>(column_tiles));
  check(cudaGetLastError());
}

bool has_sm80() {
  cudaFuncAttributes attributes;
  const bool has = cudaFuncGetAttributes(&attributes, multiply) == cudaSuccess;
  cudaGetLastError();  // forget it
  return has;
}

}  // namespace wxkernels::cuda
