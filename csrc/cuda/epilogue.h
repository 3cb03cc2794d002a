// What linear_int8 does to eight neighbouring int32 sums of a row. CPU code too, for the tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>

#include "wxkernels/linear_int8_cuda.h"

#define WX_GPU_AND_CPU __host__ __device__ __forceinline__

namespace wxkernels::cuda {

constexpr int kOctet = 8;

WX_GPU_AND_CPU float power_of_two(float e) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(e));
  return y;
#else
  return std::exp2(e);
#endif
}

WX_GPU_AND_CPU float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

// Both forms of GELU are max(x, 0) - a Q(a), a = |x|, Q a falling tail that is 0 past 16: nothing cancels.
WX_GPU_AND_CPU float tail_argument(float x) { return fminf(fabsf(x), 16.0f); }
WX_GPU_AND_CPU float minus_tail(float x, float a, float tail) { return fmaf(-a, tail, x < 0 ? 0.0f : x); }

// x Phi(x): Q(a) = Phi(-a). The polynomial is log2 of that, fitted on [0, 6] for the smallest error of a
// Q(a), and falls beyond. Error against float64: 8e-8 max(|x|, 1) (PyTorch 2.13: 3e-7).
WX_GPU_AND_CPU float gelu(float x) {
  const float a = tail_argument(x);
  float e = -0x1.395884p-20f;
  e = fmaf(e, a, 0x1.365dc6p-16f);
  e = fmaf(e, a, -0x1.53e6c4p-14f);
  e = fmaf(e, a, -0x1.afaadap-12f);
  e = fmaf(e, a, 0x1.e92cf4p-8f);
  e = fmaf(e, a, -0x1.b0ba14p-5f);
  e = fmaf(e, a, -0x1.d615b6p-2f);
  e = fmaf(e, a, -0x1.26b0aap+0f);
  e = fmaf(e, a, -0x1.ffffc4p-1f);
  return minus_tail(x, a, power_of_two(e));
}

// x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3): Q(a) = 1 / (1 + exp(2 u(a))).
WX_GPU_AND_CPU float gelu_tanh(float x) {
  constexpr float k = 2 * 0.7978845608f * 1.4426950409f;  // exp(2 u) = 2^(k (a + 0.044715 a^3))
  const float a = tail_argument(x);
  const float e = k * fmaf(0.044715f * a * a, a, a);
  return minus_tail(x, a, quotient(1.0f, 1.0f + power_of_two(e)));
}

// clamp(round_half_even(y), -127, 127), and 0 for a NaN.
WX_GPU_AND_CPU int to_int8(float y) {
#ifdef __CUDA_ARCH__
  int q;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(q) : "f"(y));  // saturates, and makes 0 of a NaN
  return max(-127, min(127, q));
#else
  return y != y ? 0 : static_cast<int>(std::nearbyint(std::fmin(std::fmax(y, -127.0f), 127.0f)));
#endif
}

template <class T>
WX_GPU_AND_CPU const T* at(const void* base, int64_t index) {
  return static_cast<const T*>(base) + index;
}

// Eight values in one access of 16 bytes, or two.
WX_GPU_AND_CPU void load(const void* base, Dtype dtype, int64_t index, float (&y)[kOctet]) {
  if (dtype == Dtype::float32) {
    for (int half = 0; half < 2; ++half) {
      const float4 v = *reinterpret_cast<const float4*>(at<float>(base, index) + 4 * half);
      y[4 * half] = v.x, y[4 * half + 1] = v.y, y[4 * half + 2] = v.z, y[4 * half + 3] = v.w;
    }
    return;
  }
  const uint4 words = *reinterpret_cast<const uint4*>(at<uint16_t>(base, index));
  const unsigned word[4] = {words.x, words.y, words.z, words.w};
  for (int i = 0; i < 4; ++i) {
    float2 v;
    if (dtype == Dtype::bfloat16) {
      __nv_bfloat162 pair;
      std::memcpy(&pair, &word[i], 4);
      v = __bfloat1622float2(pair);
    } else {
      __half2 pair;
      std::memcpy(&pair, &word[i], 4);
      v = __half22float2(pair);
    }
    y[2 * i] = v.x, y[2 * i + 1] = v.y;
  }
}

