#include "wxkernels/spectral_filter.h"

#include <algorithm>
#include <cmath>

#include "cpu/isa.h"
#include "cpu/runtime.h"

namespace wxkernels {
namespace {

int round_up(int64_t a, int to) { return static_cast<int>((a + to - 1) / to * to); }

constexpr size_t kMomentsFloats = sizeof(RowMoments) / sizeof(float);

// Enough columns that the MLP's weights are read from cache for many modes at once, few enough for its tiles
// to stay in L2.
constexpr int64_t kModesOfGroup = 90;
// Tasks a thread in a pass, at least: the end of a pass waits for the slowest; and the fewer items go
// together, the more of them is still in the caches when it is read again.
constexpr int64_t kTasksOfThread = 8;
// Row pairs a task: the pair that is read next shares pages with the last.
constexpr int64_t kPairsOfTask = 2;

}  // namespace

void spectral_filter(const SpectralFilter& op, int threads) {
  if (op.batch * op.height * op.width * op.blocks * op.block_size == 0) return;
  const SpectralFilterKernels& kernel = kernels().spectral_filter;
  Runtime& runtime = Runtime::instance();
  threads = std::max(threads, 1);

  SpectralFilterJob job;
  job.op = op;
  job.over_height = &runtime.fft_plan(static_cast<int>(op.height));
  job.over_width = &runtime.fft_plan(static_cast<int>(op.width));
  job.channels = round_up(op.block_size, kernel.lanes);
  job.hidden = round_up(op.hidden_size, kernel.lanes);
  job.group = static_cast<int>(
      std::max<int64_t>(1, kModesOfGroup / std::max<int64_t>(1, op.row_stop - op.row_start)));
  const int64_t element = op.dtype == Dtype::float32 ? 4 : 2;
  const int64_t out_bytes = op.batch * op.height * op.width * op.blocks * op.block_size * element;
  job.streams = passes_caches(op.out, out_bytes, op.dtype, op.block_size);
  prepare_output(op.out, out_bytes);
  const double scale = 1 / std::sqrt(static_cast<double>(op.height) * static_cast<double>(op.width));
  job.scale = static_cast<float>(scale);
  job.scale_rest = static_cast<float>(scale - job.scale);

  // All threads go through the three passes of a wave of items (sample, block) together: what they share, a
  // spectrum and the part of x that it came from, then stays in the last-level cache.
  const int64_t items = op.batch * op.blocks;
  const int64_t row_tasks = (op.height + 2 * kPairsOfTask - 1) / (2 * kPairsOfTask);
  const int64_t column_tasks = (op.columns + job.group - 1) / job.group;
  const int64_t least = std::max<int64_t>(1, std::min(row_tasks, column_tasks));
  const int64_t wave = std::min(items, (kTasksOfThread * threads + least - 1) / least);

  const size_t weights_size = to_cache_line(kernel.weights_size(job));
  const size_t work_size = to_cache_line(kernel.work_size(job));
  const size_t spectrum_size = to_cache_line(static_cast<size_t>(op.height) * op.columns * 2 * job.channels);
  const size_t tokens = static_cast<size_t>(op.batch * op.height * op.width);
  const size_t moments_size = op.norm_weight == nullptr ? 0 : to_cache_line(tokens * kMomentsFloats);
  const auto scratch = runtime.scratch();
  float* const weights =
      scratch->reserve(weights_size * op.blocks + work_size * threads + spectrum_size * wave + moments_size);
  float* const work = weights + weights_size * op.blocks;
  float* const spectra = work + work_size * threads;
  job.moments = reinterpret_cast<RowMoments*>(spectra + spectrum_size * wave);

  ThreadPool& pool = runtime.pool();
  if (op.norm_weight != nullptr) {
    pool.run(op.batch * op.height, threads,
             [&](int64_t row, int) { kernel.row_moments(job, row / op.height, row % op.height); });
  }
  pool.run(op.blocks, threads,
           [&](int64_t block, int) { kernel.pack_weights(job, block, weights + weights_size * block); });

  for (int64_t first = 0; first < items; first += wave) {
    const int64_t in_wave = std::min(wave, items - first);
    const auto rows = [&](int64_t task, const auto& pass) {
      const int64_t i = task / row_tasks, item = first + i;
      const int64_t start = task % row_tasks * 2 * kPairsOfTask;
      for (int64_t h = start; h < std::min(start + 2 * kPairsOfTask, op.height); h += 2)
        pass(item / op.blocks, item % op.blocks, h, spectra + spectrum_size * i);
    };
    pool.run(in_wave * row_tasks, threads, [&](int64_t task, int thread) {
      rows(task, [&](int64_t sample, int64_t block, int64_t h, float* spectrum) {
        kernel.forward_rows(job, sample, block, h, spectrum, work + work_size * thread);
      });
    });
    pool.run(in_wave * column_tasks, threads, [&](int64_t task, int thread) {
      const int64_t i = task / column_tasks;
      kernel.filter_columns(job, weights + weights_size * ((first + i) % op.blocks),
                            task % column_tasks * job.group, spectra + spectrum_size * i,
                            work + work_size * thread);
    });
    pool.run(in_wave * row_tasks, threads, [&](int64_t task, int thread) {
      rows(task, [&](int64_t sample, int64_t block, int64_t h, float* spectrum) {
        kernel.inverse_rows(job, sample, block, h, spectrum, work + work_size * thread);
      });
    });
  }
}

}  // namespace wxkernels
