// LayerNorm and int8 rows on the CPU: blocks of rows over the threads.
#include "wxkernels/layer_norm.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/runtime.h"

namespace wxkernels {
namespace {

// Values of a task: enough that handing it out costs nothing.
constexpr int64_t kTaskValues = int64_t{1} << 15;

// run(first row, end of rows, work space) on blocks of rows.
template <class Run>
void over_rows(const Rows& in, int threads, const Run& run) {
  Runtime& runtime = Runtime::instance();
  threads = std::max(threads, 1);
  const size_t work_size = to_cache_line(kernels().rows.row_floats(in.channels));
  const auto scratch = runtime.scratch();
  float* const work = scratch->reserve(work_size * threads);
  const int64_t block = std::max<int64_t>(1, kTaskValues / in.channels);
  runtime.pool().run((in.rows + block - 1) / block, threads, [&](int64_t task, int thread) {
    run(task * block, std::min((task + 1) * block, in.rows), work + work_size * thread);
  });
}

}  // namespace

void layer_norm(const LayerNorm& op, int threads) {
  const int64_t values = op.in.rows * op.in.channels;
  if (values == 0) return;
  const int64_t bytes = values * (op.scale != nullptr ? 1 : op.in.dtype == Dtype::float32 ? 4 : 2);
  prepare_output(op.out, bytes);
  const bool streams = op.scale == nullptr && passes_caches(op.out, bytes, op.in.dtype, op.in.channels);
  const RowKernels& kernel = kernels().rows;
  over_rows(op.in, threads, [&](int64_t first, int64_t stop, float* work) {
    kernel.layer_norm(op, streams, first, stop, work);
  });
}

void quantize_rows(const QuantizeRows& op, int threads) {
  const int64_t values = op.in.rows * op.in.channels;
  if (values == 0) return;
  prepare_output(op.out, values);
  const RowKernels& kernel = kernels().rows;
  over_rows(op.in, threads,
            [&](int64_t first, int64_t stop, float* work) { kernel.quantize_rows(op, first, stop, work); });
}

}  // namespace wxkernels