// A whole vector; of a plain assignment the compiler makes four.
template <class Vector>
WX_GPU_AND_CPU void put(void* base, int64_t byte, const Vector& v) {
  Vector* const to = reinterpret_cast<Vector*>(static_cast<char*>(base) + byte);
#ifdef __CUDA_ARCH__
  __stcg(to, v);
#else
  *to = v;
#endif
}

WX_GPU_AND_CPU void store(void* base, Dtype dtype, int64_t index, const float (&y)[kOctet]) {
  if (dtype == Dtype::float32) {
    put(base, 4 * index, make_float4(y[0], y[1], y[2], y[3]));
    put(base, 4 * index + 16, make_float4(y[4], y[5], y[6], y[7]));
    return;
  }
  unsigned word[4];
  for (int i = 0; i < 4; ++i) {
    if (dtype == Dtype::bfloat16) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(y[2 * i], y[2 * i + 1]);
      std::memcpy(&word[i], &pair, 4);
    } else {
      const __half2 pair = __floats2half2_rn(y[2 * i], y[2 * i + 1]);
      std::memcpy(&word[i], &pair, 4);
    }
  }
  put(base, 2 * index, make_uint4(word[0], word[1], word[2], word[3]));
}

WX_GPU_AND_CPU void store_int8(void* base, int64_t index, const float (&y)[kOctet], float steps_per_unit) {
  unsigned word[2] = {0, 0};
  for (int i = 0; i < kOctet; ++i)
    word[i / 4] |= static_cast<unsigned>(to_int8(y[i] * steps_per_unit) & 0xff) << i % 4 * 8;
  put(base, index, make_uint2(word[0], word[1]));
}

// Scale and bias of eight columns, the same for all rows.
struct Columns {
  float scale[kOctet], bias[kOctet];
  WX_GPU_AND_CPU Columns(const Weights& w, int64_t column) {
    load(w.scale, Dtype::float32, column, scale);
    if (w.bias != nullptr)
      load(w.bias, Dtype::float32, column, bias);
    else
      for (float& b : bias) b = 0;
  }
};

// 1 / out_scale, for `finish`.
WX_GPU_AND_CPU float steps_per_unit(const LinearInt8Cuda& op) {
  return op.out_dtype == Dtype::int8 ? 1 / *op.out_scale : 1.0f;
}

// Writes out[row, column ... column + 7].
WX_GPU_AND_CPU void finish(const LinearInt8Cuda& op, float steps_per_unit, int64_t row, int64_t column,
                           const Columns& columns, const int (&sum)[kOctet]) {
  const float row_scale = op.x_scale[row * op.x_scale_stride];
  float y[kOctet];
  for (int i = 0; i < kOctet; ++i)
    y[i] = fmaf(static_cast<float>(sum[i]), row_scale * columns.scale[i], columns.bias[i]);
  if (op.activation == Activation::gelu) {
    for (float& v : y) v = gelu(v);
  } else if (op.activation == Activation::gelu_tanh) {
    for (float& v : y) v = gelu_tanh(v);
  }
  if (op.residual != nullptr) {
    float r[kOctet];
    load(op.residual, op.residual_dtype, row * op.residual_stride + column, r);
    for (int i = 0; i < kOctet; ++i) y[i] += r[i];
  }
  const int64_t index = row * op.weights.outputs + column;
  if (op.out_dtype == Dtype::int8) {
    store_int8(op.out, index, y, steps_per_unit);
  } else {
    store(op.out, op.out_dtype, index, y);
  }
}

// Lane q of four holds columns 2q, 2q + 1 of four octets, octet o in a[2o], a[2o + 1]. After one exchange for
// each bit of q it holds octet q, the columns in order. On the GPU V is int; a test gives four lanes at once.
template <class Lane, class V>
WX_GPU_AND_CPU void exchange(const Lane& lane, int bit, V& low, V& high) {
  const V got = lane.swap(bit, lane.pick(bit, low, high));
  const V kept_low = lane.pick(bit, got, low), kept_high = lane.pick(bit, high, got);
  low = kept_low, high = kept_high;
}

template <class Lane, class V>
WX_GPU_AND_CPU void transpose(const Lane& lane, V (&a)[kOctet]) {
  for (int i = 0; i < kOctet; ++i)
    if ((i & 2) == 0) exchange(lane, 1, a[i], a[i + 2]);
  for (int i = 0; i < 4; ++i) exchange(lane, 2, a[i], a[i + 4]);
}

}  // namespace wxkernels::cuda
