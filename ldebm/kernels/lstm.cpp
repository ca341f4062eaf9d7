// All steps of a long short-term memory on packed rows, forward and backward.
//
// The equations are those of ldebm/nn/lstm.py, the gates in the order i, f, g, o; blocks and
// arithmetic are those of gru.cpp.
//
// Shapes: B rows, N tokens in time-major order, H hidden size.
#include <torch/library.h>

#include <tuple>

#include "recurrent.h"

namespace ldebm {
namespace {

constexpr int64_t kGates = 4 * kColumns, kSaved = 6;  // i, f, g, o, c before, tanh(c after)

struct State {
  float *h, *c;            // (B, H)
  float *saved, *outputs;  // (N, 6H), (N, H)
};

void forward_block(const bf16* values, const float* product, Span span, int64_t first,
                   int64_t rows, int64_t unit, int64_t hidden, const State& state, bf16* next,
                   int64_t next_rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t b = first + row, token = span.start + b;
    for (int64_t column = 0; column < kColumns; column += kLanes) {
      const bf16* x = values + token * 4 * hidden + unit + column;
      const float* w = product + row * kGates + column;
      const __m512 i = sigmoid(_mm512_add_ps(load(w), load(x)));
      const __m512 f = sigmoid(_mm512_add_ps(load(w + kColumns), load(x + hidden)));
      const __m512 g = tanh(_mm512_add_ps(load(w + 2 * kColumns), load(x + 2 * hidden)));
      const __m512 o = sigmoid(_mm512_add_ps(load(w + 3 * kColumns), load(x + 3 * hidden)));
      const int64_t at = b * hidden + unit + column;
      const __m512 before = load(state.c + at);
      const __m512 c = _mm512_fmadd_ps(f, before, _mm512_mul_ps(i, g));
      const __m512 squashed = tanh(c), h = _mm512_mul_ps(o, squashed);
      store(state.c + at, c);
      store(state.h + at, h);
      float* keep = state.saved + token * kSaved * hidden + unit + column;
      store(keep, i);
      store(keep + hidden, f);
      store(keep + 2 * hidden, g);
      store(keep + 3 * hidden, o);
      store(keep + 4 * hidden, before);
      store(keep + 5 * hidden, squashed);
      store(state.outputs + token * hidden + unit + column, h);
      if (b < next_rows) store(next + at, h);
    }
  }
}

// Returns (outputs (N, H), last h and c (B, H), what the backward pass needs (N, 6H), h before each
// step in bfloat16 (N, H)).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& values, const Tensor& weight, const Tensor& first_h, const Tensor& first_c,
    at::IntArrayRef sizes, bool reverse) {
  const int64_t hidden = weight.size(1), tokens = values.size(0);
  TORCH_CHECK(hidden % kColumns == 0, "lstm_forward: hidden size ", hidden,
              " is no multiple of 32");
  TORCH_CHECK(values.scalar_type() == at::kBFloat16 && first_h.scalar_type() == at::kFloat,
              "lstm_forward: values must be bfloat16 and states float32");
  const auto spans = spans_of(sizes, reverse);
  const Tensor x = values.contiguous(), first = first_h.contiguous();
  Tensor h = first.clone(), c = first_c.clone(at::MemoryFormat::Contiguous);
  Tensor saved = at::empty({tokens, kSaved * hidden}, h.options());
  Tensor outputs = at::empty({tokens, hidden}, h.options());
  Tensor before = at::empty({tokens, hidden}, x.options());
  const Tensor packed = pack_forward(weight);
  const State state{h.mutable_data_ptr<float>(), c.mutable_data_ptr<float>(),
                    saved.mutable_data_ptr<float>(), outputs.mutable_data_ptr<float>()};
  const bf16* in = x.const_data_ptr<bf16>();
  const bf16* w = packed.const_data_ptr<bf16>();
  const float* start = first.const_data_ptr<float>();
  bf16* rounded = before.mutable_data_ptr<bf16>();
  int64_t started = 0;
  for (size_t step = 0; step < spans.size(); ++step) {
    const Span span = spans[step];
    bf16* now = rounded + span.start * hidden;
    if (span.rows > started) {
      round_rows(start + started * hidden, now + started * hidden,
                 (span.rows - started) * hidden);
      started = span.rows;
    }
    const bool last = step + 1 == spans.size();
    const int64_t next_rows = last ? 0 : std::min(span.rows, spans[step + 1].rows);
    bf16* next = last ? nullptr : rounded + spans[step + 1].start * hidden;
    const int64_t row_blocks = blocks(span.rows, kRows);
    at::parallel_for(0, hidden / kColumns * row_blocks, 1, [&](int64_t low, int64_t high) {
      alignas(64) float product[kRows * kGates];
      for (int64_t task = low; task < high; ++task) {
        const int64_t panel = task / row_blocks, top = task % row_blocks * kRows;
        const int64_t rows = std::min(kRows, span.rows - top);
        multiply(rows, kGates, hidden, now + top * hidden, hidden, w + panel * hidden * kGates,
                 product, kGates, false);
        forward_block(in, product, span, top, rows, panel * kColumns, hidden, state, next,
                      next_rows);
      }
      release();
    });
  }
  return {outputs, h, c, saved, before};
}

