// All steps of a gated recurrent unit on packed rows, forward and backward.
//
// The equations are those of ldebm/nn/gru.py. A step is one product with its gates computed while
// they are in the cache: blocks of kRows rows by kColumns units, three gates at a time. Products
// read bfloat16 and add up in float32; what they give is never rounded. Every element is computed
// by one thread in one order, so that results do not depend on the number of threads.
//
// Shapes: B rows, N tokens in time-major order, U rows of `values`, H hidden size.
#include <torch/library.h>

#include <tuple>

#include "recurrent.h"

namespace ldebm {
namespace {

constexpr int64_t kGates = 3 * kColumns;

struct Inputs {
  const bf16* values;
  const int64_t* index;  // which row of values a token takes; null: its own
  const float* row;      // (B, 3H) or null
  const float* bias;     // (H,) of W_hn
};

// Gates and new states of one block; `product` is (rows, kGates). `next` takes the rounded states.
void forward_block(const Inputs& in, const float* product, Span span, int64_t first, int64_t rows,
                   int64_t unit, int64_t hidden, float* state, float* saved, float* outputs,
                   bf16* next, int64_t next_rows) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t b = first + i, token = span.start + b;
    const bf16* x = in.values + (in.index ? in.index[token] : token) * 3 * hidden + unit;
    for (int64_t c = 0; c < kColumns; c += kLanes) {
      const float* w = product + i * kGates + c;
      __m512 r = _mm512_add_ps(load(w), load(x + c));
      __m512 u = _mm512_add_ps(load(w + kColumns), load(x + hidden + c));
      __m512 n = load(x + 2 * hidden + c);
      if (in.row) {
        const float* row = in.row + b * 3 * hidden + unit + c;
        r = _mm512_add_ps(r, load(row));
        u = _mm512_add_ps(u, load(row + hidden));
        n = _mm512_add_ps(n, load(row + 2 * hidden));
      }
      r = sigmoid(r);
      u = sigmoid(u);
      const __m512 recurrent = _mm512_add_ps(load(w + 2 * kColumns), load(in.bias + unit + c));
      n = tanh(_mm512_fmadd_ps(r, recurrent, n));
      float* h = state + b * hidden + unit + c;
      const __m512 after = _mm512_fmadd_ps(u, _mm512_sub_ps(load(h), n), n);
      store(h, after);
      if (saved) {
        float* keep = saved + token * 4 * hidden + unit + c;
        store(keep, r);
        store(keep + hidden, u);
        store(keep + 2 * hidden, n);
        store(keep + 3 * hidden, recurrent);
      }
      if (outputs) store(outputs + token * hidden + unit + c, after);
      if (b < next_rows) store(next + b * hidden + unit + c, after);
    }
  }
}

