// Matrix products of a block: a constant matrix in fragments, data in shared memory, float32 sums.
//
// A fragment is 16 rows and kStep columns of the constant A in the order in which the lanes of a warp hold
// them, so that each reads 16 bytes, or 32, next to its neighbour's. wxkernels/ops/spectral_filter/cuda.py
// makes them.
#pragma once

#include "cuda/device.h"

namespace wxkernels::cuda {

constexpr int kRowsOfTile = 16, kColumnsOfTile = 8;

WX_DEVICE int lane() { return thread() % kWarp; }
// A lane has rows row_of_lane() and that plus 8 of a tile of sums, columns column_of_lane() and its
// neighbour.
WX_DEVICE int row_of_lane() { return lane() / 4; }
WX_DEVICE int column_of_lane() { return 2 * (lane() % 4); }

// Operands of a product: a fragment of A, tiles of B (two, `apart` elements from each other), sum += A B. B
// begins at `data`; along a row of it, `stride` elements from the next, lies N (kRowsAreK) or K.

// bfloat16 and float16 on tensor cores.
template <class T>
struct Half {
  using Element = T;
  static constexpr int kStep = 16;
  static constexpr int kBlocks = 2;  // that a multiprocessor shall hold of the largest kernel
  static constexpr int kRealTiles = 2, kComplexTiles = 3;  // side by side, that fit in a warp's registers
  struct A {
    uint32_t word[4];
  };
  struct B {
    uint32_t word[2];
  };

  WX_DEVICE static A load(const T* fragment) {
    const Chunk c = load_constant(fragment + 8 * lane());
    return {{c.word[0], c.word[1], c.word[2], c.word[3]}};
  }
  WX_DEVICE static A minus(const A& a) {
    constexpr uint32_t kSigns = 0x80008000;
    return {{a.word[0] ^ kSigns, a.word[1] ^ kSigns, a.word[2] ^ kSigns, a.word[3] ^ kSigns}};
  }
  template <bool kRowsAreK>
  WX_DEVICE static void load(B (&b)[2], const T* data, int stride, int apart) {
    const int l = lane();
    const int row = kRowsAreK ? l % 16 : l % 8, column = kRowsAreK ? 0 : l & 8;
    uint32_t word[4];
    load_matrices<kRowsAreK>(word, data + row * stride + column + l / 16 * apart);
    b[0] = {{word[0], word[1]}}, b[1] = {{word[2], word[3]}};
  }
  WX_DEVICE static void multiply(float (&sum)[4], const A& a, const B& b) {
    multiply_matrices<T>(sum, a.word, b.word);
  }
};

// float32 rounded to TF32, on tensor cores.
struct Tf32 {
  using Element = float;
  static constexpr int kStep = 8;
  static constexpr int kBlocks = 1;
  static constexpr int kRealTiles = 2, kComplexTiles = 3;
  struct A {
    uint32_t word[4];
  };
  struct B {
    uint32_t word[2];
  };

  WX_DEVICE static A load(const float* fragment) {
    const Chunk c = load_constant(fragment + 4 * lane());
    A a;
    for (int i = 0; i < 4; ++i) a.word[i] = to_tf32(float_of(c.word[i]));
    return a;
  }
  WX_DEVICE static A minus(const A& a) {
    constexpr uint32_t kSign = 0x80000000;
    return {{a.word[0] ^ kSign, a.word[1] ^ kSign, a.word[2] ^ kSign, a.word[3] ^ kSign}};
  }
  template <bool kRowsAreK>
  WX_DEVICE static void load(B (&b)[2], const float* data, int stride, int apart) {
    const int k = lane() % 4, n = lane() / 4;
    for (int part = 0; part < 2; ++part)
      for (int i = 0; i < 2; ++i)
        b[part].word[i] =
            to_tf32(data[part * apart + (kRowsAreK ? (k + 4 * i) * stride + n : n * stride + k + 4 * i)]);
  }
  WX_DEVICE static void multiply(float (&sum)[4], const A& a, const B& b) {
    multiply_matrices<float>(sum, a.word, b.word);
  }
};

// float32 as it is, by fused multiply-adds of each lane: tensor cores have no such product.
struct Float32 {
  using Element = float;
  static constexpr int kStep = 8;
  static constexpr int kBlocks = 1;
  static constexpr int kRealTiles = 1, kComplexTiles = 1;
  struct A {
    float row[2][kStep];
  };
  struct B {
    float k[kStep][2];
  };

