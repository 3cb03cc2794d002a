#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace wxkernels {

// Instruction sets that were built, lowest first.
std::vector<std::string> built_isas();

// Those of them that this machine and its operating system run.
std::vector<std::string> runnable_isas();

// The one in force: the highest that runs here, unless WXKERNELS_ISA or set_isa named a lower one.
// Throws std::invalid_argument for a name that is unknown, was not built or does not run here.
std::string isa();
void set_isa(const std::string& name);

// Most operations a second (a multiplication, an addition) of `threads` threads in a loop on registers:
// float32 multiply-adds, and bfloat16 and int8 dot products (0 where the instruction set in force has none).
struct PeakFlops {
  double float32, bfloat16, int8;
};
PeakFlops peak_flops(int threads);

// Most bytes a second, read and written, of a copy of `bytes` by `threads` threads. What it writes does not
// go through the caches where there are stores for that: no line is read only to be overwritten.
double copy_rate(size_t bytes, int threads);

}  // namespace wxkernels
