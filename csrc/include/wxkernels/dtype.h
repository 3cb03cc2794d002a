#pragma once

namespace wxkernels {

enum class Dtype { float32, bfloat16, float16, int8 };

}  // namespace wxkernels
