// Matrix products out = rows * weights^T tiled in registers: the operands in float32, bfloat16 or int8, the
// sums in float32 or int32. A block of rows goes through all weights while it is in the caches; the caller
// makes its rows (a LayerNorm, a quantisation, a gather of patches) and finishes each tile of float32 results
// in L1.
#pragma once

#include "cpu/gelu.h"
#include "cpu/operands.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "wxkernels/weights.h"

namespace wxkernels::WX_ISA {

constexpr int kPanelColumns = kTileVecs * kLanes;  // outputs that a pass over the rows makes

// The lanes of a vector of which `rest` values are left.
WX_INLINE Lanes lanes_of(int64_t rest) { return Lanes(static_cast<int>(rest < kLanes ? rest : kLanes)); }

WX_INLINE vec zero_nan(vec a) {
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
#elif defined(__AVX2__)
  return _mm256_and_ps(_mm256_cmp_ps(a, a, _CMP_ORD_Q), a);
#else
  return a == a ? a : set1(0.0f);
#endif
}

// Whole numbers in [-127, 127] and anything between, rounded half to even.
WX_INLINE void store_int8(int8_t* p, vec a, Lanes n) {
#if defined(__AVX512F__)
  _mm_mask_storeu_epi8(p, n.mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
#else
  // Adding 1.5 * 2^23 rounds at the unit.
  const vec shift = set1(12582912.0f);
  alignas(32) float rounded[kLanes];
  store(rounded, (a + shift) - shift);
  for (int i = 0; i < n.n; ++i) p[i] = static_cast<int8_t>(rounded[i]);
#endif
}

WX_INLINE vec load_int8(const int8_t* p, Lanes n) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(n.mask, p)));
#else
  alignas(32) float a[kLanes] = {};
  for (int i = 0; i < n.n; ++i) a[i] = p[i];
  return load(a);
#endif
}

// Packed weights: panel by panel (kPanelColumns columns, the last one in whole vectors), word by word the
// columns of the panel; then what the sum of each column starts from (bits of 0, which are 0.0f too, where
// nothing is corrected).
inline int64_t padded_columns(int64_t outputs) { return ceil_div(outputs, kLanes) * kLanes; }

template <class Operand>
inline size_t packed_floats(const Weights& w) {
  return static_cast<size_t>(padded_columns(w.outputs) * (words_of<Operand>(w.inputs) + 1));
}

inline int64_t panels_of(const Weights& w) { return ceil_div(w.outputs, kPanelColumns); }

#if defined(__AVX512F__)

// kLanes columns of whole words, and what their sums start from: -row_offset times the sum of their weights.
template <class Operand>
inline void pack_columns(const void* weight, int64_t column_bytes, int64_t words, int64_t width, float* to,
                         int32_t row_offset, int32_t* start) {
  const auto* from = static_cast<const char*>(weight);
  const ints lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const ints columns = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(column_bytes)));
  [[maybe_unused]] auto total = Operand::zero();
  for (int64_t k = 0; k < words; ++k, from += 4, to += width) {
    const ints word = _mm512_i32gather_epi32(columns, from, 1);
    _mm512_store_si512(to, word);
    if constexpr (Operand::kQuantised)
      Operand::step(total, (decltype(total))_mm512_set1_epi8(1), (decltype(total))word);
  }
  if constexpr (Operand::kQuantised) Operand::store_sum(start, total * -(Operand::kOffset + row_offset));
}

#endif

