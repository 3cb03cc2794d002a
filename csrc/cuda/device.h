// What kernels use of a GPU. tests/cuda_on_cpu/cuda/device.h has the same names on a CPU, so that kernels
// written against this header alone run in the tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/runtime.h"

#define WX_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define WX_DEVICE __device__ __forceinline__
#define WX_HOST_DEVICE __host__ __device__ inline

namespace wxkernels::cuda {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

constexpr int kWarp = 32;

struct alignas(16) Chunk {  // what one access moves
  uint32_t word[4];
};

WX_DEVICE int thread() { return threadIdx.x; }
WX_DEVICE int threads() { return blockDim.x; }
WX_DEVICE int64_t block() { return blockIdx.x; }
WX_DEVICE void sync_block() { __syncthreads(); }

// Of the block, aligned to 128 bytes, not initialised.
WX_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

WX_DEVICE float to_float(float v) { return v; }
WX_DEVICE float to_float(bfloat16 v) { return __bfloat162float(v); }
WX_DEVICE float to_float(float16 v) { return __half2float(v); }
template <class T>
WX_DEVICE T rounded(float v) {
  if constexpr (sizeof(T) == 4)
    return v;
  else if constexpr (std::is_same_v<T, bfloat16>)
    return __float2bfloat16_rn(v);
  else
    return __float2half_rn(v);
}

// Neighbours in one access; `to` is aligned to both.
WX_DEVICE void put_pair(float* to, float left, float right) {
  *reinterpret_cast<float2*>(to) = make_float2(left, right);
}
WX_DEVICE void put_pair(bfloat16* to, float left, float right) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(left, right);
}
WX_DEVICE void put_pair(float16* to, float left, float right) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(left, right);
}
WX_DEVICE void get_pair(const float* from, float (&pair)[2]) {
  const float2 v = *reinterpret_cast<const float2*>(from);
  pair[0] = v.x, pair[1] = v.y;
}

WX_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }

// The nearest TF32, as its bits.
WX_DEVICE uint32_t to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}

// Read through the cache of constants: nobody writes there while the kernel runs.
WX_DEVICE Chunk load_constant(const void* address) {
  const uint4 v = __ldg(static_cast<const uint4*>(address));
  return {{v.x, v.y, v.z, v.w}};
}

// 16 aligned bytes to shared memory, there after wait_for_copies() of this thread.
WX_DEVICE void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
WX_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// The following four are for whole warps.

WX_DEVICE float sum_of_warp(float v) {
  for (int bit = kWarp / 2; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffff, v, bit);
  return v;
}

// Four 8 x 8 matrices of 16-bit elements: lanes 8 i ... 8 i + 7 give the addresses of the rows of matrix i,
// which reaches lane l in word[i], elements (l / 4, 2 (l % 4)) and its right neighbour; of the transpose, if
// so.
template <bool kTransposed>
WX_DEVICE void load_matrices(uint32_t (&word)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(address)
                 : "memory");
}

// sum += a b, 16 x 8, with 16 of K for 16-bit operands and 8 for TF32 (T is float).
template <class T>
WX_DEVICE void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#define WX_MMA(shape_and_types)                                                                              \
  asm("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                               \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (std::is_same_v<T, bfloat16>)
    WX_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  else if constexpr (std::is_same_v<T, float16>)
    WX_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else
    WX_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#undef WX_MMA
}

// Puts a kernel on a stream.
template <class Parameters>
void launch(void (*kernel)(Parameters), int64_t blocks, int threads, int shared_bytes, Stream stream,
            const Parameters& parameters) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(parameters);
  check(cudaGetLastError());
}

// Whether this build has a kernel for the current device.
template <class Parameters>
bool built(void (*kernel)(Parameters)) {
  cudaFuncAttributes attributes;
  const bool is = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  cudaGetLastError();  // forget it
  return is;
}

}  // namespace wxkernels::cuda
