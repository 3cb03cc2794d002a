// The int8 product of linear_int8 for sm_80 and newer, by CUTLASS: cp.async in three stages, mma.sync.
#pragma once

#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/collective_mma.hpp>
#include <cutlass/gemm/dispatch_policy.hpp>

namespace wxkernels::cuda::sm80 {

using namespace cute;

// 48 KiB of shared memory and at most 255 registers of 128 threads: two blocks on a multiprocessor, on sm_86
// and sm_89 too, so that one multiplies while the other is in its epilogue.
using Tile = Shape<_128, _128, _64>;
constexpr int kStages = 3, kThreads = 128, kBlocksOfMultiprocessor = 2;

// Each warp has 16 rows of 64, and all columns: its octets are neighbours.
using TiledMma =
    TiledMMA<MMA_Atom<SM80_16x8x32_S32S8S8S32_TN>, Layout<Shape<_4, _1, _1>>, cute::Tile<_64, _16, _32>>;
static_assert(size(TiledMma{}) == kThreads);

// 64 bytes of K are four chunks of 16; exchanging them by the row keeps any eight rows that ldmatrix reads,
// and the eight chunks that a quarter of a warp writes, in different banks.
using SharedRows = decltype(composition(Swizzle<2, 4, 3>{}, Layout<Shape<_16, _64>, Stride<_64, _1>>{}));
using FromShared = Copy_Atom<SM75_U32x4_LDSM_N, int8_t>;
using FromGlobal =
    decltype(make_tiled_copy(Copy_Atom<SM80_CP_ASYNC_CACHEGLOBAL<uint128_t>, int8_t>{},
                             Layout<Shape<_32, _4>, Stride<_4, _1>>{}, Layout<Shape<_1, _16>>{}));

using RowStride = Stride<int64_t, _1, _0>;  // of (row, K, 1)
using Mainloop = cutlass::gemm::collective::CollectiveMma<
    cutlass::gemm::MainloopSm80CpAsync<kStages>, Tile, int8_t, RowStride, int8_t, RowStride, TiledMma,
    FromGlobal, SharedRows, FromShared, identity, FromGlobal, SharedRows, FromShared, identity>;
constexpr int kSharedBytes = sizeof(Mainloop::SharedStorage);
static_assert(kSharedBytes == 48 << 10);

}  // namespace wxkernels::cuda::sm80