// Returns (outputs (N, H), last states (B, H), gates r, u, n and W_hn h + b (N, 4H), states before
// each step in bfloat16 (N, H)); what is not asked for is empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> gru_forward(
    const Tensor& values, const std::optional<Tensor>& index, const std::optional<Tensor>& row,
    const Tensor& weight, const Tensor& bias, const Tensor& initial, at::IntArrayRef sizes,
    bool reverse, bool keep, bool want_outputs) {
  const int64_t hidden = weight.size(1), batch = initial.size(0);
  TORCH_CHECK(hidden % kColumns == 0, "gru_forward: hidden size ", hidden, " is no multiple of 32");
  TORCH_CHECK(values.scalar_type() == at::kBFloat16 && initial.scalar_type() == at::kFloat,
              "gru_forward: values must be bfloat16 and states float32");
  const auto spans = spans_of(sizes, reverse);
  int64_t tokens = 0;
  for (const auto& span : spans) tokens += span.rows;
  const Tensor x = values.contiguous(), b = bias.contiguous();
  const Tensor at_index = index ? index->contiguous() : Tensor();
  const Tensor at_row = row ? row->contiguous() : Tensor();
  const Inputs in{x.const_data_ptr<bf16>(), index ? at_index.const_data_ptr<int64_t>() : nullptr,
                  row ? at_row.const_data_ptr<float>() : nullptr, b.const_data_ptr<float>()};
  Tensor state = initial.clone(at::MemoryFormat::Contiguous);
  Tensor saved = at::empty({keep ? tokens : 0, 4 * hidden}, state.options());
  Tensor outputs = at::empty({want_outputs ? tokens : 0, hidden}, state.options());
  // Kept: a row for every token. Else two buffers that take turns.
  Tensor before = at::empty({keep ? tokens : 2 * batch, hidden}, x.options());
  const Tensor packed = pack_forward(weight);
  const Tensor first_state = initial.contiguous();
  const float* first = first_state.const_data_ptr<float>();
  float* h = state.mutable_data_ptr<float>();
  float* out = want_outputs ? outputs.mutable_data_ptr<float>() : nullptr;
  float* gates = keep ? saved.mutable_data_ptr<float>() : nullptr;
  bf16* rounded = before.mutable_data_ptr<bf16>();
  const bf16* w = packed.const_data_ptr<bf16>();
  const auto at = [&](size_t step) {
    return rounded + (keep ? spans[step].start : int64_t(step % 2) * batch) * hidden;
  };
  int64_t started = 0;  // rows whose first step was before this one
  for (size_t step = 0; step < spans.size(); ++step) {
    const Span span = spans[step];
    if (span.rows > started) {
      round_rows(first + started * hidden, at(step) + started * hidden,
                 (span.rows - started) * hidden);
      started = span.rows;
    }
    const bool last = step + 1 == spans.size();
    const int64_t next_rows = last ? 0 : std::min(span.rows, spans[step + 1].rows);
    const bf16* now = at(step);
    bf16* next = last ? nullptr : at(step + 1);
    const int64_t row_blocks = blocks(span.rows, kRows);
    at::parallel_for(0, hidden / kColumns * row_blocks, 1, [&](int64_t low, int64_t high) {
      alignas(64) float product[kRows * kGates];
      for (int64_t task = low; task < high; ++task) {
        const int64_t panel = task / row_blocks, top = task % row_blocks * kRows;
        const int64_t rows = std::min(kRows, span.rows - top);
        multiply(rows, kGates, hidden, now + top * hidden, hidden, w + panel * hidden * kGates,
                 product, kGates, false);
        forward_block(in, product, span, top, rows, panel * kColumns, hidden, h, gates, out, next,
                      next_rows);
      }
      release();
    });
  }
  return {outputs, state, saved, keep ? before : at::empty({0, hidden}, x.options())};
}

struct Gradients {
  bf16* recurrent;  // (N, 3H) of the pre-activations that W_hh h is part of
  bf16* input;      // (N, 3H) of those that W_ih x is part of
  float* row;       // (B, 3H): their sums over a row's steps
  float* bias;      // (B, H): sums of the recurrent part of n
  float* state;     // (B, H)
};

// Everything of one row of a step but the product.
void backward_row(const float* saved, const float* outputs, const float* d_outputs, int64_t token,
                  int64_t b, int64_t hidden, const Gradients& out) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const float* gates = saved + token * 4 * hidden;
  for (int64_t c = 0; c < hidden; c += kLanes) {
    const __m512 r = load(gates + c), u = load(gates + hidden + c);
    const __m512 n = load(gates + 2 * hidden + c), recurrent = load(gates + 3 * hidden + c);
    float* dh = out.state + b * hidden + c;
    __m512 d = load(dh);
    if (d_outputs) d = _mm512_add_ps(d, load(d_outputs + token * hidden + c));
    store(dh, _mm512_mul_ps(d, u));
    d = _mm512_mul_ps(d, _mm512_sub_ps(one, u));
    const __m512 d_u = _mm512_mul_ps(d, _mm512_sub_ps(load(outputs + token * hidden + c), n));
    const __m512 d_n = _mm512_mul_ps(d, _mm512_fnmadd_ps(n, n, one));
    const __m512 d_h = _mm512_mul_ps(d_n, r);
    const __m512 d_r = _mm512_mul_ps(_mm512_mul_ps(d_h, recurrent), _mm512_sub_ps(one, r));
    bf16* to = out.recurrent + token * 3 * hidden + c;
    store(to, d_r);
    store(to + hidden, d_u);
    store(to + 2 * hidden, d_h);
    bf16* in = out.input + token * 3 * hidden + c;
    store(in, d_r);
    store(in + hidden, d_u);
    store(in + 2 * hidden, d_n);
    float* row = out.row + b * 3 * hidden + c;
    store(row, _mm512_add_ps(load(row), d_r));
    store(row + hidden, _mm512_add_ps(load(row + hidden), d_u));
    store(row + 2 * hidden, _mm512_add_ps(load(row + 2 * hidden), d_n));
    float* bias = out.bias + b * hidden + c;
    store(bias, _mm512_add_ps(load(bias), d_h));
  }
}

