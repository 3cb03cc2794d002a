// Vectors of the instruction set that this translation unit is compiled for (WX_ISA names it). Everything
// lives in a namespace of that name and nothing of the standard library that has code is included: an inline
// function compiled for AVX-512 must never be the one that the linker keeps for all.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/kernels.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own header (its bug 105593)
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define WX_INLINE inline __attribute__((always_inline))
#define WX_LAMBDA __attribute__((always_inline))

namespace wxkernels::WX_ISA {

// A compile-time index: unroll<3>(f) calls f(Int<0>{}), f(Int<1>{}), f(Int<2>{}).
template <int N>
struct Int {
  static constexpr int value = N;
  constexpr operator int() const { return N; }
};

template <int... I, class F>
WX_INLINE void unroll(std::integer_sequence<int, I...>, const F& f) {
  (f(Int<I>{}), ...);
}

template <int N, class F>
WX_INLINE void unroll(const F& f) {
  unroll(std::make_integer_sequence<int, N>{}, f);
}

WX_INLINE uint32_t float_bits(float a) {
  uint32_t bits;
  std::memcpy(&bits, &a, sizeof bits);
  return bits;
}
WX_INLINE float bits_float(uint32_t bits) {
  float a;
  std::memcpy(&a, &bits, sizeof a);
  return a;
}

#if defined(__AVX512F__)

using vec = __m512;
using ints = __m512i;
constexpr int kLanes = 16;
constexpr int kTileRows = 9, kTileVecs = 3;  // 27 sums, 3 weights, 1 input of 32 registers

struct Lanes {  // the first n lanes of a vector
  __mmask16 mask;
  explicit Lanes(int n) : mask(static_cast<__mmask16>((1u << n) - 1)) {}
};

WX_INLINE vec set1(float a) { return _mm512_set1_ps(a); }
WX_INLINE vec load(const float* p) { return _mm512_load_ps(p); }
WX_INLINE void store(float* p, vec a) { _mm512_store_ps(p, a); }
WX_INLINE vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
WX_INLINE vec fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
WX_INLINE vec max(vec a, vec b) { return _mm512_max_ps(a, b); }  // b where either is NaN
WX_INLINE vec min(vec a, vec b) { return _mm512_min_ps(a, b); }  // b where either is NaN

// A whole cache line past the caches: it is not read first, and x stays in them.
constexpr bool kStreams = true;
WX_INLINE void stream(float* p, vec a) { _mm512_stream_ps(p, a); }
WX_INLINE void end_streams() { _mm_sfence(); }

WX_INLINE vec only(Lanes n, vec a) { return _mm512_maskz_mov_ps(n.mask, a); }  // 0 in the other lanes
WX_INLINE float sum_lanes(vec a) { return _mm512_reduce_add_ps(a); }
// The larger of a and |b| by their bits, a >= 0: a NaN is larger than all numbers.
WX_INLINE vec max_magnitude(vec a, vec b) {
  const ints magnitude = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fffffff));
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), magnitude));
}
WX_INLINE float max_lane(vec a) {  // of magnitudes, by their bits
  return bits_float(static_cast<uint32_t>(_mm512_reduce_max_epi32(_mm512_castps_si512(a))));
}

WX_INLINE vec load(const float* p, Lanes n) { return _mm512_maskz_loadu_ps(n.mask, p); }
WX_INLINE void store(float* p, vec a, Lanes n) { _mm512_mask_storeu_ps(p, n.mask, a); }

WX_INLINE vec load(const bf16* p, Lanes n) {
  const ints u = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(n.mask, p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
WX_INLINE vec load(const f16* p, Lanes n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n.mask, p)); }
WX_INLINE void store(f16* p, vec a, Lanes n) {
  _mm256_mask_storeu_epi16(p, n.mask, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// a in [-127, 127] rounded half to even, plus the offset: signed bytes with 0, unsigned ones with 128.
WX_INLINE void store_bytes(uint8_t* p, vec a, int offset, Lanes n) {
  const __m128i q = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a));
  _mm_mask_storeu_epi8(p, n.mask, _mm_add_epi8(q, _mm_set1_epi8(static_cast<char>(offset))));
}

#if defined(__AVX512BF16__)

