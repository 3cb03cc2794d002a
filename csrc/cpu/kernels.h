// What the driver (compiled for the base target) and the kernels (compiled once an instruction set) share:
// plain data only, so that no code is emitted twice with different instructions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "wxkernels/layer_norm.h"
#include "wxkernels/linear_int8.h"
#include "wxkernels/mlp.h"
#include "wxkernels/patch.h"
#include "wxkernels/spectral_filter.h"

namespace wxkernels {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// One step of a mixed-radix transform of n points: n / (span * radix) groups of `span` butterflies.
struct FftStage {
  int radix, span;
  const float* twiddle;  // (span, radix - 1, 2): e^(-2 pi i j q / (span * radix)) for q = 1 .. radix - 1
  const float* roots;    // (radix, 2): e^(-2 pi i k / radix)
};

struct FftPlan {
  int n, stages;  // at least two stages
  int widest;     // largest radix
  const FftStage* stage;
  const int* source;  // (n,): which input the first stage reads at each position
};

// (x - mean) rstd + shift is a row normalised: the mean is rounded, and shift makes good for what it lost,
// which counts where the mean is much larger than the spread.
struct RowMoments {
  float mean, rstd, shift;
};

// One call as the kernels see it. A channel block is padded to whole vectors in all scratch memory.
struct SpectralFilterJob {
  SpectralFilter op;
  const FftPlan* over_height;
  const FftPlan* over_width;
  int channels, hidden;  // block_size and hidden_size rounded up to whole vectors
  bool streams;  // out is larger than the caches and whole lines of it are written: no use to keep them
  int group;     // columns that go through the MLP together
  float scale, scale_rest;  // of one direction, 1 / sqrt(height * width) = scale + scale_rest: an error of
                            // the scale alone would be the same in all modes, which add up at the origin
  RowMoments* moments;      // (batch, height, width) with a norm
  // Spectrum of one (sample, block): (height, columns, 2, channels) floats.
};

struct SpectralFilterKernels {
  int lanes;
  // Sizes in floats: packed weights of a block, and the work space of a thread.
  size_t (*weights_size)(const SpectralFilterJob&);
  size_t (*work_size)(const SpectralFilterJob&);
  void (*pack_weights)(const SpectralFilterJob&, int64_t block, float* weights);
  // Fills moments[sample, h]; only with a norm, and before all passes.
  void (*row_moments)(const SpectralFilterJob&, int64_t sample, int64_t h);
  // Rows h and h + 1 (where there is one): x -> spectrum over the width.
  void (*forward_rows)(const SpectralFilterJob&, int64_t sample, int64_t block, int64_t h, float* spectrum,
                       float* work);
  // Columns k .. k + group - 1: transform over the height, block MLP, softshrink, inverse transform, in
  // place.
  void (*filter_columns)(const SpectralFilterJob&, const float* weights, int64_t k, float* spectrum,
                         float* work);
  // Rows h and h + 1: spectrum -> out, plus x.
  void (*inverse_rows)(const SpectralFilterJob&, int64_t sample, int64_t block, int64_t h,
                       const float* spectrum, float* work);
};

// Rows that are multiplied together, and the most of a block (a multiple of them).
struct RowTiles {
  int64_t tile, block;
};

// The linear layers: `packed` as pack_panel fills it, panel by panel; sizes in floats. Each of the four runs
// the rows (tokens) first .. first + rows - 1 in a work space made for at least as many.
struct LinearKernels {
  RowTiles (*row_tiles)(Dtype weights);
  size_t (*packed_size)(const Weights&);
  int64_t (*panels)(const Weights&);
  void (*pack_panel)(const Weights&, int64_t panel, float* packed);
  size_t (*linear_int8_work)(const LinearInt8&, int64_t rows);
  void (*linear_int8)(const LinearInt8&, const float* packed, int64_t first, int64_t rows, float* work);
  size_t (*mlp_work)(const Mlp&, int64_t rows);
  void (*mlp)(const Mlp&, bool streams, const float* packed1, const float* packed2, int64_t first,
              int64_t rows, float* work);
  size_t (*patch_embed_work)(const PatchEmbed&, int64_t rows);
  void (*patch_embed)(const PatchEmbed&, const float* packed, int64_t first, int64_t rows, float* work);
  size_t (*patch_head_work)(const PatchHead&, int64_t rows);
  void (*patch_head)(const PatchHead&, const float* packed, int64_t first, int64_t rows, float* work);
};

// Rows first .. stop - 1 of a matrix, with row_floats(channels) floats of work space.
struct RowKernels {
  size_t (*row_floats)(int64_t channels);
  void (*layer_norm)(const LayerNorm&, bool streams, int64_t first, int64_t stop, float* work);
  void (*quantize_rows)(const QuantizeRows&, int64_t first, int64_t stop, float* work);
};

// Everything that is compiled once an instruction set.
struct Kernels {
  const char* isa;
  SpectralFilterKernels spectral_filter;
  RowKernels rows;
  LinearKernels linear;
  // Arithmetic on registers alone: does `rounds` rounds and returns the operations of one; 0 where there is
  // no instruction.
  int64_t (*float32_rounds)(int64_t rounds, float* values);
  int64_t (*bfloat16_rounds)(int64_t rounds, float* values);
  int64_t (*int8_rounds)(int64_t rounds, float* values);
};

}  // namespace wxkernels