  WX_DEVICE static A load(const float* fragment) {
    A a;
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < kStep; k += 4) {
        const Chunk c = load_constant(fragment + (2 * row_of_lane() + r) * kStep + k);
        for (int i = 0; i < 4; ++i) a.row[r][k + i] = float_of(c.word[i]);
      }
    return a;
  }
  WX_DEVICE static A minus(const A& a) {
    A negative;
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < kStep; ++k) negative.row[r][k] = -a.row[r][k];
    return negative;
  }
  template <bool kRowsAreK>
  WX_DEVICE static void load(B (&b)[2], const float* data, int stride, int apart) {
    const int n = column_of_lane();
    for (int part = 0; part < 2; ++part, data += apart) {
      if constexpr (kRowsAreK) {
        for (int k = 0; k < kStep; ++k) get_pair(data + k * stride + n, b[part].k[k]);
      } else {
        for (int i = 0; i < 2; ++i)
          for (int k = 0; k < kStep; k += 4) {
            const Chunk c = *reinterpret_cast<const Chunk*>(data + (n + i) * stride + k);
            for (int j = 0; j < 4; ++j) b[part].k[k + j][i] = float_of(c.word[j]);
          }
      }
    }
  }
  WX_DEVICE static void multiply(float (&sum)[4], const A& a, const B& b) {
    // A step on its own first: at 90 x 180 the largest error is 1.4 times that of PyTorch so, and 2.6 times
    // if all products of a sum are added one after another.
    for (int i = 0; i < 4; ++i) {
      float step = a.row[i / 2][0] * b.k[0][i % 2];
      for (int k = 1; k < kStep; ++k) step = fmaf(a.row[i / 2][k], b.k[k][i % 2], step);
      sum[i] += step;
    }
  }
};

// C = A B by all warps of a block, where B has two parts, `apart` elements from each other, M, K multiples of
// 16 and N, of each part, of 8. With kComplex the parts are real and imaginary, and so are two planes of A;
// else A is real and multiplies either. A warp makes kM x kN tiles of both parts at a time. finish(part, row,
// column, left, right) gets each pair of neighbours once.
template <class Operand, bool kComplex, bool kRowsAreK, class Finish>
WX_DEVICE void product(const typename Operand::Element* a, int M, int K, const typename Operand::Element* b,
                       int stride, int apart, int N, const Finish& finish) {
  constexpr int kFragment = kRowsOfTile * Operand::kStep;
  constexpr int kM = 3, kN = kComplex ? Operand::kComplexTiles : Operand::kRealTiles;
  const int m_tiles = M / kRowsOfTile, n_tiles = N / kColumnsOfTile, steps = K / Operand::kStep;
  const int m_groups = (m_tiles + kM - 1) / kM, n_groups = (n_tiles + kN - 1) / kN;
  for (int group = thread() / kWarp; group < m_groups * n_groups; group += threads() / kWarp) {
    const int m0 = group % m_groups * kM, n0 = group / m_groups * kN;
    float sum[2][kM][kN][4] = {};
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      typename Operand::A re[kM], im[kM];
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        // Tiles past the end are the last one again, and are not stored: no branch is in this loop.
        const int m = m0 + i < m_tiles ? m0 + i : m_tiles - 1;
        const typename Operand::Element* fragment = a + (m * steps + step) * kFragment;
        re[i] = Operand::load(fragment);
        if constexpr (kComplex) im[i] = Operand::load(fragment + m_tiles * steps * kFragment);
      }
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const int n = (n0 + j < n_tiles ? n0 + j : n_tiles - 1) * kColumnsOfTile, k = step * Operand::kStep;
        typename Operand::B part[2];
        Operand::template load<kRowsAreK>(part, b + (kRowsAreK ? k * stride + n : n * stride + k), stride,
                                          apart);
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          Operand::multiply(sum[0][i][j], re[i], part[0]);
          Operand::multiply(sum[1][i][j], re[i], part[1]);
          if constexpr (kComplex) {
            Operand::multiply(sum[0][i][j], Operand::minus(im[i]), part[1]);
            Operand::multiply(sum[1][i][j], im[i], part[0]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j)
        if (m0 + i < m_tiles && n0 + j < n_tiles)
#pragma unroll
          for (int h = 0; h < 4; ++h) {
            const int part = h / 2, half = h % 2;
            const float* const s = sum[part][i][j] + 2 * half;
            finish(part, (m0 + i) * kRowsOfTile + row_of_lane() + 8 * half,
                   (n0 + j) * kColumnsOfTile + column_of_lane(), s[0], s[1]);
          }
  }
}

}  // namespace wxkernels::cuda
