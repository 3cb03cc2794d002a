// In place of csrc/cuda/device.h: the same names on a CPU, as PTX defines them.
//
// Blocks run one after another, the threads of a block as fibers that take turns where all of a block or of a
// warp meet. What a kernel may not rely on is made to fail: shared memory begins as NaNs, copies arrive when
// they are waited for and not before, a warp goes as far as it gets before the next one, from the first on or
// from the last (`backwards`), and threads that meet in different places, or never, stop the program.
// AddressSanitizer sees accesses out of bounds, of shared memory too.
#pragma once

#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/runtime.h"

#define WX_KERNEL(threads, blocks) void
#define WX_DEVICE inline
#define WX_HOST_DEVICE inline

namespace wxkernels::cuda {

constexpr int kWarp = 32;

struct alignas(16) Chunk {
  uint32_t word[4];
};

// A place where `members` threads leave what they bring; the last one acts for all.
struct Meeting {
  std::vector<std::pair<int, void*>> brought;  // by which thread
  int arrived = 0;
  const char* name = nullptr;
};

struct Fiber {
  static constexpr size_t kStackBytes = 256 << 10;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t context;
  bool done, waiting;
  std::vector<std::pair<void*, const void*>> copies;  // not waited for
};

// The block that runs.
struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting all;
  std::function<void()> body;
  char* shared;
  int threads, thread;
  int64_t block;
  bool backwards = false;
  ucontext_t scheduler;
  const void* scheduler_stack;
  size_t scheduler_bytes;
};
inline Machine machine;

[[noreturn]] inline void stop(const char* why) {
  std::fprintf(stderr, "block %ld, thread %d: %s\n", static_cast<long>(machine.block), machine.thread, why);
  std::abort();
}

// Each switch is told to AddressSanitizer.
inline void take_turn(int thread) {
  Fiber& fiber = machine.fibers[thread];
  machine.thread = thread;
  void* fake;
  __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), Fiber::kStackBytes);
  swapcontext(&machine.scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

inline void give_turn() {
  Fiber& fiber = machine.fibers[machine.thread];
  void* fake;
  __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fake, machine.scheduler_stack,
                                 machine.scheduler_bytes);
  swapcontext(&fiber.context, &machine.scheduler);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

inline void run_fiber() {
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_bytes);
  machine.body();
  machine.fibers[machine.thread].done = true;
  give_turn();
}

inline void run_block(int64_t block, int threads, int shared_bytes, std::function<void()> body) {
  machine.block = block, machine.threads = threads, machine.body = std::move(body);
  machine.all = {}, machine.warps.assign(threads / kWarp, {});
  machine.shared = static_cast<char*>(std::aligned_alloc(128, shared_bytes));
  std::memset(machine.shared, 0xff, shared_bytes);  // NaN in every dtype
  if (machine.fibers.size() < static_cast<size_t>(threads)) machine.fibers = std::vector<Fiber>(threads);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = machine.fibers[i];
    fiber.done = fiber.waiting = false, fiber.copies.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get(), fiber.context.uc_stack.ss_size = Fiber::kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  const int first = machine.backwards ? threads - 1 : 0, next = machine.backwards ? -1 : 1;
  for (int done = 0; done < threads;) {
    bool stuck = true;
    for (int w = 0; w < threads; w += kWarp)
      for (bool ready = true; ready;) {  // a warp goes as far as it gets before the next one
        ready = false;
        for (int i = w; i < w + kWarp; ++i) {
          const int thread = first + next * i;
          Fiber& fiber = machine.fibers[thread];
          if (fiber.done || fiber.waiting) continue;
          ready = true, stuck = false;
          take_turn(thread);
          done += fiber.done;
        }
      }
    if (stuck) stop("waits for threads that never come");
  }
  std::free(machine.shared);
}

template <class Brought, class Act>
void meet(Meeting& meeting, int members, int index, const char* name, Brought& mine, const Act& act) {
  meeting.brought.resize(members);
  if (meeting.arrived == 0) meeting.name = name;
  if (std::strcmp(meeting.name, name) != 0) stop("meets threads that are somewhere else");
  meeting.brought[index] = {machine.thread, &mine};
  if (++meeting.arrived == members) {
    act([&](int i) -> Brought& { return *static_cast<Brought*>(meeting.brought[i].second); });
    for (const auto& [thread, brought] : meeting.brought) machine.fibers[thread].waiting = false;
    meeting.arrived = 0;
  } else {
    machine.fibers[machine.thread].waiting = true;
    give_turn();
  }
}

template <class Brought, class Act>
void meet_warp(const char* name, Brought& mine, const Act& act) {
  meet(machine.warps[machine.thread / kWarp], kWarp, machine.thread % kWarp, name, mine, act);
}

inline int thread() { return machine.thread; }
inline int threads() { return machine.threads; }
inline int64_t block() { return machine.block; }
inline char* shared_memory() { return machine.shared; }

inline void sync_block() {
  int nothing = 0;
  meet(machine.all, machine.threads, machine.thread, "sync_block", nothing, [](const auto&) {});
}

struct bfloat16 {
  uint16_t bits;
};
using float16 = _Float16;

