// What rows and weights are multiplied in: float32, bfloat16 or int8, as the instruction set has it.
#pragma once

#include "cpu/amx.h"
#include "cpu/simd.h"

namespace wxkernels::WX_ISA {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What an operand is: `word`, the unit that is broadcast; kDepth inputs to a word; `sum`, lanes of results;
// `element`, what a row consists of. A row has kWords words or a multiple of them, a register tile kRows
// rows, and a block of rows at most kBlockRows: few enough that they and their hidden layer stay in L2 beside
// a panel of weights, many enough that the weights, which come from L3 once a block, cost nothing. kRun words
// are summed in registers before the sum joins the total: few enough that the weights of a run (48 columns of
// AVX-512: 36 KB) stay near for all rows of a block.

struct InVectors {
  static constexpr int kWords = 1;
  static constexpr int kRows = kTileRows;
  static constexpr int kBlockRows = 72 / kTileRows * kTileRows;
  static constexpr bool kTiles = false;
  struct InUse {};
};

#if defined(WX_AMX)
struct InTiles {
  static constexpr int kWords = kTileSide;
  static constexpr int kRows = kRowTiles * kTileSide;
  // An int8 MLP of FourCastNet took 122, 114, 112 and 113 ms with 128, 192, 256 and 320 rows on one thread,
  // one in bfloat16 190, 182, 187 and 196.
  static constexpr int kBlockRows = 192;
  static constexpr bool kTiles = true;
  using InUse = Tiles;
};
#else
using InTiles = InVectors;
#endif

struct Float32 : InVectors {
  using word = float;
  using element = float;
  using sum = vec;
  static constexpr int kDepth = 1;
  static constexpr int kRun =
      128;  // one long sum would round more: over 3072 inputs four times as much as MKL
  static constexpr bool kQuantised = false;

  WX_INLINE static sum zero() { return set1(0.0f); }
  WX_INLINE static vec broadcast(const word* p) { return set1(*p); }
  WX_INLINE static vec weights(const word* p) { return load(p); }
  WX_INLINE static void step(sum& s, vec a, vec w) { s = fma(a, w, s); }
  WX_INLINE static sum load_sum(const void* p) { return load(static_cast<const float*>(p)); }
  WX_INLINE static void store_sum(void* p, sum s) { store(static_cast<float*>(p), s); }
  WX_INLINE static vec result(sum s) { return s; }
  WX_INLINE static void store_row(element* p, vec a) { store(p, a); }

  static word pack(const float* w, int64_t) { return *w; }
  static word pack(const bf16* w, int64_t) { return bits_float(static_cast<uint32_t>(w->bits) << 16); }
};

#if defined(__AVX512BF16__)

struct Bfloat16 : InTiles {
  using word = uint32_t;
  using element = bf16;
  using sum = vec;
  static constexpr int kDepth = 2;
  static constexpr int kRun = 192;
  static constexpr bool kQuantised = false;

  WX_INLINE static sum zero() { return set1(0.0f); }
  WX_INLINE static ints broadcast(const word* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
  WX_INLINE static ints weights(const word* p) { return _mm512_load_si512(p); }
  WX_INLINE static void step(sum& s, ints a, ints w) { s = dot(s, a, w); }
#if defined(WX_AMX)
  using Product = Bfloat16Tiles;
#endif
  WX_INLINE static sum load_sum(const void* p) { return load(static_cast<const float*>(p)); }
  WX_INLINE static void store_sum(void* p, sum s) { store(static_cast<float*>(p), s); }
  WX_INLINE static vec result(sum s) { return s; }
  WX_INLINE static void store_row(element* p, vec a) { store(p, a, Lanes(kLanes)); }

  static word pack(const bf16* w, int64_t inputs) {
    return w[0].bits | (inputs > 1 ? static_cast<uint32_t>(w[1].bits) << 16 : 0);
  }
};

#else

// Rounded as it would be, multiplied in float32: the instruction set has no bfloat16 product.
struct Bfloat16 : Float32 {
  WX_INLINE static void store_row(element* p, vec a) {
    bf16 rounded[kLanes];
    wxkernels::WX_ISA::store(rounded, a, Lanes(kLanes));
    wxkernels::WX_ISA::store(p, wxkernels::WX_ISA::load(rounded, Lanes(kLanes)));
  }
};

#endif

#if defined(__AVX512VNNI__)

// The instruction on vectors multiplies unsigned rows by signed weights: rows are stored as q + 128, and the
// sums start at -128 (and what rows are offset by) times the sum of a column's weights. That on tiles takes
// signed rows.
struct Int8 : InTiles {
  using word = uint32_t;
  using element = uint8_t;
  typedef int32_t sum __attribute__((vector_size(64)));
  static constexpr int kDepth = 4;
  static constexpr int kRun = 192;
  static constexpr int kOffset = kTiles ? 0 : 128;
  static constexpr bool kQuantised = true;

