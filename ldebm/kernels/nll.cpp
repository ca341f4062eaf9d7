// -log softmax(W h)[target] of tokens and its gradients, without the logits as one array.
//
// A block of kTokens rows goes through the vocabulary kWords columns at a time: the product gives
// logits in float32, of which the running maximum and sum of exponentials are kept and, where
// gradients are wanted, the logits as half floats (11 bits; the block's lie in the cache). A second
// pass makes the errors, softmax - one-hot, in bfloat16, multiplies them with W for the gradient in
// h, and keeps them, two tokens beside each other, for the gradient in W.
//
// Shapes: N tokens, D size of the hidden vectors, V vocabulary, P vocabulary in whole panels.
#include <torch/library.h>

#include <ATen/Functions.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "vector.h"

namespace ldebm {
namespace {

constexpr int64_t kTokens = 128, kWords = 64, kSpan = 1024, kKept = 1024, kGroup = 4;

int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }
int64_t whole(int64_t size, int64_t block) { return blocks(size, block) * block; }

// W^T for the logits, (P / kWords, D / 2, kWords, 2); rows beyond V are zero.
Tensor pack_logits(const Tensor& weight) {
  const int64_t words = weight.size(0), size = weight.size(1), panels = blocks(words, kWords);
  Tensor packed = at::empty({panels * kWords * size}, weight.options());
  const bf16* from = weight.const_data_ptr<bf16>();
  bf16* to = packed.mutable_data_ptr<bf16>();
  at::parallel_for(0, panels, 1, [&](int64_t low, int64_t high) {
    for (int64_t panel = low; panel < high; ++panel) {
      const auto row_at = [&](int64_t column) {
        const int64_t word = panel * kWords + column;
        return word < words ? from + word * size : nullptr;
      };
      pack_transposed(kWords, size, row_at, to + panel * kWords * size);
    }
  });
  return packed;
}

// W for the gradient in h: spans of kSpan words, in each (D / kWords, span / 2, kWords, 2).
Tensor pack_errors(const Tensor& weight) {
  const int64_t words = weight.size(0), size = weight.size(1), padded = whole(words, kWords);
  Tensor packed = at::empty({padded * size}, weight.options());
  const bf16* from = weight.const_data_ptr<bf16>();
  bf16* to = packed.mutable_data_ptr<bf16>();
  const std::vector<bf16> zeros(size, bf16(0.0f));
  at::parallel_for(0, blocks(padded, kSpan), 1, [&](int64_t low, int64_t high) {
    for (int64_t span = low; span < high; ++span) {
      const int64_t first = span * kSpan, rows = std::min(kSpan, padded - first);
      for (int64_t row = 0; row < rows; row += 2) {
        const int64_t word = first + row;
        const bf16* upper = word < words ? from + word * size : zeros.data();
        const bf16* lower = word + 1 < words ? from + (word + 1) * size : zeros.data();
        for (int64_t c = 0; c < size; c += kLanes)
          interleave(upper + c, lower + c,
                     to + first * size + (c / kWords * rows + row) * kWords + c % kWords * 2);
      }
    }
  });
  return packed;
}

// Running maximum and sum of exponentials, sixteen columns apart.
struct Total {
  alignas(64) float top[kLanes];
  alignas(64) float sum[kLanes];
};

void start(Total& total) {
  for (int64_t i = 0; i < kLanes; ++i) total.top[i] = -1e30f, total.sum[i] = 0.0f;
}

// Takes kWords logits of a token into `total`; columns from `valid` on are masked.
void add_logits(float* logits, int64_t valid, Total& total, uint16_t* kept) {
  for (int64_t c = valid; c < kWords; ++c) logits[c] = -std::numeric_limits<float>::infinity();
  __m512 x[kWords / kLanes];
  __m512 top = load(total.top);
  const __m512 before = top;
  for (int64_t c = 0; c < kWords / kLanes; ++c) {
    x[c] = load(logits + c * kLanes);
    top = _mm512_max_ps(top, x[c]);
  }
  __m512 sum = load(total.sum);
  if (_mm512_cmp_ps_mask(top, before, _CMP_NEQ_UQ)) {
    sum = _mm512_mul_ps(sum, exp(_mm512_sub_ps(before, top)));
    store(total.top, top);
  }
  for (const __m512& part : x) sum = _mm512_add_ps(sum, exp(_mm512_sub_ps(part, top)));
  store(total.sum, sum);
  if (kept == nullptr) return;
  const __m512 largest = _mm512_set1_ps(65504.0f), least = _mm512_set1_ps(-65504.0f);
  for (int64_t c = 0; c < kWords / kLanes; ++c) {
    const __m512 safe = _mm512_max_ps(least, _mm512_min_ps(largest, x[c]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(kept + c * kLanes),
                        _mm512_cvtps_ph(safe, _MM_FROUND_TO_NEAREST_INT));
  }
}

float log_total(const Total& total) {
  const __m512 tops = load(total.top);
  const float top = _mm512_reduce_max_ps(tops);
  const __m512 sums = _mm512_mul_ps(load(total.sum), exp(_mm512_sub_ps(tops, _mm512_set1_ps(top))));
  return top + std::log(_mm512_reduce_add_ps(sums));
}

float dot(const float* a, const float* b, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t c = 0; c < size; c += kLanes) sum = _mm512_fmadd_ps(load(a + c), load(b + c), sum);
  return _mm512_reduce_add_ps(sum);
}

__m512 load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

struct Work {
  const float *hidden, *weight;                    // (N, D), (V, D)
  const bf16 *rounded, *for_logits, *for_errors;  // (N, D), packed W
  const int64_t* targets;
  int64_t words, padded, size;
  float *nll, *d_hidden;  // (N,), (N, D) or null
  std::vector<bf16*> kept;  // of every kKept tokens: (P / kWords, tokens / 2, kWords, 2), or none
  std::vector<int64_t> kept_tokens;
};

// nll of a block; `logits` (rows, P) takes half floats, or is null. Returns log sum exp in `logs`.
void block_nll(const Work& work, int64_t first, int64_t rows, uint16_t* logits, float* logs) {
  alignas(64) float product[kTokens * kWords];
  std::vector<Total> totals(rows);
  for (auto& total : totals) start(total);
  for (int64_t left = 0; left < work.padded; left += kWords) {
    multiply(rows, kWords, work.size, work.rounded + first * work.size, work.size,
             work.for_logits + left * work.size, product, kWords, false);
    const int64_t valid = std::min(kWords, work.words - left);
    for (int64_t i = 0; i < rows; ++i)
      add_logits(product + i * kWords, valid, totals[i],
                 logits ? logits + i * work.padded + left : nullptr);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t token = first + i;
    logs[i] = log_total(totals[i]);
    // The target's logit in full precision: its rounding would not average out over words.
    work.nll[token] = logs[i] - dot(work.hidden + token * work.size,
                                    work.weight + work.targets[token] * work.size, work.size);
  }
}

// softmax - one-hot of `span` words from `left` on, (rows, kSpan); a last odd row is zeroed.
void block_errors(const Work& work, int64_t first, int64_t rows, int64_t left, int64_t span,
                  const uint16_t* logits, const float* logs, bf16* errors) {
  for (int64_t i = 0; i < rows; ++i) {
    const uint16_t* from = logits + i * work.padded + left;
    const __m512 log = _mm512_set1_ps(logs[i]);
    for (int64_t c = 0; c < span; c += kLanes)
      store(errors + i * kSpan + c, exp(_mm512_sub_ps(load_half(from + c), log)));
    const int64_t at = work.targets[first + i] - left;
    if (at >= 0 && at < span) {
      alignas(64) float share[kLanes];
      store(share, exp(_mm512_sub_ps(load_half(from + at / kLanes * kLanes), log)));
      errors[i * kSpan + at] = bf16(share[at % kLanes] - 1.0f);
    }
  }
  if (rows % 2) std::fill(errors + rows * kSpan, errors + rows * kSpan + span, bf16(0.0f));
}

void keep_errors(const Work& work, int64_t first, int64_t rows, int64_t left, int64_t span,
                 const bf16* errors) {
  const int64_t chunk = first / kKept, tokens = work.kept_tokens[chunk];
  for (int64_t i = 0; i < rows; i += 2)
    for (int64_t c = 0; c < span; c += kLanes) {
      const int64_t panel = (left + c) / kWords, row = first % kKept + i;
      interleave(errors + i * kSpan + c, errors + (i + 1) * kSpan + c,
                 work.kept[chunk] + (panel * tokens + row) * kWords + c % kWords * 2);
    }
}

// Both passes over one block.
void block(const Work& work, int64_t first, int64_t rows, uint16_t* logits, bf16* errors) {
  float logs[kTokens];
  block_nll(work, first, rows, logits, logs);
  if (logits == nullptr) return;
  for (int64_t left = 0; left < work.padded; left += kSpan) {
    const int64_t span = std::min(kSpan, work.padded - left);
    block_errors(work, first, rows, left, span, logits, logs, errors);
    if (!work.kept.empty()) keep_errors(work, first, rows, left, span, errors);
    if (work.d_hidden == nullptr) continue;
    for (int64_t c = 0; c < work.size; c += kWords)
      multiply(rows, kWords, span, errors, kSpan,
               work.for_errors + left * work.size + c * span,
               work.d_hidden + first * work.size + c, work.size, left > 0);
  }
}

// Returns (nll (N,), its gradient in every h (N, D), errors of every kKept tokens for nll_weight).
std::tuple<Tensor, Tensor, std::vector<Tensor>> nll_forward(
    const Tensor& hidden, const Tensor& weight, const Tensor& targets, bool need_hidden,
    bool need_weight) {
  const int64_t tokens = hidden.size(0), size = hidden.size(1), words = weight.size(0);
  TORCH_CHECK(size % kWords == 0, "nll_forward: hidden size ", size, " is no multiple of 64");
  TORCH_CHECK(hidden.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat,
              "nll_forward: expected float32");
  const Tensor h = hidden.contiguous(), w = weight.contiguous(), t = targets.contiguous();
  const Tensor rounded = h.to(at::kBFloat16), low = w.to(at::kBFloat16);
  const bool gradients = need_hidden || need_weight;
  const Tensor for_logits = pack_logits(low);
  const Tensor for_errors = need_hidden ? pack_errors(low) : Tensor();
  Tensor nll = at::empty({tokens}, h.options());
  Tensor d_hidden = at::empty({need_hidden ? tokens : 0, size}, h.options());
  std::vector<Tensor> kept;
  Work work{h.const_data_ptr<float>(), w.const_data_ptr<float>(), rounded.const_data_ptr<bf16>(),
            for_logits.const_data_ptr<bf16>(),
            need_hidden ? for_errors.const_data_ptr<bf16>() : nullptr,
            t.const_data_ptr<int64_t>(), words, whole(words, kWords), size,
            nll.mutable_data_ptr<float>(), need_hidden ? d_hidden.mutable_data_ptr<float>() : nullptr,
            {}, {}};
  for (int64_t first = 0; need_weight && first < tokens; first += kKept) {
    const int64_t rows = std::min(kKept, tokens - first), padded = whole(rows, 32);
    Tensor errors = padded == rows ? at::empty({work.padded, padded}, rounded.options())
                                   : at::zeros({work.padded, padded}, rounded.options());
    work.kept.push_back(errors.mutable_data_ptr<bf16>());
    work.kept_tokens.push_back(padded);
    kept.push_back(std::move(errors));
  }
  at::parallel_for(0, blocks(tokens, kTokens), 1, [&](int64_t begin, int64_t end) {
    const Tensor logits = at::empty({gradients ? kTokens * work.padded : 0}, rounded.options());
    const Tensor errors = at::empty({gradients ? kTokens * kSpan : 0}, rounded.options());
    auto* halves = gradients ? static_cast<uint16_t*>(logits.mutable_data_ptr()) : nullptr;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kTokens;
      block(work, first, std::min(kTokens, tokens - first), halves,
            gradients ? errors.mutable_data_ptr<bf16>() : nullptr);
    }
    release();
  });
  return {nll, d_hidden, kept};
}