WX_INLINE void store(bf16* p, vec a, Lanes n) {
  _mm256_mask_storeu_epi16(p, n.mask, (__m256i)_mm512_cvtneps_pbh(a));
}
// Complex numbers rounded to bfloat16, the real part in the low half of each lane.
WX_INLINE ints pack(vec re, vec im) {
  const ints low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(re));
  const ints high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(im));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
// acc + the products of both halves.
WX_INLINE vec dot(vec acc, ints a, ints b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
WX_INLINE ints set1(uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
WX_INLINE ints load(const uint32_t* p) { return _mm512_load_si512(p); }
WX_INLINE void store(uint32_t* p, ints a) { _mm512_store_si512(p, a); }

#else

WX_INLINE void store(bf16* p, vec a, Lanes n) {
  const ints u = _mm512_castps_si512(a);
  const ints odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const ints rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const ints quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));  // rounding could make a NaN infinite
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const ints bits = _mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16);
  _mm256_mask_storeu_epi16(p, n.mask, _mm512_cvtepi32_epi16(bits));
}

#endif

#elif defined(__AVX2__)

using vec = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 6, kTileVecs = 2;  // 12 sums, 2 weights, 1 input of 16 registers

struct Lanes {
  int n;
  __m256i mask;
  explicit Lanes(int n)
      : n(n), mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
};

WX_INLINE vec set1(float a) { return _mm256_set1_ps(a); }
WX_INLINE vec load(const float* p) { return _mm256_load_ps(p); }
WX_INLINE void store(float* p, vec a) { _mm256_store_ps(p, a); }
WX_INLINE vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
WX_INLINE vec fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
WX_INLINE vec max(vec a, vec b) { return _mm256_max_ps(a, b); }
WX_INLINE vec min(vec a, vec b) { return _mm256_min_ps(a, b); }

WX_INLINE vec only(Lanes n, vec a) { return _mm256_and_ps(a, _mm256_castsi256_ps(n.mask)); }
WX_INLINE float sum_lanes(vec a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
WX_INLINE vec max_magnitude(vec a, vec b) {
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(b), _mm256_set1_epi32(0x7fffffff));
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), magnitude));
}

WX_INLINE vec load(const float* p, Lanes n) {
  return n.n == kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, n.mask);
}
WX_INLINE void store(float* p, vec a, Lanes n) {
  if (n.n == kLanes) {
    _mm256_storeu_ps(p, a);
  } else {
    _mm256_maskstore_ps(p, n.mask, a);
  }
}

WX_INLINE __m128i load_16bit(const void* p, Lanes n) {
  if (n.n == kLanes) return _mm_loadu_si128(static_cast<const __m128i*>(p));
  __m128i u = _mm_setzero_si128();
  std::memcpy(&u, p, 2 * static_cast<size_t>(n.n));
  return u;
}
WX_INLINE void store_16bit(void* p, __m128i u, Lanes n) { std::memcpy(p, &u, 2 * static_cast<size_t>(n.n)); }

WX_INLINE vec load(const bf16* p, Lanes n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16bit(p, n)), 16));
}
WX_INLINE void store(bf16* p, vec a, Lanes n) {
  const __m256i u = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i bits = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  store_16bit(p, _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1)), n);
}
WX_INLINE vec load(const f16* p, Lanes n) { return _mm256_cvtph_ps(load_16bit(p, n)); }
WX_INLINE void store(f16* p, vec a, Lanes n) {
  store_16bit(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), n);
}

WX_INLINE void store_bytes(uint8_t* p, vec a, int offset, Lanes n) {
  const __m256i q = _mm256_cvtps_epi32(a);
  const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  const __m128i bytes = _mm_add_epi8(_mm_packs_epi16(pairs, pairs), _mm_set1_epi8(static_cast<char>(offset)));
  std::memcpy(p, &bytes, static_cast<size_t>(n.n));
}

#else  // four lanes that the compiler maps on what its base target has: SSE2, NEON or plain registers

typedef float vec __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kTileRows = 6, kTileVecs = 2;

struct Lanes {
  int n;
  explicit Lanes(int n) : n(n) {}
};

WX_INLINE vec set1(float a) { return vec{a, a, a, a}; }
WX_INLINE vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
WX_INLINE void store(float* p, vec a) { *reinterpret_cast<vec*>(p) = a; }
WX_INLINE vec fma(vec a, vec b, vec c) { return a * b + c; }
WX_INLINE vec fnma(vec a, vec b, vec c) { return c - a * b; }
WX_INLINE vec max(vec a, vec b) { return a > b ? a : b; }
WX_INLINE vec min(vec a, vec b) { return a < b ? a : b; }