  WX_INLINE static sum zero() { return sum{}; }
  WX_INLINE static sum broadcast(const word* p) { return (sum)_mm512_set1_epi32(static_cast<int>(*p)); }
  WX_INLINE static sum weights(const word* p) { return *reinterpret_cast<const sum*>(p); }
  // Not _mm512_dpbusd_epi32: GCC 12 copies the sum before and after each one, and spills: half the speed.
  WX_INLINE static void step(sum& s, sum a, sum w) { asm("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(a), "v"(w)); }
#if defined(WX_AMX)
  using Product = Int8Tiles;
#endif
  WX_INLINE static sum load_sum(const void* p) { return *static_cast<const sum*>(p); }
  WX_INLINE static void store_sum(void* p, sum s) { *static_cast<sum*>(p) = s; }
  WX_INLINE static vec result(sum s) { return __builtin_convertvector(s, vec); }
  WX_INLINE static void store_row(element* p, vec a) {  // a in [-127, 127], rounded half to even here
    const ints q = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(kOffset));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  }

  static word pack(const int8_t* w, int64_t inputs) {
    word bytes = 0;
    if (inputs >= kDepth) {
      std::memcpy(&bytes, w, kDepth);
    } else {
      std::memcpy(&bytes, w, static_cast<size_t>(inputs));
    }
    return bytes;
  }
};

#elif defined(__AVX2__)

// Products of 16-bit pairs are exact; those of bytes saturate.
struct Int8 : InVectors {
  using word = uint32_t;
  using element = int16_t;
  typedef int32_t sum __attribute__((vector_size(32)));
  static constexpr int kDepth = 2;
  static constexpr int kRun = 192;
  static constexpr int kOffset = 0;
  static constexpr bool kQuantised = true;

  WX_INLINE static sum zero() { return sum{}; }
  WX_INLINE static __m256i broadcast(const word* p) { return _mm256_set1_epi32(static_cast<int>(*p)); }
  WX_INLINE static __m256i weights(const word* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  }
  WX_INLINE static void step(sum& s, __m256i a, __m256i w) { s += (sum)_mm256_madd_epi16(a, w); }
  WX_INLINE static sum load_sum(const void* p) { return *static_cast<const sum*>(p); }
  WX_INLINE static void store_sum(void* p, sum s) { *static_cast<sum*>(p) = s; }
  WX_INLINE static vec result(sum s) { return __builtin_convertvector(s, vec); }
  WX_INLINE static void store_row(element* p, vec a) {
    const __m256i q = _mm256_cvtps_epi32(a);
    const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pairs);
  }

  static word pack(const int8_t* w, int64_t inputs) {
    return static_cast<uint16_t>(w[0]) |
           (inputs > 1 ? static_cast<uint32_t>(static_cast<uint16_t>(w[1])) << 16 : 0);
  }
};

#else

struct Int8 : InVectors {
  typedef int32_t sum __attribute__((vector_size(16)));
  using word = int32_t;
  using element = int32_t;
  static constexpr int kDepth = 1;
  static constexpr int kRun = 192;
  static constexpr int kOffset = 0;
  static constexpr bool kQuantised = true;

  WX_INLINE static sum zero() { return sum{}; }
  WX_INLINE static sum broadcast(const word* p) { return sum{*p, *p, *p, *p}; }
  WX_INLINE static sum weights(const word* p) { return *reinterpret_cast<const sum*>(p); }
  WX_INLINE static void step(sum& s, sum a, sum w) { s = s + a * w; }
  WX_INLINE static sum load_sum(const void* p) { return *static_cast<const sum*>(p); }
  WX_INLINE static void store_sum(void* p, sum s) { *static_cast<sum*>(p) = s; }
  WX_INLINE static vec result(sum s) { return __builtin_convertvector(s, vec); }
  WX_INLINE static void store_row(element* p, vec a) {
    // Adding 1.5 * 2^23 rounds half to even at the unit.
    const vec shift = set1(12582912.0f);
    *reinterpret_cast<sum*>(p) = __builtin_convertvector((a + shift) - shift, sum);
  }

  static word pack(const int8_t* w, int64_t) { return *w; }
};

#endif

// A row of signed bytes as the operand has it: in place from the front of the row, so from its end.
template <class Operand>
inline void widen_bytes(typename Operand::element* row, int64_t inputs) {
  if constexpr (sizeof(typename Operand::element) > 1) {
    const auto* bytes = reinterpret_cast<const int8_t*>(row);
    for (int64_t k = inputs - 1; k >= 0; --k) row[k] = bytes[k];
  } else {
    (void)row, (void)inputs;
  }
}

// f(an operand of the dtype of the weights)
template <class F>
WX_INLINE void with_float_operand(Dtype dtype, const F& f) {
  if (dtype == Dtype::bfloat16) {
    f(Bfloat16{});
  } else {
    f(Float32{});
  }
}

template <class F>
WX_INLINE void with_operand(Dtype dtype, const F& f) {
  if (dtype == Dtype::int8) {
    f(Int8{});
  } else {
    with_float_operand(dtype, f);
  }
}

template <class Operand>
constexpr int64_t words_of(int64_t inputs) {
  const int64_t words = inputs > 0 ? ceil_div(inputs, Operand::kDepth) : 1;
  return ceil_div(words, Operand::kWords) * Operand::kWords;
}

// Words from row to row. Rows a multiple of 4 KiB apart would all lie in the same few sets of L1.
template <class Operand>
constexpr int64_t row_stride(int64_t inputs) {
  return ceil_div(words_of<Operand>(inputs), 16) * 16 + 16;
}

}  // namespace wxkernels::WX_ISA
