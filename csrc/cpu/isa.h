#pragma once

#include "cpu/kernels.h"

namespace wxkernels {

// One instruction set each, compiled from kernels.cpp.
extern const Kernels kernels_scalar;
#if defined(WX_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;
#if defined(WX_BUILT_AMX)
extern const Kernels kernels_amx;
#endif
#endif

// Those in force. Throws std::invalid_argument when WXKERNELS_ISA names one that cannot run here.
const Kernels& kernels();

}  // namespace wxkernels
