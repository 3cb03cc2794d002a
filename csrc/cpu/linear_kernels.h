// What the linear layers do with a block of rows: make the operand's rows, multiply, finish.
#pragma once

#include "cpu/gemm.h"

namespace wxkernels::WX_ISA {

// Scratch memory of one product: its rows, their scales, what `multiply` carries, and a row in float32.
struct ProductSpace {
  float* rows;
  float* scales;
  float* row;
  ProductSpace(Space& space, const Weights& w, int64_t block_rows) {
    int64_t stride = 0;
    with_operand(w.dtype, [&](auto operand) { stride = row_stride<decltype(operand)>(w.inputs); });
    rows = space.take(whole_tiles(w.dtype, block_rows) * stride);
    scales = space.take(whole_tiles(w.dtype, block_rows));
    row = space.take(padded_columns(w.inputs) + kLanes);
  }
};

// What fills up a row past its inputs: zeros, as a NaN by a weight of zero is a NaN. The last may lie in the
// gap before the next row.
template <class Operand>
inline void fill_up(typename Operand::word* row, int64_t inputs) {
  if constexpr (!Operand::kQuantised) {
    auto* const elements = reinterpret_cast<typename Operand::element*>(row);
    for (int64_t k = inputs; k < words_of<Operand>(inputs) * Operand::kDepth; k += kLanes)
      Operand::store_row(elements + k, set1(0.0f));
  }
}

// A row in float32 (padded to whole vectors) as the operand has it.
template <class Operand>
inline void put_row(const float* row, int64_t inputs, typename Operand::word* to, float* scale) {
  auto* const elements = reinterpret_cast<typename Operand::element*>(to);
  if constexpr (Operand::kQuantised) {
    *scale = quantise_row(row, static_cast<int>(inputs),
                          static_cast<int>(words_of<Operand>(inputs) * Operand::kDepth),
                          reinterpret_cast<uint8_t*>(to), Operand::kOffset);
    widen_bytes<Operand>(elements, inputs);
  } else {
    for (int64_t k = 0; k < inputs; k += kLanes) Operand::store_row(elements + k, load(row + k));
    fill_up<Operand>(to, inputs);
  }
}

// to = x + the offset of the operand's elements
template <class Operand>
inline void offset_bytes(const int8_t* x, int64_t K, typename Operand::element* to) {
  int64_t k = 0;
#if defined(__AVX512VNNI__)
  const ints offset = _mm512_set1_epi8(static_cast<char>(Operand::kOffset));
  for (; k + 64 <= K; k += 64)
    _mm512_storeu_si512(to + k, _mm512_add_epi8(_mm512_loadu_si512(x + k), offset));
#endif
  for (; k < K; ++k) to[k] = static_cast<typename Operand::element>(x[k] + Operand::kOffset);
}

struct LinearInt8Space {
  ProductSpace product;
  float* sums;
  size_t size;
  LinearInt8Space(Space space, const LinearInt8& op, int64_t rows)
      : product(space, op.weights, rows),
        sums(space.take(whole_tiles(op.weights.dtype, rows) * kPanelColumns)),
        size(space.size()) {}
};

inline void linear_int8_rows(const LinearInt8& op, const float* packed, int64_t first, int64_t rows,
                             float* work) {
  const LinearInt8Space space(Space(work), op, rows);
  const int64_t K = op.weights.inputs, N = op.weights.outputs, stride = row_stride<Int8>(K);
  auto* const in = reinterpret_cast<Int8::word*>(space.product.rows);
  for (int64_t r = 0; r < rows; ++r) {
    if (op.dtype == Dtype::int8) {
      space.product.scales[r] = op.x_scale[(first + r) * op.x_scale_stride];
      const int8_t* const x = static_cast<const int8_t*>(op.x) + (first + r) * op.row_stride;
      auto* const to = reinterpret_cast<Int8::element*>(in + r * stride);
      offset_bytes<Int8>(x, K, to);
      for (int64_t k = K; k < words_of<Int8>(K) * Int8::kDepth; ++k) to[k] = Int8::kOffset;
    } else {
      with_dtype(op.dtype, [&](auto element) {
        const auto* const x = static_cast<const decltype(element)*>(op.x);
        load_row(x + (first + r) * op.row_stride, static_cast<int>(K), space.product.row);
      });
      put_row<Int8>(space.product.row, K, in + r * stride, space.product.scales + r);
    }
  }
  const vec inverse = set1(1 / op.out_scale);
  const auto finish = [&](const Tile& tile) {
    const auto put = [&](vec a, int64_t row, int64_t column, Lanes lanes) WX_LAMBDA {
      if (op.residual != nullptr) {
        const int64_t at = (first + row) * op.residual_stride + column;
        fetch(op.residual, op.residual_dtype, at + Int8::kRows * op.residual_stride);  // the next tile's
        a = a + load(op.residual, op.residual_dtype, at, lanes);
      }
      const int64_t at = (first + row) * N + column;
      if (op.out_dtype == Dtype::int8) {
        store_int8(static_cast<int8_t*>(op.out) + at, zero_nan(quantised(a, inverse, set1(0.0f))), lanes);
      } else {
        store(op.out, op.out_dtype, at, a, lanes);
      }
    };
    for_each_result<Int8>(tile, op.weights, space.product.scales, op.activation, put);
  };
  multiply<Int8>(in, rows, op.weights, packed, space.sums, finish);
}

struct MlpSpace {
  ProductSpace product;
  float* sums;
  ProductSpace hidden;
  size_t size;
  MlpSpace(Space space, const Mlp& op, int64_t rows)
      : product(space, op.fc1, rows),
        sums(space.take(whole_tiles(op.fc1.dtype, rows) * kPanelColumns)),
        hidden(space, op.fc2, rows),
        size(space.size()) {}
};

inline void mlp_rows(const Mlp& op, bool streams, const float* packed1, const float* packed2, int64_t first,
                     int64_t rows, float* work) {
  const MlpSpace space(Space(work), op, rows);
  const int64_t C = op.fc1.inputs;
  with_operand(op.fc1.dtype, [&](auto operand) {
    using Operand = decltype(operand);
    using word = typename Operand::word;
    const int64_t stride = row_stride<Operand>(C), hidden_stride = row_stride<Operand>(op.fc2.inputs);
    auto* const in = reinterpret_cast<word*>(space.product.rows);
    auto* const hidden = reinterpret_cast<word*>(space.hidden.rows);
    for (int64_t r = 0; r < rows; ++r) {
      with_dtype(op.dtype, [&](auto element) {
        const auto* const x = static_cast<const decltype(element)*>(op.x) + (first + r) * op.row_stride;
        norm_row(x, static_cast<int>(C), op.norm_weight, op.norm_bias, op.eps, space.product.row);
      });
      put_row<Operand>(space.product.row, C, in + r * stride, space.product.scales + r);
      if constexpr (Operand::kQuantised) {  // a row that is not finite stays so, though int8 cannot hold that
        const float scale = space.product.scales[r];
        space.hidden.scales[r] = scale == scale ? op.hidden_scale : scale;
      }
      fill_up<Operand>(hidden + r * hidden_stride, op.fc2.inputs);
    }
    const vec inverse = set1(1 / op.hidden_scale), offset = set1(static_cast<float>(op.fc2.row_offset));
    const auto finish1 = [&](const Tile& tile) {
      const auto put = [=](vec a, int64_t row, int64_t column, Lanes) WX_LAMBDA {
        store_part<Operand>(hidden + row * hidden_stride, column, a, inverse, offset);
      };
      for_each_result<Operand>(tile, op.fc1, space.product.scales, op.activation, put);
    };
    multiply<Operand>(in, rows, op.fc1, packed1, space.sums, finish1);
    const auto finish2 = [&](const Tile& tile) {
      const auto put = [&](vec a, int64_t row, int64_t column, Lanes lanes) WX_LAMBDA {
        const int64_t at = (first + row) * op.row_stride + column;
        fetch(op.x, op.dtype, at + Operand::kRows * op.row_stride);  // the next tile's
        const vec y = a + load(op.x, op.dtype, at, lanes);
        const int64_t to = (first + row) * C + column;
        if constexpr (kStreams) {
          if (streams) return stream(static_cast<float*>(op.out) + to, y);
        }
        store(op.out, op.dtype, to, y, lanes);
      };
      for_each_result<Operand>(tile, op.fc2, space.hidden.scales, Activation::none, put);
    };
    multiply<Operand>(hidden, rows, op.fc2, packed2, space.sums, finish2);
  });
  if (streams) end_streams();
}

struct PatchEmbedSpace {
  ProductSpace product;
  float* sums;
  size_t size;
  PatchEmbedSpace(Space space, const PatchEmbed& op, int64_t rows)
      : product(space, op.weights, rows),
        sums(space.take(whole_tiles(op.weights.dtype, rows) * kPanelColumns)),
        size(space.size()) {}
};

// All points of a patch, in float32 and in the order of the weights.
template <class T>
inline void gather_patch(const PatchEmbed& op, int64_t token, float* to) {
  const int64_t H = op.rows * op.patch_height, W = op.columns * op.patch_width, tokens = op.rows * op.columns;
  const T* const x = static_cast<const T*>(op.x) + token / tokens * op.channels * H * W +
                     token % tokens / op.columns * op.patch_height * W + token % op.columns * op.patch_width;
  for (int64_t c = 0; c < op.channels; ++c)
    for (int64_t i = 0; i < op.patch_height; ++i, to += op.patch_width) {
      const T* const from = x + (c * H + i) * W;
      for (int64_t j = 0; j < op.patch_width; j += kLanes) {
        const Lanes lanes = lanes_of(op.patch_width - j);
        store(to + j, load(from + j, lanes), lanes);
      }
    }
}

inline void patch_embed_rows(const PatchEmbed& op, const float* packed, int64_t first, int64_t rows,
                             float* work) {
  const PatchEmbedSpace space(Space(work), op, rows);
  const int64_t N = op.weights.outputs, tokens = op.rows * op.columns;
  with_float_operand(op.weights.dtype, [&](auto operand) {
    using Operand = decltype(operand);
    const int64_t stride = row_stride<Operand>(op.weights.inputs);
    auto* const in = reinterpret_cast<typename Operand::word*>(space.product.rows);
    for (int64_t r = 0; r < rows; ++r) {
      with_dtype(op.dtype,
                 [&](auto element) { gather_patch<decltype(element)>(op, first + r, space.product.row); });
      put_row<Operand>(space.product.row, op.weights.inputs, in + r * stride, nullptr);
    }
    const auto finish = [&](const Tile& tile) {
      const auto put = [&](vec a, int64_t row, int64_t column, Lanes lanes) WX_LAMBDA {
        if (op.position != nullptr) {
          const int64_t token = (first + row) % tokens, at = token * N + column;
          if (op.position_dtype == Dtype::int8) {
            const vec q = load_int8(static_cast<const int8_t*>(op.position) + at, lanes);
            a = fma(q, set1(op.position_scale[token]), a);
          } else {
            a = a + load(op.position, op.position_dtype, at, lanes);
          }
        }
        store(op.out, op.dtype, (first + row) * N + column, a, lanes);
      };
      for_each_result<Operand>(tile, op.weights, nullptr, Activation::none, put);
    };
    multiply<Operand>(in, rows, op.weights, packed, space.sums, finish);
  });
}

struct PatchHeadSpace {
  ProductSpace product;
  float* sums;
  float* results;  // (rows, padded columns)
  float* run;      // the points of a field's row that a run of tokens makes
  size_t size;
  PatchHeadSpace(Space space, const PatchHead& op, int64_t rows)
      : product(space, op.weights, rows),
        sums(space.take(whole_tiles(op.weights.dtype, rows) * kPanelColumns)) {
    results = space.take(rows * padded_columns(op.weights.outputs));
    run = space.take(rows * op.patch_width + kLanes);
    size = space.size();
  }
};

// The patches of the tokens first .. first + rows - 1, a run of tokens of one row of patches at a time.
template <class T>
inline void scatter_patches(const PatchHead& op, int64_t first, int64_t rows, const PatchHeadSpace& space) {
  const int64_t N = padded_columns(op.weights.outputs), tokens = op.rows * op.columns, q = op.patch_width;
  const int64_t H = op.rows * op.patch_height, W = op.columns * q;
  for (int64_t r = 0, count; r < rows; r += count) {
    const int64_t sample = (first + r) / tokens, token = (first + r) % tokens, column = token % op.columns;
    count = op.columns - column < rows - r ? op.columns - column : rows - r;
    for (int64_t i = 0; i < op.patch_height; ++i)
      for (int64_t c = 0; c < op.channels; ++c) {
        const float* const from = space.results + r * N + i * q * op.channels + c;
        for (int64_t t = 0; t < count; ++t)
          for (int64_t j = 0; j < q; ++j) space.run[t * q + j] = from[t * N + j * op.channels];
        const int64_t row = (sample * op.channels + c) * H + token / op.columns * op.patch_height + i;
        T* const to = static_cast<T*>(op.out) + row * W + column * q;
        for (int64_t j = 0; j < count * q; j += kLanes)
          store(to + j, load(space.run + j), lanes_of(count * q - j));
      }
  }
}

inline void patch_head_rows(const PatchHead& op, const float* packed, int64_t first, int64_t rows,
                            float* work) {
  const PatchHeadSpace space(Space(work), op, rows);
  const int64_t K = op.weights.inputs, N = padded_columns(op.weights.outputs);
  with_float_operand(op.weights.dtype, [&](auto operand) {
    using Operand = decltype(operand);
    auto* const in = reinterpret_cast<typename Operand::word*>(space.product.rows);
    for (int64_t r = 0; r < rows; ++r) {
      with_dtype(op.dtype, [&](auto element) {
        const auto* const x = static_cast<const decltype(element)*>(op.x) + (first + r) * K;
        load_row(x, static_cast<int>(K), space.product.row);
      });
      put_row<Operand>(space.product.row, K, in + r * row_stride<Operand>(K), nullptr);
    }
    const auto finish = [&](const Tile& tile) {
      const auto put = [&](vec a, int64_t row, int64_t column, Lanes)
                           WX_LAMBDA { store(space.results + row * N + column, a); };
      for_each_result<Operand>(tile, op.weights, nullptr, Activation::none, put);
    };
    multiply<Operand>(in, rows, op.weights, packed, space.sums, finish);
  });
  with_dtype(op.dtype, [&](auto element) { scatter_patches<decltype(element)>(op, first, rows, space); });
}

inline size_t linear_int8_work(const LinearInt8& op, int64_t rows) {
  return LinearInt8Space(Space(nullptr), op, rows).size;
}
inline size_t mlp_work(const Mlp& op, int64_t rows) { return MlpSpace(Space(nullptr), op, rows).size; }
inline size_t patch_embed_work(const PatchEmbed& op, int64_t rows) {
  return PatchEmbedSpace(Space(nullptr), op, rows).size;
}
inline size_t patch_head_work(const PatchHead& op, int64_t rows) {
  return PatchHeadSpace(Space(nullptr), op, rows).size;
}

constexpr LinearKernels kLinear = {row_tiles,        packed_size,      panels_of,       pack_panel,
                                   linear_int8_work, linear_int8_rows, mlp_work,        mlp_rows,
                                   patch_embed_work, patch_embed_rows, patch_head_work, patch_head_rows};

}  // namespace wxkernels::WX_ISA
