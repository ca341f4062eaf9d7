// x sigmoid(x) of bfloat16 tensors, its derivative and the derivative of that: each one pass over
// memory, where the plain path of a double gradient takes about ten.
//
// With s = sigmoid(x): silu' = s (1 + x (1 - s)), silu'' = s (1 - s) (2 + x (1 - 2 s)).
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "vector.h"

namespace ldebm {
namespace {

constexpr int64_t kAtLeast = 1 << 15;  // elements of a thread

inline __m512 load_part(const bf16* p, __mmask16 mask) {
  const __m256i half = _mm256_maskz_loadu_epi16(mask, p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store_part(bf16* p, __mmask16 mask, __m512 x) {
  const __m256bh half = _mm512_cvtneps_pbh(x);
  _mm256_mask_storeu_epi16(p, mask, reinterpret_cast<const __m256i&>(half));
}

// out = f(a, b, c) by element of tensors that are laid out alike.
template <typename Map>
void map(const bf16* a, const bf16* b, const bf16* c, bf16* out, int64_t size, Map f) {
  at::parallel_for(0, (size + kLanes - 1) / kLanes, kAtLeast / kLanes,
                   [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kLanes; i < std::min(end * kLanes, size); i += kLanes) {
      const auto mask = __mmask16((1u << std::min(kLanes, size - i)) - 1);
      store_part(out + i, mask,
                 f(load_part(a + i, mask), load_part(b + i, mask), load_part(c + i, mask)));
    }
  });
}

// The tensor in the memory order of `like`, so that elements stand at the same places.
Tensor laid_out(const Tensor& x, const Tensor& like) {
  if (x.strides() == like.strides()) return x;
  return at::empty_like(like).copy_(x);
}

Tensor dense(const Tensor& x) {
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "silu: expected bfloat16");
  return x.is_non_overlapping_and_dense() ? x : x.contiguous();
}

const bf16* data(const Tensor& x) { return x.const_data_ptr<bf16>(); }

// Its reciprocal is good to 14 bits, of which bfloat16 keeps 8.
inline __m512 rough_sigmoid(__m512 x) {
  const __m512 e = exp(_mm512_sub_ps(_mm512_setzero_ps(), x));
  return _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

inline __m512 slope(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), s = rough_sigmoid(x);
  return _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one));
}

inline __m512 curvature(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f), s = rough_sigmoid(x);
  const __m512 inner = _mm512_fmadd_ps(x, _mm512_fnmadd_ps(two, s, one), two);
  return _mm512_mul_ps(_mm512_mul_ps(s, _mm512_sub_ps(one, s)), inner);
}

Tensor value_of(const Tensor& x) {
  Tensor out = at::empty_like(x);
  const bf16* at = data(x);
  map(at, at, at, out.mutable_data_ptr<bf16>(), x.numel(),
      [](__m512 a, __m512, __m512) { return _mm512_mul_ps(a, rough_sigmoid(a)); });
  return out;
}

Tensor back(const Tensor& g, const Tensor& x) {
  Tensor out = at::empty_like(x);
  map(data(x), data(g), data(x), out.mutable_data_ptr<bf16>(), x.numel(),
      [](__m512 a, __m512 b, __m512) { return _mm512_mul_ps(b, slope(a)); });
  return out;
}

Tensor back_twice(const Tensor& c, const Tensor& g, const Tensor& x) {
  Tensor out = at::empty_like(x);
  map(data(x), data(g), data(c), out.mutable_data_ptr<bf16>(), x.numel(),
      [](__m512 a, __m512 b, __m512 d) {
        return _mm512_mul_ps(_mm512_mul_ps(b, d), curvature(a));
      });
  return out;
}

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct SiluBack : torch::autograd::Function<SiluBack> {
  static Tensor forward(AutogradContext* ctx, const Tensor& g, const Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Tensor like = laid_out(g, x);
    ctx->save_for_backward({like, x});
    return back(like, x);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list given) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &g = saved[0], &x = saved[1];
    if (!given[0].defined()) return {Tensor(), Tensor()};
    const Tensor c = laid_out(given[0], x);
    return {ctx->needs_input_grad(0) ? back(c, x) : Tensor(),
            ctx->needs_input_grad(1) ? back_twice(c, g, x) : Tensor()};
  }
};

struct Silu : torch::autograd::Function<Silu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Tensor whole = dense(x);
    ctx->save_for_backward({whole});
    return value_of(whole);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list given) {
    return {SiluBack::apply(given[0], ctx->get_saved_variables()[0])};
  }
};

Tensor silu(const Tensor& x) {
  if (x.requires_grad() && at::GradMode::is_enabled()) return Silu::apply(x);
  return value_of(dense(x));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ldebm, library) { library.def("silu(Tensor x) -> Tensor", &silu); }

}  // namespace ldebm
