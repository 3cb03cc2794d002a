// Kernels with the faults that device.h says it sees, one by name.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "cuda/device.h"

using namespace wxkernels::cuda;

namespace {

constexpr int kThreads = 64;
alignas(16) float numbers[4 * kThreads];
float found[kThreads];

float* shared() { return reinterpret_cast<float*>(shared_memory()); }

// The right way: neighbours by shared memory.
void none(int) {
  copy_async(shared() + 4 * thread(), numbers + 4 * thread());
  wait_for_copies();
  sync_block();
  found[thread()] = sum_of_warp(shared()[(4 * thread() + 4) % (4 * kThreads)]);
}

void not_waited(int) {
  copy_async(shared() + 4 * thread(), numbers + 4 * thread());
  sync_block();
  found[thread()] = shared()[4 * thread()];
  wait_for_copies();
}

void not_written(int) { found[thread()] = shared()[thread()]; }

void not_synchronised(int) {
  shared()[thread()] = numbers[thread()];
  found[thread()] = shared()[(thread() + 1) % kThreads];
}

// Read and overwritten without a barrier between: every value is a number, and depends on who comes first.
void overwritten(int) {
  shared()[thread()] = numbers[thread()];
  sync_block();
  const float left = shared()[thread()];
  shared()[(thread() + 1) % kThreads] = left;
  sync_block();
  found[thread()] = shared()[thread()];
}

void past_the_end(int) { shared()[4 * kThreads + thread()] = 1; }

void misaligned(int) { load_constant(reinterpret_cast<char*>(numbers) + 4); }

void barrier_of_some(int) {
  if (thread() < 40) sync_block();
}

void warp_in_two_places(int) {
  uint32_t word[4];
  if (thread() % 2 == 0)
    sum_of_warp(1);
  else
    load_matrices<false>(word, shared());
}

}  // namespace

int main(int, char** arguments) {
  const std::map<std::string, void (*)(int)> kernels = {
      {"none", none},
      {"not waited for", not_waited},
      {"not written", not_written},
      {"not synchronised", not_synchronised},
      {"overwritten", overwritten},
      {"past the end", past_the_end},
      {"misaligned", misaligned},
      {"barrier of some", barrier_of_some},
      {"warp in two places", warp_in_two_places},
  };
  for (int i = 0; i < 4 * kThreads; ++i) numbers[i] = static_cast<float>(i);
  std::vector<float> forwards;
  for (const bool backwards : {false, true}) {
    machine.backwards = backwards;
    launch(kernels.at(arguments[1]), 1, kThreads, sizeof numbers, nullptr, 0);
    if (!backwards) forwards.assign(found, found + kThreads);
  }
  for (int i = 0; i < kThreads; ++i) {
    if (std::isnan(forwards[i]) || std::isnan(found[i])) std::puts("a NaN"), std::exit(1);
    if (forwards[i] != found[i]) std::puts("another result backwards"), std::exit(1);
  }
}
