// The epilogue of the CUDA kernels, run on the CPU: their code, with the places that CuTe gives to the sums
// of each thread, against float64. ci/cuda.sh compiles and runs it; no GPU is touched.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "cuda/product_sm80.h"
#include "cuda/product_sm90a.h"
#include "cuda/tile.h"

using namespace wxkernels;
using namespace wxkernels::cuda;

#define EXPECT(condition, ...)                                                    \
  if (!(condition)) {                                                             \
    std::fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
    std::fprintf(stderr, __VA_ARGS__);                                            \
    std::fprintf(stderr, "\n");                                                   \
    std::exit(1);                                                                 \
  }

namespace {

using Quad = std::array<int, 4>;  // one int of each of four lanes

struct FourLanes {
  __host__ __device__ Quad pick(int bit, const Quad& set, const Quad& clear) const {
    Quad picked;
    for (int q = 0; q < 4; ++q) picked[q] = q & bit ? set[q] : clear[q];
    return picked;
  }
  __host__ __device__ Quad swap(int bit, const Quad& v) const {
    Quad swapped;
    for (int q = 0; q < 4; ++q) swapped[q] = v[q ^ bit];
    return swapped;
  }
};

constexpr int64_t kRows = 301, kColumns = 152;  // odd, and a multiple of 8 that no tile divides
std::mt19937 generator(1);

double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}

std::vector<int> random_sums() {
  std::vector<int> sums(kRows * kColumns);
  for (int& s : sums)
    s = std::uniform_int_distribution<int>(-2000000000, 2000000000)(generator) >> (generator() % 20);
  return sums;
}

// What `finish_tile` does on all threads of all tiles; counts how often each octet is written.
template <class TiledMma, class Tile>
std::vector<int> finish_all(const LinearInt8Cuda& op, const std::vector<int>& sums, TiledMma mma, Tile tile) {
  const int rows = cute::size<0>(tile), columns = cute::size<1>(tile), threads = cute::size(mma);
  std::vector<int> written(kRows * kColumns / kOctet);
  for (int64_t first_row = 0; first_row < kRows; first_row += rows)
    for (int64_t first_column = 0; first_column < kColumns; first_column += columns)
      for (int thread = 0; thread < threads; thread += 4) {
        const decltype(places(mma, tile, 0)) where[4] = {
            places(mma, tile, thread), places(mma, tile, thread + 1), places(mma, tile, thread + 2),
            places(mma, tile, thread + 3)};
        using Places = std::decay_t<decltype(where[0])>;
        for (int o = 0; o < Order<Places>::kOctets; o += 4)
          for (int m = 0; m < Order<Places>::kBlocks; ++m)
            for (int h = 0; h < 2; ++h) {
              Quad a[kOctet];
              for (int q = 0; q < 4; ++q) {
                decltype(cute::make_arithmetic_tuple(0, 0)) place[kOctet];
                gather(where[q], h, m, o, place);
                for (int i = 0; i < kOctet; ++i) {
                  const int64_t row = first_row + cute::get<0>(place[i]),
                                column = first_column + cute::get<1>(place[i]);
                  a[i][q] = row < kRows && column < kColumns ? sums[row * kColumns + column] : 0x5a5a5a5a;
                }
              }
              transpose(FourLanes{}, a);
              for (int q = 0; q < 4; ++q) {
                const int64_t row = first_row + row_of(where[q], h, m);
                const int64_t column = first_column + octet_column(where[q], o, q);
                if (row >= kRows || column >= kColumns) continue;
                int sum[kOctet];
                for (int i = 0; i < kOctet; ++i) sum[i] = a[i][q];
                finish(op, steps_per_unit(op), row, column, Columns(op.weights, column), sum);
                ++written[(row * kColumns + column) / kOctet];
              }
            }
      }
  return written;
}