template <class Operand, class T>
inline void pack_panel_of(const Weights& w, int64_t panel, float* packed) {
  using word = typename Operand::word;
  constexpr int64_t kDepth = Operand::kDepth;
  const T* const weight = static_cast<const T*>(w.weight);
  const int64_t words = words_of<Operand>(w.inputs), first = panel * kPanelColumns;
  const int64_t all = padded_columns(w.outputs),
                width = all - first < kPanelColumns ? all - first : kPanelColumns;
  word* const to = reinterpret_cast<word*>(packed) + first * words;
  auto* const start = reinterpret_cast<int32_t*>(packed) + all * words + first;
  for (int64_t n = 0; n < width; ++n) start[n] = 0;
  const auto pack_words = [&](int64_t n, int64_t k0, int64_t stop) {
    const bool inside = first + n < w.outputs;
    const T* const column = weight + (inside ? (first + n) * w.inputs : 0);
    for (int64_t k = k0; k < stop; ++k) {
      const int64_t i = k * kDepth;
      to[k * width + n] = inside && i < w.inputs ? Operand::pack(column + i, w.inputs - i) : word{};
    }
    if constexpr (Operand::kQuantised) {
      const int32_t offset = Operand::kOffset + w.row_offset;
      if (offset != 0 && inside) {
        const int64_t last = stop * kDepth < w.inputs ? stop * kDepth : w.inputs;
        int32_t total = 0;
        for (int64_t i = k0 * kDepth; i < last; ++i) total += column[i];
        start[n] -= offset * total;
      }
    }
  };
  int64_t gathered = 0;  // columns that are packed but for a part of a word at their end
#if defined(__AVX512F__)
  const int64_t column_bytes = w.inputs * static_cast<int64_t>(sizeof(T)), whole = w.inputs / kDepth;
  if constexpr (sizeof(T) * kDepth == 4) {
    if (column_bytes < (int64_t{1} << 27)) {  // 15 columns within the reach of an int32
      for (; gathered + kLanes <= width && first + gathered + kLanes <= w.outputs; gathered += kLanes) {
        pack_columns<Operand>(weight + (first + gathered) * w.inputs, column_bytes, whole, width,
                              reinterpret_cast<float*>(to) + gathered, w.row_offset, start + gathered);
        for (int64_t n = gathered; n < gathered + kLanes; ++n) pack_words(n, whole, words);
      }
    }
  }
#endif
  constexpr int64_t kLine = 64 / sizeof(word);
  for (int64_t k = 0; k < words; k += kLine)
    for (int64_t n = gathered; n < width; ++n) pack_words(n, k, words - k < kLine ? words : k + kLine);
}

inline size_t packed_size(const Weights& w) {
  size_t floats = 0;
  with_operand(w.dtype, [&](auto operand) { floats = packed_floats<decltype(operand)>(w); });
  return floats;
}

inline void pack_panel(const Weights& w, int64_t panel, float* packed) {
  if (w.dtype == Dtype::int8) {
    pack_panel_of<Int8, int8_t>(w, panel, packed);
  } else if (w.dtype == Dtype::bfloat16) {
    pack_panel_of<Bfloat16, bf16>(w, panel, packed);
  } else {
    pack_panel_of<Float32, float>(w, panel, packed);
  }
}

// Hands out the parts of a thread's work space; with a null base it only counts.
class Space {
 public:
  explicit Space(float* base) : base_(base) {}
  float* take(int64_t floats) {
    float* const part = base_ + size_;
    size_ += static_cast<size_t>(ceil_div(floats, 16) * 16);
    return part;
  }
  size_t size() const { return size_; }

 private:
  float* base_;
  size_t size_ = 0;
};

inline int64_t whole_tiles(Dtype dtype, int64_t rows) {
  int64_t tile = 1;
  with_operand(dtype, [&](auto operand) { tile = decltype(operand)::kRows; });
  return ceil_div(rows, tile) * tile;
}

inline RowTiles row_tiles(Dtype dtype) {
  RowTiles found{};
  with_operand(dtype, [&](auto operand) {
    using Operand = decltype(operand);
    found = {Operand::kRows, Operand::kBlockRows};
  });
  return found;
}

// A tile of sums in L1, as it is finished.
struct Tile {
  const float* sums;  // (rows, kPanelColumns)
  int64_t row;        // first row, counted in the block
  int rows;           // those that exist
  int64_t column;     // first column
  int vecs;           // vectors of columns
};

// What is done with a finished tile: a callable by reference. Were it a template argument, the loops below
// would be compiled once a caller: four minutes of compilation in all.
class Finish {
 public:
  template <class F>
  Finish(const F& f)
      : context_(&f),
        call_([](const void* context, const Tile& tile) { (*static_cast<const F*>(context))(tile); }) {}
  void operator()(const Tile& tile) const { call_(context_, tile); }

 private:
  const void* context_;
  void (*call_)(const void*, const Tile&);
};

