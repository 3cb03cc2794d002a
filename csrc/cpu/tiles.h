// The tile registers of AMX: eight of 16 rows of 64 bytes. A product takes 16 rows of 16 words (of four int8
// or two bfloat16) by 16 words of 16 columns, and adds to 16 x 16 sums. Its rows do not know of each other.
#pragma once

#include "cpu/simd.h"

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

}  // namespace wxkernels::WX_ISA