WX_INLINE vec only(Lanes n, vec a) {
  for (int i = n.n; i < kLanes; ++i) a[i] = 0;
  return a;
}
WX_INLINE float sum_lanes(vec a) { return (a[0] + a[2]) + (a[1] + a[3]); }
typedef int32_t int_vec __attribute__((vector_size(16)));
WX_INLINE vec max_magnitude(vec a, vec b) {
  const int_vec so_far = reinterpret_cast<int_vec>(a), magnitude = reinterpret_cast<int_vec>(b) & 0x7fffffff;
  return reinterpret_cast<vec>(so_far > magnitude ? so_far : magnitude);
}

WX_INLINE float to_float(float a) { return a; }
WX_INLINE float to_float(bf16 a) { return bits_float(static_cast<uint32_t>(a.bits) << 16); }
WX_INLINE float to_float(f16 a) {
  const uint32_t sign = static_cast<uint32_t>(a.bits & 0x8000) << 16,
                 rest = static_cast<uint32_t>(a.bits & 0x7fff) << 13;
  // Exponent 31 (infinity, NaN) moves to 255; the product rescales all others, subnormal ones too.
  const float value = rest >= 0x0f800000 ? bits_float(rest | 0x7f800000) : bits_float(rest) * 0x1p112f;
  return bits_float(float_bits(value) | sign);
}
WX_INLINE void from_float(float a, float& to) { to = a; }
WX_INLINE void from_float(float a, bf16& to) {
  const uint32_t u = float_bits(a);
  to.bits = static_cast<uint16_t>((a == a ? u + 0x7fff + ((u >> 16) & 1) : u | 0x400000) >> 16);
}
WX_INLINE void from_float(float a, f16& to) {
  const uint32_t u = float_bits(a), sign = (u >> 16) & 0x8000, rest = u & 0x7fffffff;
  uint32_t half;
  if (rest > 0x7f800000) {
    half = 0x7e00;  // NaN
  } else if (rest >= 0x477ff000) {
    half = 0x7c00;  // rounds to infinity
  } else if (rest < 0x38800000) {
    half = float_bits(bits_float(rest) + 0.5f) - 0x3f000000;  // subnormal: 0.5 + a rounds at the right bit
  } else {
    half = (rest - 0x38000000 + 0xfff + ((rest >> 13) & 1)) >> 13;
  }
  to.bits = static_cast<uint16_t>(half | sign);
}

template <class T>
WX_INLINE vec load(const T* p, Lanes n) {
  float a[kLanes] = {};
  for (int i = 0; i < n.n; ++i) a[i] = to_float(p[i]);
  return vec{a[0], a[1], a[2], a[3]};
}
template <class T>
WX_INLINE void store(T* p, vec a, Lanes n) {
  for (int i = 0; i < n.n; ++i) from_float(a[i], p[i]);
}

WX_INLINE void store_bytes(uint8_t* p, vec a, int offset, Lanes n) {
  const vec shift = set1(0x1.8p23f);  // the sum has no bits for a fraction: it is rounded
  const vec q = (a + shift) - shift;
  for (int i = 0; i < n.n; ++i) p[i] = static_cast<uint8_t>(static_cast<int>(q[i]) + offset);
}

#endif

#if !defined(__AVX512F__)  // a vector is less than a cache line
constexpr bool kStreams = false;
WX_INLINE void stream(float*, vec) {}
WX_INLINE void end_streams() {}

WX_INLINE float max_lane(vec a) {
  uint32_t largest = 0;
  for (int i = 0; i < kLanes; ++i) largest = float_bits(a[i]) > largest ? float_bits(a[i]) : largest;
  return bits_float(largest);
}
#endif

// f(a value of the C++ type of a floating dtype)
template <class F>
WX_INLINE void with_dtype(Dtype dtype, const F& f) {
  if (dtype == Dtype::bfloat16) {
    f(bf16{});
  } else if (dtype == Dtype::float16) {
    f(f16{});
  } else {
    f(float{});
  }
}

}  // namespace wxkernels::WX_ISA
