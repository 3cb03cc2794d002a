// The linear layers on the CPU: weights packed once a call, then blocks of rows over the threads.
#include <algorithm>
#include <vector>

#include "cpu/isa.h"
#include "cpu/runtime.h"
#include "wxkernels/linear_int8.h"
#include "wxkernels/mlp.h"
#include "wxkernels/patch.h"

namespace wxkernels {
namespace {

constexpr int64_t kBlocksOfThread =
    4;  // at least, where there are rows for it: the end waits for the slowest

int64_t size_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : dtype == Dtype::int8 ? 1 : 2; }

// run(packed weights, first row, rows, work space) on each block of rows.
template <class Work, class Run>
void over_rows(int64_t rows, const std::vector<Weights>& weights, int threads, const Work& work,
               const Run& run) {
  const LinearKernels& kernel = kernels().linear;
  Runtime& runtime = Runtime::instance();
  threads = std::max(threads, 1);
  const RowTiles of = kernel.row_tiles(weights.front().dtype);
  const int64_t share = rows / (kBlocksOfThread * threads) / of.tile * of.tile;
  const int64_t block_rows = std::min(of.block, std::max(share, of.tile));

  size_t all_weights = 0;
  for (const Weights& w : weights) all_weights += to_cache_line(kernel.packed_size(w));
  const size_t work_size = to_cache_line(work(block_rows));
  const auto scratch = runtime.scratch();
  float* const base = scratch->reserve(all_weights + work_size * threads);
  float* const work_base = base + all_weights;

  ThreadPool& pool = runtime.pool();
  std::vector<const float*> packed;
  float* next = base;
  for (const Weights& w : weights) {
    pool.run(kernel.panels(w), threads, [&](int64_t panel, int) { kernel.pack_panel(w, panel, next); });
    packed.push_back(next);
    next += to_cache_line(kernel.packed_size(w));
  }
  pool.run((rows + block_rows - 1) / block_rows, threads, [&](int64_t block, int thread) {
    const int64_t first = block * block_rows;
    run(packed.data(), first, std::min(block_rows, rows - first), work_base + work_size * thread);
  });
}

}  // namespace

void linear_int8(const LinearInt8& op, int threads) {
  if (op.rows * op.weights.outputs == 0) return;
  const LinearKernels& kernel = kernels().linear;
  prepare_output(op.out, op.rows * op.weights.outputs * size_of(op.out_dtype));
  over_rows(
      op.rows, {op.weights}, threads, [&](int64_t rows) { return kernel.linear_int8_work(op, rows); },
      [&](const float* const* packed, int64_t first, int64_t rows, float* work) {
        kernel.linear_int8(op, packed[0], first, rows, work);
      });
}

void mlp(const Mlp& op, int threads) {
  if (op.rows * op.fc1.inputs == 0) return;
  const LinearKernels& kernel = kernels().linear;
  const int64_t bytes = op.rows * op.fc1.inputs * size_of(op.dtype);
  prepare_output(op.out, bytes);
  const bool streams = passes_caches(op.out, bytes, op.dtype, op.fc1.inputs);
  over_rows(
      op.rows, {op.fc1, op.fc2}, threads, [&](int64_t rows) { return kernel.mlp_work(op, rows); },
      [&](const float* const* packed, int64_t first, int64_t rows, float* work) {
        kernel.mlp(op, streams, packed[0], packed[1], first, rows, work);
      });
}

void patch_embed(const PatchEmbed& op, int threads) {
  const int64_t tokens = op.batch * op.rows * op.columns;
  if (tokens * op.weights.outputs == 0) return;
  const LinearKernels& kernel = kernels().linear;
  prepare_output(op.out, tokens * op.weights.outputs * size_of(op.dtype));
  over_rows(
      tokens, {op.weights}, threads, [&](int64_t rows) { return kernel.patch_embed_work(op, rows); },
      [&](const float* const* packed, int64_t first, int64_t rows, float* work) {
        kernel.patch_embed(op, packed[0], first, rows, work);
      });
}

void patch_head(const PatchHead& op, int threads) {
  const int64_t tokens = op.batch * op.rows * op.columns;
  if (tokens * op.weights.outputs == 0) return;
  const LinearKernels& kernel = kernels().linear;
  prepare_output(op.out, tokens * op.weights.outputs * size_of(op.dtype));
  over_rows(
      tokens, {op.weights}, threads, [&](int64_t rows) { return kernel.patch_head_work(op, rows); },
      [&](const float* const* packed, int64_t first, int64_t rows, float* work) {
        kernel.patch_head(op, packed[0], first, rows, work);
      });
}

}  // namespace wxkernels
