#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(WX_BUILT_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "wxkernels/cpu.h"

namespace wxkernels {
namespace {

struct Isa {
  const Kernels* kernels;
  bool runs;
};

#if defined(WX_BUILT_AMX)

// Whether there are tiles with int8 and bfloat16 products, and Linux grants them: it does so process by
// process, as their 8 KiB do not fit on every signal stack. PyTorch asks for the same.
bool grants_amx() {
  unsigned a, b, c, d = 0;
  constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (~d & (kBfloat16 | kTiles | kInt8)) != 0) return false;
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

#endif

// Lowest first. __builtin_cpu_supports asks the processor and whether the operating system saves the
// registers.
const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = [] {
    std::vector<Isa> list = {{&kernels_scalar, true}};
#if defined(WX_X86)
    __builtin_cpu_init();
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni");
    list.push_back({&kernels_avx2, avx2});
    list.push_back({&kernels_avx512, avx512});
    const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    list.push_back({&kernels_avx512_bf16, avx512_bf16});
#if defined(WX_BUILT_AMX)
    list.push_back({&kernels_amx, avx512_bf16 && grants_amx()});
#endif
#endif
    return list;
  }();
  return all;
}

const Kernels* named(const std::string& name) {
  std::string names;
  for (const Isa& isa : isas()) {
    if (isa.runs && isa.kernels->isa == name) return isa.kernels;
    if (isa.runs) names += (names.empty() ? "" : ", ") + std::string(isa.kernels->isa);
  }
  throw std::invalid_argument("instruction set \"" + name +
                              "\" does not run on this machine; choose one of " + names);
}

std::atomic<const Kernels*> in_force{nullptr};

}  // namespace

const Kernels& kernels() {
  if (const Kernels* chosen = in_force) return *chosen;
  const char* wanted = std::getenv("WXKERNELS_ISA");
  const Kernels* highest = nullptr;
  for (const Isa& isa : isas())
    if (isa.runs) highest = isa.kernels;
  in_force = wanted != nullptr && *wanted != '\0' ? named(wanted) : highest;
  return *in_force;
}

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas()) names.emplace_back(isa.kernels->isa);
  return names;
}

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas())
    if (isa.runs) names.emplace_back(isa.kernels->isa);
  return names;
}

std::string isa() { return kernels().isa; }

void set_isa(const std::string& name) { in_force = named(name); }

}  // namespace wxkernels
