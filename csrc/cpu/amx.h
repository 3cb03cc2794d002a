// Matrix products on tile registers.
#pragma once

#if defined(WX_AMX)

#include "cpu/tiles.h"

namespace wxkernels::WX_ISA {

constexpr int kRowTiles = 2;  // beside three tiles of columns: six of sums, one of rows, one of columns

// to = from + kRowTiles tiles of rows of `words` words (a multiple of kTileSide) times a run of a panel of
// `vecs` vectors of columns; strides in words (from_stride 0: the same row for all), kTileVecs vectors in
// `to`. Neither fetching what follows nor finishing the tile before in between made it faster.
template <class Product, int vecs>
__attribute__((noinline)) void product_of_tiles(const uint32_t* a, int64_t a_stride, const uint32_t* b,
                                                int64_t words, const float* from, int64_t from_stride,
                                                float* to) {
  constexpr int kRowsTile = 6, kColumnsTile = 7, to_stride = kTileVecs * kLanes;
  unroll<kRowTiles>([&](auto row) WX_LAMBDA {
    unroll<vecs>([&](auto n) WX_LAMBDA {
      load_tile<row * vecs + n>(from + row * kTileSide * from_stride + n * kLanes, 4 * from_stride);
    });
  });
  for (int64_t k = 0; k < words; k += kTileSide) {
    // There and back through the columns: those of the turn are loaded once.
    unroll<kRowTiles>([&](auto row) WX_LAMBDA {
      load_tile<kRowsTile>(a + row * kTileSide * a_stride, 4 * a_stride);
      unroll<vecs>([&](auto i) WX_LAMBDA {
        constexpr int n = row % 2 == 0 ? i : vecs - 1 - i;
        if constexpr (row == 0 || i > 0) load_tile<kColumnsTile>(b + n * kLanes, 4 * vecs * kLanes);
        Product::template multiply<row * vecs + n, kRowsTile, kColumnsTile>();
      });
    });
    a += kTileSide;
    b += kTileSide * vecs * kLanes;
  }
  unroll<kRowTiles>([&](auto row) WX_LAMBDA {
    unroll<vecs>([&](auto n) WX_LAMBDA {
      store_tile<row * vecs + n>(to + row * kTileSide * to_stride + n * kLanes, 4 * to_stride);
    });
  });
}

}  // namespace wxkernels::WX_ISA

#endif
