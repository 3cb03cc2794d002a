"""Scores of one variable at one time: members against the truth, averaged over area."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

SCORES = ("mse", "rmse", "bias", "acc", "crps", "variance", "debiased_mse")

# Rows are scored in bands. On a CPU the float64 errors of a band stay in the cache: 3 to 4 times faster than
# whole fields of 720 x 1440, 50 members. On a GPU a band bounds the memory and is large enough to fill it.
_CPU_BAND, _GPU_BAND = 2 << 20, 256 << 20  # bytes


def area_scores(members: Tensor, truth: Tensor, weights: Tensor, anomaly: Tensor | None) -> Tensor:
    """Scores in the order of SCORES, float64 (7,).

    With error e_i = x_i - y, mean e, unbiased variance s^2 and area mean <.>: mse = <e^2>, bias = <e>, crps
    = <mean|e_i| - sum_{i<j} |e_i - e_j| / (k (k - 1))> (fair), debiased_mse = <e^2 - s^2 / k>, acc = <a t>
    / sqrt(<a^2> <t^2>) with truth anomaly t and forecast anomaly a = e + t. One member: crps is the mean
    absolute error, variance and debiased_mse are NaN. No member: all are NaN.

    members (k, H, W); truth (H, W); weights (H, W) float64, sum 1, 0 where a point is left out; anomaly (H,
    W) float64, truth minus climatology, or None (acc is NaN). All finite, on one device.
    """
    k = len(members)
    if k == 0:
        return torch.full((len(SCORES),), torch.nan, dtype=torch.float64, device=members.device)
    # sum_{i<j} |x_i - x_j| = sum_i (2 i - k + 1) x_(i) for x sorted, i from 0: M log M instead of M^2
    order = torch.arange(1 - k, k, 2, dtype=torch.float64, device=members.device)
    sums = torch.zeros(7, dtype=torch.float64, device=members.device)
    for here in _bands(members):
        error = _sorted(members[:, here]).double() - truth[here].double()  # (k, band, W)
        mean = error.mean(0)
        crps = error.abs().mean(0)
        variance = torch.full_like(mean, torch.nan)
        if k > 1:
            crps -= torch.tensordot(order, error, 1) / (k * (k - 1))
            variance = (error - mean).square_().sum(0) / (k - 1)
        t = torch.full_like(mean, torch.nan) if anomaly is None else anomaly[here]
        a = mean + t
        terms = torch.stack((mean.square(), mean, crps, variance, a * t, a.square(), t.square()))
        sums += terms.flatten(1) @ weights[here].flatten()
    mse, bias, crps, variance, covariance, forecast_power, truth_power = sums
    acc = covariance / (forecast_power * truth_power).sqrt()
    return torch.stack((mse, mse.sqrt(), bias, acc, crps, variance, mse - variance / k))


def rank_counts(
    members: Tensor, truth: Tensor, points: Tensor, ensemble: int, draws: Callable[[], Tensor]
) -> Tensor:
    """How many grid points have each rank of the truth among the members, int64 (ensemble + 1,).

    Ties are broken at random. With k < ensemble members left, a point's rank r stands for the interval [r,
    r + 1) / (k + 1) of probability and goes to a bin drawn from it, so a calibrated ensemble stays flat.
    members (k, H, W); truth, points (H, W), points bool; draws gives uniform numbers (H, W), called only if
    needed.
    """
    k = len(members)
    counts = torch.zeros(ensemble + 1, dtype=torch.int64, device=members.device)
    uniform: Tensor | None = None
    for here in _bands(members) if k else ():
        rank = (members[:, here] < truth[here]).sum(0)
        ties = (members[:, here] == truth[here]).sum(0)
        if k < ensemble or bool(ties.any()):
            uniform = draws() if uniform is None else uniform
            position = (rank + uniform[here] * (ties + 1)) * (ensemble + 1) / (k + 1)
            rank = position.long().clamp_(max=ensemble)
        counts += torch.bincount(rank[points[here]], minlength=ensemble + 1)
    return counts


def _bands(members: Tensor) -> Iterator[slice]:
    _, rows, columns = members.shape
    room = _CPU_BAND if members.device.type == "cpu" else _GPU_BAND
    band = max(1, room // (8 * len(members) * columns))
    return (slice(top, top + band) for top in range(0, rows, band))


def _sorted(members: Tensor) -> Tensor:
    if members.device.type != "cpu":
        return members.sort(0).values
    # numpy's vectorised sort: 6 times faster than torch's at 50 members on a CPU with AVX-512
    return torch.from_numpy(np.sort(members.numpy(), axis=0))