// Everything of one row of a step but the product.
void backward_row(const float* saved, const float* d_outputs, int64_t token, int64_t b,
                  int64_t hidden, float* d_h, float* d_c, bf16* d_pre) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const auto slope = [&](__m512 gate) { return _mm512_mul_ps(gate, _mm512_sub_ps(one, gate)); };
  const float* kept = saved + token * kSaved * hidden;
  for (int64_t column = 0; column < hidden; column += kLanes) {
    const float* at = kept + column;
    const __m512 i = load(at), f = load(at + hidden), g = load(at + 2 * hidden);
    const __m512 o = load(at + 3 * hidden), before = load(at + 4 * hidden);
    const __m512 squashed = load(at + 5 * hidden);
    __m512 dh = load(d_h + b * hidden + column);
    if (d_outputs) dh = _mm512_add_ps(dh, load(d_outputs + token * hidden + column));
    float* carried = d_c + b * hidden + column;
    const __m512 through = _mm512_mul_ps(o, _mm512_fnmadd_ps(squashed, squashed, one));
    const __m512 dc = _mm512_fmadd_ps(dh, through, load(carried));
    store(carried, _mm512_mul_ps(dc, f));
    bf16* to = d_pre + token * 4 * hidden + column;
    store(to, _mm512_mul_ps(dc, _mm512_mul_ps(g, slope(i))));
    store(to + hidden, _mm512_mul_ps(dc, _mm512_mul_ps(before, slope(f))));
    store(to + 2 * hidden, _mm512_mul_ps(dc, _mm512_mul_ps(i, _mm512_fnmadd_ps(g, g, one))));
    store(to + 3 * hidden, _mm512_mul_ps(dh, _mm512_mul_ps(squashed, slope(o))));
  }
}

// Returns the gradients of (pre-activations (N, 4H), first h, first c).
std::tuple<Tensor, Tensor, Tensor> lstm_backward(
    const std::optional<Tensor>& d_outputs, const std::optional<Tensor>& d_last_h,
    const std::optional<Tensor>& d_last_c, const Tensor& weight, const Tensor& saved,
    at::IntArrayRef sizes, bool reverse) {
  const int64_t hidden = weight.size(1), tokens = saved.size(0);
  const auto spans = spans_of(sizes, reverse);
  const int64_t batch = *std::max_element(sizes.begin(), sizes.end());
  const auto started = [&](const std::optional<Tensor>& given) {
    return given ? given->clone(at::MemoryFormat::Contiguous)
                 : at::zeros({batch, hidden}, saved.options());
  };
  Tensor h = started(d_last_h), c = started(d_last_c);
  const Tensor d_out = d_outputs ? d_outputs->contiguous() : Tensor();
  Tensor pre = at::empty({tokens, 4 * hidden}, saved.options().dtype(at::kBFloat16));
  const Tensor packed = pack_backward(weight);
  const float* kept = saved.const_data_ptr<float>();
  const float* d = d_outputs ? d_out.const_data_ptr<float>() : nullptr;
  float* d_h = h.mutable_data_ptr<float>();
  float* d_c = c.mutable_data_ptr<float>();
  bf16* d_pre = pre.mutable_data_ptr<bf16>();
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    at::parallel_for(0, span->rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        backward_row(kept, d, span->start + b, b, hidden, d_h, d_c, d_pre);
    });
    multiply_back(d_pre + span->start * 4 * hidden, span->rows, 4 * hidden, hidden,
                  packed.const_data_ptr<bf16>(), d_h, false);
  }
  return {pre, h, c};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ldebm, library) {
  library.def(
      "lstm_forward(Tensor values, Tensor weight, Tensor first_h, Tensor first_c, int[] sizes, "
      "bool reverse) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      &lstm_forward);
  library.def(
      "lstm_backward(Tensor? d_outputs, Tensor? d_last_h, Tensor? d_last_c, Tensor weight, "
      "Tensor saved, int[] sizes, bool reverse) -> (Tensor, Tensor, Tensor)",
      &lstm_backward);
}

}  // namespace ldebm
