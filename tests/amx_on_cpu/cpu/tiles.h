// csrc/cpu/tiles.h for processors without AMX: tiles are arrays, and hold NaNs before they are loaded.
#pragma once

#include "cpu/simd.h"

namespace wxkernels::WX_ISA {

constexpr int kTileSide = 16;

struct TileRegister {
  uint32_t word[kTileSide][kTileSide];
};
inline thread_local TileRegister tile_registers[8];
inline thread_local bool tiles_in_use = false;

class Tiles {
 public:
  Tiles() {
    tiles_in_use = true;
    std::memset(tile_registers, 0xff, sizeof tile_registers);
  }
  ~Tiles() { tiles_in_use = false; }
};

inline TileRegister& tile_register(int t) {
  if (!tiles_in_use) __builtin_trap();  // the processor would raise an exception
  return tile_registers[t];
}

template <int t>
inline void load_tile(const void* from, int64_t stride_bytes) {
  for (int row = 0; row < kTileSide; ++row)
    std::memcpy(tile_register(t).word[row], static_cast<const char*>(from) + row * stride_bytes, 64);
}
template <int t>
inline void store_tile(void* to, int64_t stride_bytes) {
  for (int row = 0; row < kTileSide; ++row)
    std::memcpy(static_cast<char*>(to) + row * stride_bytes, tile_register(t).word[row], 64);
}
template <int t>
inline void zero_tile() {
  tile_register(t) = {};
}

struct Int8Tiles {
  template <int sums, int rows, int columns>
  static void multiply() {
    for (int m = 0; m < kTileSide; ++m)
      for (int n = 0; n < kTileSide; ++n)
        for (int k = 0; k < kTileSide; ++k)
          for (int i = 0; i < 32; i += 8)
            tile_register(sums).word[m][n] +=
                static_cast<uint32_t>(static_cast<int8_t>(tile_register(rows).word[m][k] >> i) *
                                      static_cast<int8_t>(tile_register(columns).word[k][n] >> i));
  }
};

struct Bfloat16Tiles {
  template <int sums, int rows, int columns>
  static void multiply() {
    for (int m = 0; m < kTileSide; ++m)
      for (int n = 0; n < kTileSide; ++n)
        for (int k = 0; k < kTileSide; ++k) {
          const uint32_t a = tile_register(rows).word[m][k], b = tile_register(columns).word[k][n];
          uint32_t& sum = tile_register(sums).word[m][n];
          const float low = bits_float(a << 16) * bits_float(b << 16);
          const float high = bits_float(a & 0xffff0000) * bits_float(b & 0xffff0000);
          sum = float_bits(bits_float(sum) + low + high);
        }
  }
};

}  // namespace wxkernels::WX_ISA