inline float float_of(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
inline float to_float(float v) { return v; }
inline float to_float(float16 v) { return static_cast<float>(v); }
inline float to_float(bfloat16 v) { return float_of(uint32_t{v.bits} << 16); }

// To the nearest, to the even one of two.
template <class T>
T rounded(float v) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const uint32_t bits = bits_of(v);
    return {static_cast<uint16_t>(v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  } else {
    return static_cast<T>(v);
  }
}

// To the nearest, away from zero of two.
inline uint32_t to_tf32(float v) { return v != v ? 0x7fffffff : (bits_of(v) + 0x1000) & 0xffffe000; }

template <class T>
void put_pair(T* to, float left, float right) {
  if (reinterpret_cast<uintptr_t>(to) % (2 * sizeof(T)) != 0) stop("writes a pair that is not aligned");
  to[0] = rounded<T>(left), to[1] = rounded<T>(right);
}
inline void get_pair(const float* from, float (&pair)[2]) {
  if (reinterpret_cast<uintptr_t>(from) % 8 != 0) stop("reads a pair that is not aligned");
  pair[0] = from[0], pair[1] = from[1];
}

inline Chunk load_constant(const void* address) { return *static_cast<const Chunk*>(address); }

inline void copy_async(void* shared, const void* global) {
  machine.fibers[machine.thread].copies.emplace_back(shared, global);
}
inline void wait_for_copies() {
  auto& copies = machine.fibers[machine.thread].copies;
  for (const auto& [shared, global] : copies)
    *static_cast<Chunk*>(shared) = *static_cast<const Chunk*>(global);
  copies.clear();
}

// By halves, as shuffles do it: each lane ends with the same bits.
inline float sum_of_warp(float v) {
  meet_warp("sum_of_warp", v, [](const auto& lane) {
    float sums[kWarp];
    for (int l = 0; l < kWarp; ++l) sums[l] = lane(l);
    for (int half = kWarp / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
    for (int l = 0; l < kWarp; ++l) lane(l) = sums[0];
  });
  return v;
}

// PTX: ldmatrix .x4, .trans.
template <bool kTransposed>
void load_matrices(uint32_t (&word)[4], const void* row) {
  struct {
    uint32_t* word;
    const void* row;
  } mine = {word, row};
  meet_warp(kTransposed ? "ldmatrix.trans" : "ldmatrix", mine, [](const auto& lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t element[8][8];
      for (int r = 0; r < 8; ++r) {
        const Chunk c = *static_cast<const Chunk*>(lane(8 * matrix + r).row);
        std::memcpy(element[r], &c, sizeof c);
      }
      for (int l = 0; l < kWarp; ++l) {
        const int i = l / 4, j = 2 * (l % 4);
        const uint32_t low = kTransposed ? element[j][i] : element[i][j];
        const uint32_t high = kTransposed ? element[j + 1][i] : element[i][j + 1];
        lane(l).word[matrix] = high << 16 | low;
      }
    }
  });
}

// PTX: mma.m16n8k16 of 16-bit types, mma.m16n8k8 of TF32. How tensor cores round sums is not imitated.
template <class T>
void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct {
    float* sum;
    const uint32_t *a, *b;
  } mine = {sum, a, b};
  meet_warp("mma", mine, [](const auto& lane) {
    constexpr int kOfWord = std::is_same_v<T, float> ? 1 : 2, K = 8 * kOfWord;
    const auto value = [](uint32_t word, int i) {
      if constexpr (std::is_same_v<T, float>) {
        return float_of(word & 0xffffe000);
      } else {
        const uint16_t bits = static_cast<uint16_t>(word >> 16 * i);
        T v;
        std::memcpy(&v, &bits, 2);
        return to_float(v);
      }
    };
    float matrix_a[16][K], matrix_b[K][8], product[16][8] = {};
    for (int l = 0; l < kWarp; ++l)
      for (int i = 0; i < kOfWord; ++i) {
        const int row = l / 4, k = l % 4 * kOfWord + i;
        for (int w = 0; w < 4; ++w) matrix_a[row + w % 2 * 8][k + w / 2 * K / 2] = value(lane(l).a[w], i);
        for (int w = 0; w < 2; ++w) matrix_b[k + w * K / 2][row] = value(lane(l).b[w], i);
      }
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < K; ++k)
        for (int n = 0; n < 8; ++n) product[m][n] += matrix_a[m][k] * matrix_b[k][n];
    for (int l = 0; l < kWarp; ++l)
      for (int i = 0; i < 4; ++i) lane(l).sum[i] += product[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  });
}

template <class Parameters>
void launch(void (*kernel)(Parameters), int64_t blocks, int threads, int shared_bytes, Stream,
            const Parameters& parameters) {
  if (shared_bytes > shared_limit(0)) throw std::runtime_error("too much shared memory");
  for (int64_t i = 0; i < blocks; ++i)
    run_block(machine.backwards ? blocks - 1 - i : i, threads, shared_bytes, [&] { kernel(parameters); });
}

template <class Parameters>
bool built(void (*)(Parameters)) {
  return true;
}

}  // namespace wxkernels::cuda
