#pragma once

#include <cstdint>

#include "wxkernels/dtype.h"

namespace wxkernels {

enum class Activation { none, gelu, gelu_tanh };

// A linear layer. The products are made in the dtype of the weight: int8 rows are quantised, one scale a row.
struct Weights {
  const void* weight;  // (outputs, inputs), contiguous: float32, bfloat16 or int8
  Dtype dtype;
  int64_t outputs, inputs;
  const float* scale;  // (outputs,) of an int8 weight, else null
  const float* bias;   // (outputs,), or null
  // int8 rows stand for q - row_offset: in [-127, 127]; inputs <= 65536 where it is not 0
  int32_t row_offset = 0;
};

}  // namespace wxkernels
