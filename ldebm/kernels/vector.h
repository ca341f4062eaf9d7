// Sixteen floats at a time: conversions, exp, sigmoid, tanh; and packing for brgemm.
//
// Everything here needs AVX-512 with bfloat16 instructions; ldebm/kernels/__init__.py looks for
// them before it loads the library.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <cstdint>

namespace ldebm {

using at::Tensor;
using bf16 = at::BFloat16;

constexpr int64_t kLanes = 16;

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }

inline __m512 load(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store(bf16* p, __m512 x) {
  const __m256bh half = _mm512_cvtneps_pbh(x);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<const __m256i&>(half));
}

// e^x to about 2 units in the last place; 0 below -104, and NaN stays NaN.
inline __m512 exp(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// 1 - 2 / (1 + e^2x): an absolute error of about 1e-7.
inline __m512 tanh(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
  return _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(one, exp(_mm512_mul_ps(two, x)))));
}

// C (m, n) = or += A (m, k) B (k, n): A row-major, B with two neighbouring rows interleaved.
inline void multiply(int64_t m, int64_t n, int64_t k, const bf16* a, int64_t lda, const bf16* b,
                     float* c, int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, n, ldc, add, a, b, c, /*is_vnni=*/true);
}

// Frees the matrix unit that `multiply` took, at the end of a thread's part.
inline void release() { at::native::cpublas::brgemm_release(/*is_vnni=*/true); }

// B = rows^T of bfloat16 rows of length k: n rows that start at rows[0], rows[1], ...
template <typename RowAt>
inline void pack_transposed(int64_t n, int64_t k, RowAt row_at, bf16* out) {
  auto* pairs = reinterpret_cast<uint32_t*>(out);
  for (int64_t column = 0; column < n; ++column) {
    const auto* row = reinterpret_cast<const uint32_t*>(row_at(column));
    for (int64_t pair = 0; pair < k / 2; ++pair)
      pairs[pair * n + column] = row == nullptr ? 0 : row[pair];
  }
}

// Writes sixteen columns of two rows, one beside the other.
inline void interleave(const bf16* upper, const bf16* lower, bf16* out) {
  const __m512i a = _mm512_cvtepu16_epi32(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(upper)));
  const __m512i b = _mm512_cvtepu16_epi32(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lower)));
  _mm512_storeu_si512(out, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
}

}  // namespace ldebm