// Returns the gradients of (recurrent pre-activations, input pre-activations, row part, bias of
// W_hn by row, first states); that of W_hh is the first one's transpose times the states before.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_backward(
    const std::optional<Tensor>& d_outputs, const std::optional<Tensor>& d_last,
    const Tensor& weight, const Tensor& outputs, const Tensor& saved, at::IntArrayRef sizes,
    bool reverse) {
  const int64_t hidden = weight.size(1), tokens = saved.size(0);
  const auto spans = spans_of(sizes, reverse);
  int64_t batch = 0;
  for (const auto& span : spans) batch = std::max(batch, span.rows);
  const Tensor d_out = d_outputs ? d_outputs->contiguous() : Tensor();
  Tensor state = d_last ? d_last->clone(at::MemoryFormat::Contiguous)
                        : at::zeros({batch, hidden}, saved.options());
  const auto low = saved.options().dtype(at::kBFloat16);
  Tensor recurrent = at::empty({tokens, 3 * hidden}, low);
  Tensor input = at::empty({tokens, 3 * hidden}, low);
  Tensor row = at::zeros({batch, 3 * hidden}, saved.options());
  Tensor bias = at::zeros({batch, hidden}, saved.options());
  const Gradients out{recurrent.mutable_data_ptr<bf16>(), input.mutable_data_ptr<bf16>(),
                      row.mutable_data_ptr<float>(), bias.mutable_data_ptr<float>(),
                      state.mutable_data_ptr<float>()};
  const Tensor packed = pack_backward(weight);
  const bf16* w = packed.const_data_ptr<bf16>();
  const float* gates = saved.const_data_ptr<float>();
  const float* h = outputs.const_data_ptr<float>();
  const float* d = d_outputs ? d_out.const_data_ptr<float>() : nullptr;
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    at::parallel_for(0, span->rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        backward_row(gates, h, d, span->start + b, b, hidden, out);
    });
    multiply_back(out.recurrent + span->start * 3 * hidden, span->rows, 3 * hidden, hidden, w,
                  out.state, true);
  }
  return {recurrent, input, row, bias, state};
}

// Sums of the rows of x (N, C) that have the same index: (rows, C), each in the order of tokens.
Tensor sum_rows(const Tensor& x, const Tensor& index, int64_t rows) {
  constexpr int64_t kWidth = 128;
  const int64_t tokens = x.size(0), columns = x.size(1);
  TORCH_CHECK(columns % kLanes == 0 && x.is_contiguous(), "sum_rows: columns ", columns);
  const Tensor at_index = index.contiguous();
  Tensor total = at::zeros({rows, columns}, x.options().dtype(at::kFloat));
  Tensor out = at::empty({rows, columns}, x.options());
  const bf16* from = x.const_data_ptr<bf16>();
  const int64_t* which = at_index.const_data_ptr<int64_t>();
  float* sums = total.mutable_data_ptr<float>();
  bf16* to = out.mutable_data_ptr<bf16>();
  at::parallel_for(0, blocks(columns, kWidth), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t left = block * kWidth, right = std::min(columns, left + kWidth);
      for (int64_t token = 0; token < tokens; ++token)
        for (int64_t c = left; c < right; c += kLanes) {
          float* at = sums + which[token] * columns + c;
          store(at, _mm512_add_ps(load(at), load(from + token * columns + c)));
        }
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t c = left; c < right; c += kLanes)
          store(to + row * columns + c, load(sums + row * columns + c));
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ldebm, library) {
  library.def(
      "gru_forward(Tensor values, Tensor? index, Tensor? row, Tensor weight, Tensor bias, "
      "Tensor initial, int[] sizes, bool reverse, bool keep, bool outputs) "
      "-> (Tensor, Tensor, Tensor, Tensor)",
      &gru_forward);
  library.def(
      "gru_backward(Tensor? d_outputs, Tensor? d_last, Tensor weight, Tensor outputs, "
      "Tensor saved, int[] sizes, bool reverse) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      &gru_backward);
  library.def("sum_rows(Tensor x, Tensor index, int rows) -> Tensor", &sum_rows);
}

}  // namespace ldebm
