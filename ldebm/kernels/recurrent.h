// What recurrent layers on packed rows share: the order of steps, and weights packed for products.
#pragma once

#include <ATen/Functions.h>

#include <algorithm>
#include <vector>

#include "vector.h"

namespace ldebm {

constexpr int64_t kRows = 32, kColumns = 32;  // of a block: rows by units

struct Span {
  int64_t start, rows;
};

// Steps in the order in which they are computed.
inline std::vector<Span> spans_of(at::IntArrayRef sizes, bool reverse) {
  std::vector<Span> spans;
  int64_t start = 0;
  for (const int64_t rows : sizes) {
    spans.push_back({start, rows});
    start += rows;
  }
  if (reverse) std::reverse(spans.begin(), spans.end());
  return spans;
}

inline int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// W_hh^T in panels of kColumns units, gate by gate: (H / kColumns, H / 2, gates * kColumns, 2).
inline Tensor pack_forward(const Tensor& weight) {
  const int64_t hidden = weight.size(1), columns = weight.size(0) / hidden * kColumns;
  const Tensor rounded = weight.to(at::kBFloat16).contiguous();
  Tensor packed = at::empty({weight.numel()}, rounded.options());
  const bf16* from = rounded.const_data_ptr<bf16>();
  bf16* to = packed.mutable_data_ptr<bf16>();
  at::parallel_for(0, hidden / kColumns, 1, [&](int64_t low, int64_t high) {
    for (int64_t panel = low; panel < high; ++panel) {
      const auto row_at = [&](int64_t column) {
        const int64_t unit = panel * kColumns + column % kColumns;
        return from + (column / kColumns * hidden + unit) * hidden;
      };
      pack_transposed(columns, hidden, row_at, to + panel * hidden * columns);
    }
  });
  return packed;
}

// W_hh in panels of kColumns units: (H / kColumns, gates * H / 2, kColumns, 2).
inline Tensor pack_backward(const Tensor& weight) {
  const int64_t hidden = weight.size(1), rows = weight.size(0);
  const Tensor rounded = weight.to(at::kBFloat16).contiguous();
  Tensor packed = at::empty({weight.numel()}, rounded.options());
  const bf16* from = rounded.const_data_ptr<bf16>();
  bf16* to = packed.mutable_data_ptr<bf16>();
  at::parallel_for(0, hidden / kColumns, 1, [&](int64_t low, int64_t high) {
    for (int64_t panel = low; panel < high; ++panel)
      for (int64_t row = 0; row < rows; row += 2)
        for (int64_t c = 0; c < kColumns; c += kLanes) {
          const bf16* at = from + row * hidden + panel * kColumns + c;
          interleave(at, at + hidden, to + (panel * rows + row) * kColumns + 2 * c);
        }
  });
  return packed;
}

inline void round_rows(const float* from, bf16* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(from + i));
}

// state (rows, H) = or += d_pre (rows, gates * H) W_hh, with W_hh as pack_backward gives it.
inline void multiply_back(const bf16* d_pre, int64_t rows, int64_t width, int64_t hidden,
                          const bf16* packed, float* state, bool add) {
  const int64_t row_blocks = blocks(rows, kRows);
  at::parallel_for(0, hidden / kColumns * row_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / row_blocks, top = task % row_blocks * kRows;
      multiply(std::min(kRows, rows - top), kColumns, width, d_pre + top * width, width,
               packed + panel * width * kColumns, state + top * hidden + panel * kColumns, hidden,
               add);
    }
    release();
  });
}

}  // namespace ldebm