double exact_gelu(double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }
double exact_gelu_tanh(double x) {
  return x / (1 + std::exp(-2 * 0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

double activate(Activation activation, double x) {
  return activation == Activation::none   ? x
         : activation == Activation::gelu ? exact_gelu(x)
                                          : exact_gelu_tanh(x);
}

struct Buffer {  // of kRows rows of `stride` elements, aligned
  Dtype dtype;
  int64_t stride;
  void* data;
  Buffer(Dtype dtype, int64_t stride)
      : dtype(dtype), stride(stride), data(std::aligned_alloc(64, kRows * stride * 4)) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  void set(int64_t row, int64_t column, float v) {
    const int64_t i = row * stride + column;
    if (dtype == Dtype::float32)
      static_cast<float*>(data)[i] = v;
    else if (dtype == Dtype::bfloat16)
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(v);
    else
      static_cast<__half*>(data)[i] = __float2half(v);
  }
  double get(int64_t row, int64_t column) const {
    const int64_t i = row * stride + column;
    if (dtype == Dtype::float32) return static_cast<const float*>(data)[i];
    if (dtype == Dtype::bfloat16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    if (dtype == Dtype::float16) return __half2float(static_cast<const __half*>(data)[i]);
    return static_cast<const int8_t*>(data)[i];
  }
};

constexpr double kUlp[] = {0x1p-24, 0x1p-8, 0x1p-11};  // half of one at most, by Dtype

template <class TiledMma, class Tile>
void test_epilogue(TiledMma mma, Tile tile, Activation activation, Dtype out_dtype,
                   const Dtype* residual_dtype, bool with_bias, bool scale_of_each_row) {
  const std::vector<int> sums = random_sums();
  alignas(16) float weight_scale[kColumns], bias[kColumns];
  std::vector<float> x_scale(kRows);
  for (float& s : weight_scale) s = uniform(0.001, 0.01);
  for (float& b : bias) b = uniform(-1, 1);
  for (float& s : x_scale) s = uniform(1e-5, 1e-3);
  if (scale_of_each_row) x_scale[7] = NAN;
  Buffer residual(residual_dtype ? *residual_dtype : Dtype::float32, kColumns + 24), out(out_dtype, kColumns);
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < kColumns; ++j) residual.set(i, j, uniform(-3, 3));
  const float out_scale = 0.037f;

  LinearInt8Cuda op = {};
  op.rows = kRows;
  op.x_scale = x_scale.data();
  op.x_scale_stride = scale_of_each_row;
  op.weights = {nullptr, Dtype::int8, kColumns, 16, weight_scale, with_bias ? bias : nullptr};
  op.activation = activation;
  op.residual = residual_dtype ? residual.data : nullptr;
  op.residual_dtype = residual.dtype;
  op.residual_stride = residual.stride;
  op.out = out.data;
  op.out_dtype = out_dtype;
  op.out_scale = out_dtype == Dtype::int8 ? &out_scale : nullptr;
  for (int times : finish_all(op, sums, mma, tile))
    EXPECT(times == 1, "an octet was written %d times", times);

  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < kColumns; ++j) {
      const double product =
          static_cast<double>(x_scale[scale_of_each_row ? i : 0]) * weight_scale[j] * sums[i * kColumns + j];
      const double b = with_bias ? bias[j] : 0, r = residual_dtype ? residual.get(i, j) : 0;
      const double y = activate(activation, product + b) + r, found = out.get(i, j);
      const double error = 4e-7 * (std::fabs(product) + std::fabs(b) + std::fabs(r) + 1);
      if (std::isnan(y)) {
        EXPECT(out_dtype == Dtype::int8 ? found == 0 : std::isnan(found), "row %ld column %ld: %g of a NaN",
               i, j, found);
      } else if (out_dtype == Dtype::int8) {
        const double steps = std::fmin(std::fmax(y / out_scale, -127), 127);
        EXPECT(std::fabs(found - steps) <= 0.5 + error / out_scale, "row %ld column %ld: %g, not %g", i, j,
               found, steps);
      } else if (out_dtype == Dtype::float16 && std::fabs(y) > 65000) {
        EXPECT(std::fabs(found) > 65000, "row %ld column %ld: %g, not %g", i, j, found, y);
      } else {
        const double rounding =
            kUlp[static_cast<int>(out_dtype)] * std::fabs(y) + (out_dtype == Dtype::float16 ? 0x1p-25 : 0);
        EXPECT(std::fabs(found - y) <= error + rounding * 1.01, "row %ld column %ld: %.9g, not %.9g", i, j,
               found, y);
      }
    }
}

template <class TiledMma, class Tile>
int test_epilogues(TiledMma mma, Tile tile) {
  const Dtype floating[] = {Dtype::float32, Dtype::bfloat16, Dtype::float16};
  int cases = 0;
  for (Activation activation : {Activation::none, Activation::gelu, Activation::gelu_tanh})
    for (Dtype out : {Dtype::float32, Dtype::bfloat16, Dtype::float16, Dtype::int8})
      for (int residual = -1; residual < 3; ++residual, ++cases)
        test_epilogue(mma, tile, activation, out, residual < 0 ? nullptr : floating + residual,
                      cases % 2 == 0, cases % 3 != 0);
  return cases;
}

void test_activations() {
  double error = 0, tail = 0, error_tanh = 0;
  for (double x = -20; x <= 20; x += 1.0 / 8192) {
    const float f = static_cast<float>(x);
    const double exact = exact_gelu(f), size = std::fmax(std::fabs(x), 1);
    error = std::fmax(error, std::fabs(gelu(f) - exact) / size);
    error_tanh = std::fmax(error_tanh, std::fabs(gelu_tanh(f) - exact_gelu_tanh(f)) / size);
    if (x > -5 && x < 0) tail = std::fmax(tail, std::fabs(gelu(f) / exact - 1));
  }
  EXPECT(error < 1e-7 && error_tanh < 2e-7, "error of gelu %g, of gelu_tanh %g", error, error_tanh);
  EXPECT(tail < 1e-3, "relative error of gelu %g", tail);
  const float inf = std::numeric_limits<float>::infinity();
  for (auto* f : {&gelu, &gelu_tanh}) {
    EXPECT(std::isnan(f(NAN)) && f(inf) == inf && f(-inf) == 0 && f(0) == 0, "of NaN, infinities or 0");
  }
}

void test_rounding() {
  EXPECT(to_int8(0.5f) == 0 && to_int8(1.5f) == 2 && to_int8(-2.5f) == -2 && to_int8(126.5f) == 126,
         "halves");
  EXPECT(to_int8(127.5f) == 127 && to_int8(-1e30f) == -127 && to_int8(-128.0f) == -127 && to_int8(NAN) == 0,
         "ends");
}

// Eight rows that ldmatrix reads at once lie in eight different groups of four banks.
void test_banks() {
  const sm80::SharedRows shared;
  for (int row = 0; row < 16; row += 8)
    for (int k = 0; k < 64; k += 16) {
      std::set<int> groups;
      for (int i = 0; i < 8; ++i) groups.insert(static_cast<int>(shared(row + i, k)) / 16 % 8);
      EXPECT(groups.size() == 8, "rows from %d, k %d: %zu groups", row, k, groups.size());
    }
}

}  // namespace

int main() {
  test_activations();
  test_rounding();
  test_banks();
  const int sm80_cases = test_epilogues(sm80::TiledMma{}, sm80::Tile{});
  const int sm90a_cases = test_epilogues(sm90a::Mainloop::TiledMma{}, sm90a::Tile{});
  std::printf("epilogue on the CPU: %d cases in the tiles of sm_80, %d in those of sm_90a\n", sm80_cases,
              sm90a_cases);
}
