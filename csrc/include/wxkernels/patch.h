#pragma once

#include "wxkernels/weights.h"

namespace wxkernels {

// Fields to tokens: each patch of patch_height x patch_width points of all channels through one linear layer,
// whose inputs are ordered (channel, row, column), plus the token's position.
struct PatchEmbed {
  const void* x;  // (batch, channels, rows * patch_height, columns * patch_width), contiguous
  void* out;      // (batch, rows, columns, weights.outputs), contiguous
  Dtype dtype;    // of both, floating
  int64_t batch, channels, rows, columns, patch_height, patch_width;
  Weights weights;       // floating
  const void* position;  // (rows * columns, weights.outputs), contiguous: floating or int8; or null
  Dtype position_dtype;
  const float* position_scale;  // (rows * columns,) of an int8 position
};
void patch_embed(const PatchEmbed& op, int threads);

// Tokens to fields: one linear layer, whose outputs are ordered (row, column, channel) of a patch.
struct PatchHead {
  const void* x;  // (batch, rows, columns, weights.inputs), contiguous
  void* out;      // (batch, channels, rows * patch_height, columns * patch_width), contiguous
  Dtype dtype;    // of both, floating
  int64_t batch, channels, rows, columns, patch_height, patch_width;
  Weights weights;  // floating
};
void patch_head(const PatchHead& op, int threads);

}  // namespace wxkernels
