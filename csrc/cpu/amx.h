// The tile registers of AMX: eight of 16 rows of 64 bytes. A product takes 16 rows of 16 words (of four int8
// or two bfloat16) by 16 words of 16 columns, and adds to 16 x 16 sums. Its rows do not know of each other.
#pragma once

#include "cpu/simd.h"

#if defined(WX_AMX)

namespace wxkernels::WX_ISA {

constexpr int kTileSide = 16;

// asm, for two reasons: the intrinsics of GCC 12 do not say that they read or write memory, and any compiler
// takes this whose assembler knows the instructions.
template <int t>
WX_INLINE void load_tile(const void* from, int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(t) : "memory");
}
template <int t>
WX_INLINE void store_tile(void* to, int64_t stride_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(t) : "memory");
}
template <int t>
WX_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(t));
}

// sums += rows * columns
struct Int8Tiles {
  template <int sums, int rows, int columns>
  WX_INLINE static void multiply() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(rows), "i"(columns));
  }
};
struct Bfloat16Tiles {
  template <int sums, int rows, int columns>
  WX_INLINE static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(rows), "i"(columns));
  }
};

// While one lives the tiles of this thread are whole ones. A thread that has none in use is cheaper to
// switch.
class Tiles {
 public:
  Tiles() {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } shape = {};
    shape.palette = 1;
    for (int t = 0; t < 8; ++t) shape.row_bytes[t] = 4 * kTileSide, shape.rows[t] = kTileSide;
    asm volatile("ldtilecfg %0" ::"m"(shape));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

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