// to = from + Operand::kRows rows of `words` words times a run of a panel; a line of what follows in `ahead`
// comes nearer at each word. A function of its own, with all sums through memory at both ends: inlined, GCC
// 12 spills them in the loop.
template <class Operand, int vecs>
__attribute__((noinline)) void run_of_tile(const typename Operand::word* a, int64_t a_stride,
                                           const typename Operand::word* b, int64_t words, const float* from,
                                           int64_t from_stride, float* to, const char* ahead) {
  typename Operand::sum sums[kTileRows][vecs];
  unroll<kTileRows>(
      [&](auto row) WX_LAMBDA { unroll<vecs>([&](auto n) WX_LAMBDA { sums[row][n] = Operand::zero(); }); });
  for (int64_t k = 0; k < words; ++k) {
    __builtin_prefetch(ahead);
    ahead += 64;
    decltype(Operand::weights(b)) column[vecs];
    unroll<vecs>([&](auto n) WX_LAMBDA { column[n] = Operand::weights(b + n * kLanes); });
    unroll<kTileRows>([&](auto row) WX_LAMBDA {
      const auto input = Operand::broadcast(a + row * a_stride);
      unroll<vecs>([&](auto n) WX_LAMBDA { Operand::step(sums[row][n], input, column[n]); });
    });
    ++a;
    b += vecs * kLanes;
  }
  unroll<kTileRows>([&](auto row) WX_LAMBDA {
    unroll<vecs>([&](auto n) WX_LAMBDA {
      const auto before = Operand::load_sum(from + row * from_stride + n * kLanes);
      Operand::store_sum(to + row * kPanelColumns + n * kLanes, before + sums[row][n]);
    });
  });
}

// One block of rows times all weights: finish(tile) on each tile of sums. `in`: rows of the operand,
// row_stride apart. They and `sums` (a panel's, kPanelColumns a row) have room for whole tiles.
template <class Operand>
inline void multiply(const typename Operand::word* in, int64_t rows, const Weights& weights,
                     const float* packed, float* sums, const Finish& finish) {
  using word = typename Operand::word;
  constexpr int kRows = Operand::kRows;
  const int64_t words = words_of<Operand>(weights.inputs), stride = row_stride<Operand>(weights.inputs);
  const int64_t all = padded_columns(weights.outputs);
  [[maybe_unused]] const typename Operand::InUse in_use;
  const auto panel = [&](int64_t first, auto vectors) {
    constexpr int vecs = vectors;
    const float* const start = packed + all * words + first;
    const word* const columns = reinterpret_cast<const word*>(packed) + first * words;
    for (int64_t k = 0; k < words; k += Operand::kRun) {
      const bool last = words - k <= Operand::kRun;
      const int64_t run = last ? words - k : Operand::kRun;
      const auto* const ahead = reinterpret_cast<const char*>(columns + (k + run) * vecs * kLanes);
      for (int64_t m = 0; m < rows; m += kRows) {
        float* const so_far = sums + (words > Operand::kRun ? m * kPanelColumns : 0);
        const word* const a = in + m * stride + k;
        const word* const b = columns + k * vecs * kLanes;
        const float* const from = k > 0 ? so_far : start;
        const int64_t from_stride = k > 0 ? kPanelColumns : 0;
#if defined(WX_AMX)
        if constexpr (Operand::kTiles)
          product_of_tiles<typename Operand::Product, vecs>(a, stride, b, run, from, from_stride, so_far);
        else
#endif
          run_of_tile<Operand, vecs>(a, stride, b, run, from, from_stride, so_far,
                                     ahead + m / kRows % vecs * run * 64);
        if (!last) continue;
        const int tile_rows = static_cast<int>(rows - m < kRows ? rows - m : kRows);
        finish(Tile{so_far, m, tile_rows, first, vecs});
      }
    }
  };
  int64_t first = 0;
  for (; first + kPanelColumns <= all; first += kPanelColumns) panel(first, Int<kTileVecs>{});
  const int64_t rest = (all - first) / kLanes;
  if constexpr (kTileVecs > 2) {
    if (rest == 2) panel(first, Int<2>{});
  }
  if (rest == 1) panel(first, Int<1>{});
}

