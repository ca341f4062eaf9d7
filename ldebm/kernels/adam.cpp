// Clipping to a global norm and Adam (Kingma and Ba 2015) in two passes over memory: one over the
// gradients for their norm, one that scales them and updates everything else.
//
// The norm adds up fixed parts in a fixed order, so that it does not depend on the number of
// threads.
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

namespace ldebm {
namespace {

constexpr int64_t kPart = 1 << 16;

struct Part {
  float *value, *mean, *square;
  const float* gradient;
  int64_t size;
};

std::vector<Part> parts_of(at::TensorList values, at::TensorList gradients, at::TensorList means,
                           at::TensorList squares) {
  std::vector<Part> parts;
  for (size_t i = 0; i < values.size(); ++i) {
    for (const Tensor& x : {values[i], gradients[i], means[i], squares[i]})
      TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_non_overlapping_and_dense() &&
                      x.sizes() == values[i].sizes() && x.strides() == values[i].strides(),
                  "clip_adam: expected float32 tensors of one layout without gaps");
    for (int64_t at = 0; at < values[i].numel(); at += kPart)
      parts.push_back({values[i].data_ptr<float>() + at, means[i].data_ptr<float>() + at,
                       squares[i].data_ptr<float>() + at,
                       gradients[i].const_data_ptr<float>() + at,
                       std::min(kPart, values[i].numel() - at)});
  }
  return parts;
}

// Sum of squares; lanes in float32 over kPart elements, the rest in float64.
double square_sum(const float* x, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes) {
    const auto mask = __mmask16((1u << std::min(kLanes, size - i)) - 1);
    const __m512 part = _mm512_maskz_loadu_ps(mask, x + i);
    sum = _mm512_fmadd_ps(part, part, sum);
  }
  return _mm512_reduce_add_ps(sum);
}

// `clip` at or below zero: no clipping. `step` counts from 1.
void clip_adam(at::TensorList values, at::TensorList gradients, at::TensorList means,
               at::TensorList squares, double clip, double lr, double beta1, double beta2,
               double eps, double decay, int64_t step) {
  const auto parts = parts_of(values, gradients, means, squares);
  double scale = 1.0;
  if (clip > 0) {
    std::vector<double> sums(parts.size());
    at::parallel_for(0, int64_t(parts.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[i] = square_sum(parts[i].gradient, parts[i].size);
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    const double limit = clip / (std::sqrt(total) + 1e-6);
    scale = limit < 1.0 || std::isnan(limit) ? limit : 1.0;
  }
  const double correction = std::sqrt(1.0 - std::pow(beta2, double(step)));
  const __m512 s = _mm512_set1_ps(float(scale)), b1 = _mm512_set1_ps(float(1.0 - beta1));
  const __m512 b2 = _mm512_set1_ps(float(beta2)), c2 = _mm512_set1_ps(float(1.0 - beta2));
  const __m512 rate = _mm512_set1_ps(float(lr / (1.0 - std::pow(beta1, double(step)))));
  const __m512 over = _mm512_set1_ps(float(1.0 / correction)), e = _mm512_set1_ps(float(eps));
  const __m512 weight_decay = _mm512_set1_ps(float(decay));
  at::parallel_for(0, int64_t(parts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const Part& at = parts[part];
      for (int64_t i = 0; i < at.size; i += kLanes) {
        const auto mask = __mmask16((1u << std::min(kLanes, at.size - i)) - 1);
        const __m512 value = _mm512_maskz_loadu_ps(mask, at.value + i);
        __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, at.gradient + i), s);
        g = _mm512_fmadd_ps(weight_decay, value, g);
        __m512 m = _mm512_maskz_loadu_ps(mask, at.mean + i);
        m = _mm512_fmadd_ps(b1, _mm512_sub_ps(g, m), m);
        __m512 v = _mm512_maskz_loadu_ps(mask, at.square + i);
        v = _mm512_fmadd_ps(_mm512_mul_ps(c2, g), g, _mm512_mul_ps(b2, v));
        const __m512 spread = _mm512_fmadd_ps(_mm512_sqrt_ps(v), over, e);
        const __m512 move = _mm512_div_ps(_mm512_mul_ps(rate, m), spread);
        _mm512_mask_storeu_ps(at.mean + i, mask, m);
        _mm512_mask_storeu_ps(at.square + i, mask, v);
        _mm512_mask_storeu_ps(at.value + i, mask, _mm512_sub_ps(value, move));
      }
    }
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ldebm, library) {
  library.def(
      "clip_adam(Tensor(a!)[] values, Tensor[] gradients, Tensor(b!)[] means, "
      "Tensor(c!)[] squares, float clip, float lr, float beta1, float beta2, float eps, "
      "float decay, int step) -> ()",
      &clip_adam);
}

}  // namespace ldebm
