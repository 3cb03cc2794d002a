#pragma once

#include <memory>
#include <vector>

#include "cpu/kernels.h"

namespace wxkernels {

// Twiddles and input order of an n-point transform, n >= 1; they do not depend on the instruction set.
class FftPlanner {
 public:
  explicit FftPlanner(int n);
  const FftPlan& plan() const { return plan_; }

 private:
  std::vector<FftStage> stages_;
  std::vector<std::vector<float>> tables_;
  std::vector<int> source_;
  FftPlan plan_;
};

}  // namespace wxkernels