// What is done with results. The choices are the same for all of them, and so predicted.

template <int N>
WX_INLINE void activate(vec (&a)[N], Activation activation) {
  if (activation == Activation::gelu) {
    gelu(a);
  } else if (activation == Activation::gelu_tanh) {
    gelu_tanh(a);
  }
}

// N vectors of each row of a tile from the n-th on.
template <class Operand, int N, class F>
WX_INLINE void finish_part(const Tile& tile, int first, Lanes lanes, const Weights& w, const float* row_scale,
                           Activation activation, const F& f) {
  const int64_t column = tile.column + first * kLanes;
  vec bias[N], scale[N];
  unroll<N>([&](auto n) WX_LAMBDA {
    bias[n] = w.bias == nullptr ? set1(0.0f) : load(w.bias + column + n * kLanes, lanes);
    if constexpr (Operand::kQuantised) scale[n] = load(w.scale + column + n * kLanes, lanes);
  });
  const float* sums = tile.sums + first * kLanes;
  for (int r = 0; r < tile.rows; ++r, sums += kPanelColumns) {
    vec a[N];
    unroll<N>([&](auto n) WX_LAMBDA {
      const vec sum = Operand::result(Operand::load_sum(sums + n * kLanes));
      if constexpr (Operand::kQuantised) {
        a[n] = fma(sum, scale[n] * set1(row_scale[tile.row + r]), bias[n]);
      } else {
        a[n] = sum + bias[n];
      }
    });
    activate(a, activation);
    unroll<N>([&](auto n) WX_LAMBDA { f(a[n], tile.row + r, column + n * kLanes, lanes); });
  }
}

// f(result, row, column, lanes that exist) on each vector of a tile; the result is activation(sum + bias),
// with int8 weights of row_scale * weight scale * sum + bias.
template <class Operand, class F>
WX_INLINE void for_each_result(const Tile& tile, const Weights& w, const float* row_scale,
                               Activation activation, const F& f) {
  if (tile.column + kPanelColumns <= w.outputs) {
    finish_part<Operand, kTileVecs>(tile, 0, Lanes(kLanes), w, row_scale, activation, f);
    return;
  }
  for (int n = 0; n < tile.vecs; ++n) {
    const int64_t rest = w.outputs - tile.column - n * kLanes;
    finish_part<Operand, 1>(tile, n, lanes_of(rest), w, row_scale, activation, f);
  }
}

WX_INLINE vec load(const void* matrix, Dtype dtype, int64_t at, Lanes lanes) {
  if (dtype == Dtype::bfloat16) return load(static_cast<const bf16*>(matrix) + at, lanes);
  if (dtype == Dtype::float16) return load(static_cast<const f16*>(matrix) + at, lanes);
  return load(static_cast<const float*>(matrix) + at, lanes);
}

WX_INLINE void store(void* matrix, Dtype dtype, int64_t at, vec a, Lanes lanes) {
  if (dtype == Dtype::bfloat16) return store(static_cast<bf16*>(matrix) + at, a, lanes);
  if (dtype == Dtype::float16) return store(static_cast<f16*>(matrix) + at, a, lanes);
  return store(static_cast<float*>(matrix) + at, a, lanes);
}

// Brings the line of `at` nearer; nothing happens where there is no memory.
WX_INLINE void fetch(const void* matrix, Dtype dtype, int64_t at) {
  __builtin_prefetch(static_cast<const char*>(matrix) + at * (dtype == Dtype::float32 ? 4 : 2));
}

// In units of the scale from the offset, cut to what an int8 holds.
WX_INLINE vec quantised(vec a, vec inverse, vec offset) {
  return max(set1(-127.0f), min(set1(127.0f), fma(a, inverse, offset)));
}

// A part of a row of the next product.
template <class Operand>
WX_INLINE void store_part(typename Operand::word* row, int64_t column, vec a, vec inverse_scale, vec offset) {
  auto* const to = reinterpret_cast<typename Operand::element*>(row) + column;
  if constexpr (Operand::kQuantised) {
    Operand::store_row(to, quantised(a, inverse_scale, offset));
  } else {
    Operand::store_row(to, a);
  }
}

}  // namespace wxkernels::WX_ISA
