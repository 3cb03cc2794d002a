// From the sums that a thread holds of a tile to octets of a row. CPU code too, for the tests.
#pragma once

#include <cute/tensor.hpp>

#include "cuda/epilogue.h"

namespace wxkernels::cuda {

// A thread's sums, or their places in the tile, as CuTe has them: column c of a pair, half h of 16 rows,
// block m of rows, octet o of columns. After wgmma it is ((c, h, o), m, 1), after mma.sync ((c, h), m, o).
template <class Tensor>
struct Order {
  using Shape = cute::remove_cvref_t<decltype(cute::declval<Tensor>().shape())>;
  static constexpr bool kWgmma = decltype(cute::rank<0>(Shape{}))::value == 3;
  static constexpr int kBlocks = decltype(cute::size<1>(Shape{}))::value;
  static constexpr int kOctets = [] {
    if constexpr (kWgmma)
      return decltype(cute::size<0, 2>(Shape{}))::value;
    else
      return decltype(cute::size<2>(Shape{}))::value;
  }();
  static_assert(decltype(cute::size<0, 0>(Shape{}))::value == 2 &&
                decltype(cute::size<0, 1>(Shape{}))::value == 2);
  static_assert(decltype(cute::size(Shape{}))::value == 4 * kBlocks * kOctets && kOctets % 4 == 0);

  CUTE_HOST_DEVICE static auto coordinate(int c, int h, int m, int o) {
    if constexpr (kWgmma)
      return cute::make_coord(cute::make_coord(c, h, o), m, 0);
    else
      return cute::make_coord(cute::make_coord(c, h), m, o);
  }
};

// Places (row, column) in the tile of the sums of a thread.
template <class TiledMma, class Tile>
CUTE_HOST_DEVICE auto places(TiledMma mma, Tile tile, int thread) {
  return mma.get_thread_slice(thread).partition_C(cute::make_identity_tensor(cute::take<0, 2>(tile)));
}

// One row (h, m) of octets o ... o + 3: columns 2q, 2q + 1 of each are here, of lane q of a quad.
template <class Sums, class V>
CUTE_HOST_DEVICE void gather(const Sums& sums, int h, int m, int o, V (&a)[kOctet]) {
  CUTE_UNROLL
  for (int i = 0; i < kOctet; ++i) a[i] = sums(Order<Sums>::coordinate(i % 2, h, m, o + i / 2));
}

// The first column of octet o + q, which lane q of a quad gets.
template <class Places>
CUTE_HOST_DEVICE int octet_column(const Places& places, int o, int q) {
  const int first = cute::get<1>(places(Order<Places>::coordinate(0, 0, 0, o)));
  const int next = cute::get<1>(places(Order<Places>::coordinate(0, 0, 0, o + 1)));
  return first - 2 * q + q * (next - first);
}

template <class Places>
CUTE_HOST_DEVICE int row_of(const Places& places, int h, int m) {
  return cute::get<0>(places(Order<Places>::coordinate(0, h, m, 0)));
}

struct Lane {
  int q;  // in its quad
  template <class V>
  CUTE_DEVICE V pick(int bit, V set, V clear) const {
    return q & bit ? set : clear;
  }
  template <class V>
  CUTE_DEVICE V swap(int bit, V v) const {
    return __shfl_xor_sync(0xffffffff, v, bit);
  }
};

// The epilogue of a tile whose first place is (first_row, first_column), on all threads of the tiled product.
template <class Sums, class TiledMma, class Tile>
CUTE_DEVICE void finish_tile(const LinearInt8Cuda& op, const Sums& sums, TiledMma mma, Tile tile,
                             int64_t first_row, int64_t first_column, int thread) {
  const auto where = places(mma, tile, thread);
  const Lane lane{thread % 4};
  const float steps = steps_per_unit(op);
  CUTE_UNROLL
  for (int o = 0; o < Order<Sums>::kOctets; o += 4) {
    const int64_t column = first_column + octet_column(where, o, lane.q);
    const bool inside = column < op.weights.outputs;
    const Columns columns(op.weights, inside ? column : 0);
    CUTE_UNROLL
    for (int i = 0; i < 2 * Order<Sums>::kBlocks; ++i) {
      const int h = i % 2, m = i / 2;
      const int64_t row = first_row + row_of(where, h, m);
      int a[kOctet];
      gather(sums, h, m, o, a);
      transpose(lane, a);
      if (inside && row < op.rows) finish(op, steps, row, column, columns, a);
    }
  }
}

}  // namespace wxkernels::cuda