// The gradient in W, (V, D), of sum scale * nll: errors^T (scale * h).
Tensor nll_weight(const Tensor& hidden, const Tensor& scale, at::TensorList errors, int64_t words) {
  const int64_t tokens = hidden.size(0), size = hidden.size(1), panels = blocks(words, kWords);
  const int64_t padded = whole(tokens, 32);
  Tensor scaled = at::zeros({size, padded}, hidden.options().dtype(at::kBFloat16));
  scaled.narrow(1, 0, tokens).copy_(at::mul(hidden, scale.unsqueeze(1)).t());
  Tensor out = at::empty({words, size}, hidden.options());
  const bf16* h = scaled.const_data_ptr<bf16>();
  float* to = out.mutable_data_ptr<float>();
  const __m512i columns = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
      _mm512_set1_epi32(int(kWords)));
  at::parallel_for(0, blocks(panels, kGroup), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(kGroup * size * kWords);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * kGroup, last = std::min(panels, first + kGroup);
      for (size_t chunk = 0; chunk < errors.size(); ++chunk) {
        const bf16* from = errors[chunk].const_data_ptr<bf16>();
        const int64_t rows = errors[chunk].size(1);
        for (int64_t c = 0; c < size; c += kWords)
          for (int64_t panel = first; panel < last; ++panel)
            multiply(kWords, kWords, rows, h + c * padded + int64_t(chunk) * kKept, padded,
                     from + panel * rows * kWords,
                     sums.data() + ((panel - first) * size + c) * kWords, kWords, chunk > 0);
      }
      for (int64_t word = first * kWords; word < std::min(words, last * kWords); ++word) {
        const float* column = sums.data() + (word / kWords - first) * size * kWords + word % kWords;
        for (int64_t c = 0; c < size; c += kLanes)
          store(to + word * size + c, _mm512_i32gather_ps(columns, column + c * kWords, 4));
      }
    }
    release();
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ldebm, library) {
  library.def(
      "nll_forward(Tensor hidden, Tensor weight, Tensor targets, bool need_hidden, "
      "bool need_weight) -> (Tensor, Tensor, Tensor[])",
      &nll_forward);
  library.def("nll_weight(Tensor hidden, Tensor scale, Tensor[] errors, int words) -> Tensor",
              &nll_weight);
}

}  // namespace ldebm
