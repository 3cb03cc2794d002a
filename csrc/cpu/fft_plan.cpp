#include "cpu/fft_plan.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace wxkernels {
namespace {

// Operations a point of a butterfly, and of its twiddles and memory traffic, by radix: those unrolled in
// fft.h.
const std::map<int, double> kCost = {{2, 2}, {3, 5},  {4, 4},   {5, 8},   {6, 7},  {7, 12},
                                     {8, 7}, {9, 12}, {10, 10}, {12, 10}, {15, 14}};
constexpr double kStageCost = 9;

struct Factors {
  std::vector<int> radices;
  double cost;
};

// The cheapest product of unrolled radices, largest first; a prime that is not among them stands for itself.
Factors factorise(int n, std::map<int, Factors>& known) {
  if (n == 1) return {{}, 0};
  if (const auto found = known.find(n); found != known.end()) return found->second;
  Factors best{{}, INFINITY};
  for (const auto& [radix, cost] : kCost) {
    if (n % radix != 0) continue;
    Factors rest = factorise(n / radix, known);
    rest.cost += cost + kStageCost;
    rest.radices.push_back(radix);
    if (rest.cost < best.cost) best = std::move(rest);
  }
  if (best.radices.empty()) {
    int prime = 11;
    while (n % prime != 0) prime += 2;
    best = factorise(n / prime, known);
    best.cost += 4.0 * prime;
    best.radices.push_back(prime);
  }
  return known[n] = best;
}

// (cos, -sin) of 2 pi k / n
void push_root(std::vector<float>& table, int64_t k, int64_t n) {
  const double turn = 6.283185307179586476925 * static_cast<double>(k % n) / static_cast<double>(n);
  table.push_back(static_cast<float>(std::cos(turn)));
  table.push_back(static_cast<float>(-std::sin(turn)));
}

}  // namespace

FftPlanner::FftPlanner(int n) {
  std::map<int, Factors> known;
  std::vector<int> radices = factorise(n, known).radices;
  std::sort(radices.rbegin(), radices.rend());
  while (radices.size() < 2)
    radices.insert(radices.begin(), 1);  // a first stage that reads and a last that writes

  source_ = {0};
  int span = 1;
  for (const int radix : radices) {
    FftStage stage{radix, span, nullptr, nullptr};
    tables_.emplace_back();
    for (int j = 0; j < span; ++j)
      for (int q = 1; q < radix; ++q)
        push_root(tables_.back(), static_cast<int64_t>(j) * q, int64_t{span} * radix);
    stage.twiddle = tables_.back().data();
    tables_.emplace_back();
    for (int k = 0; k < radix; ++k) push_root(tables_.back(), k, radix);
    stage.roots = tables_.back().data();
    stages_.push_back(stage);
    span *= radix;
  }
  // Decimation in time: the last stage takes input n modulo its radix into one group, and so on downwards.
  for (auto radix = radices.begin(); radix != radices.end(); ++radix) {
    std::vector<int> wider;
    for (int q = 0; q < *radix; ++q)
      for (const int position : source_) wider.push_back(position * *radix + q);
    source_ = std::move(wider);
  }
  plan_ = {n, static_cast<int>(stages_.size()), *std::max_element(radices.begin(), radices.end()),
           stages_.data(), source_.data()};
}

}  // namespace wxkernels
