"""Trains the default model: a small AFNO that steps the shallow-water atmosphere of make_data.py by 6 hours.

    python train.py --data build/shallow_water            # the shipped weights
    python train.py --data build/shallow_water --quick    # seconds, to try the path

The loss is the area-weighted square error of each variable over the variance of its 6-hour change, so that
persistence has 1 after one step. One-step training first, then rollouts of 4 and 8 steps, which keep long
forecasts stable. Each stage ends with a file; `--start stage1.safetensors` goes on after it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wxkernels.io.grid import Grid
from wxkernels.models import WeatherModel, load
from wxkernels.models.afno import AFNONet

VARIABLES = ("h", "u", "v")
# 16 x 16 tokens: the filter keeps H // 2 + 1 = 9 columns, and W // 2 + 1 is 9, so no zonal mode is cut
PATCH = (4, 8)
EMBED, DEPTH, BLOCKS, MLP_RATIO = 192, 4, 4, 2.0
CLIMATE_CHANNELS = 32
# rollout length (steps), trajectories in an update, updates, peak learning rate; AdamW starts afresh in each
STAGES = ((1, 4, 7000, 1e-3), (4, 2, 400, 3e-4), (8, 2, 700, 2e-4))


def patches(fields: Tensor) -> Tensor:
    """(C, H, W) -> (tokens, C * p * q), pixels in the order of the patch embedding's weight."""
    (C, H, W), (p, q) = fields.shape, PATCH
    return fields.reshape(C, H // p, p, W // q, q).permute(1, 3, 0, 2, 4).reshape(-1, C * p * q)


def start_at_persistence(
    net: AFNONet, climatology: Tensor, anomaly_std: Tensor, generator: torch.Generator
) -> None:
    """Weights that carry the scaled anomaly, the climatology and a random position code side by side.

    climatology (C, H, W) normalised; anomaly_std (C,) of the normalised state. The filter shares its weights
    between modes; what tells one mode from another is the spectrum of the position code. The climatology is
    carried large, for a depth of 5 km is needed to a metre. Each block of the filter has a part of all three.
    The head is fitted afterwards.
    """
    pixels = net.head.out_features
    parts = [pixels // BLOCKS, CLIMATE_CHANNELS // BLOCKS, (EMBED - pixels - CLIMATE_CHANNELS) // BLOCKS]
    channels = torch.arange(EMBED).view(BLOCKS, -1).split(parts, 1)
    anomaly, place, code = (c.flatten() for c in channels)
    scale = 1 / anomaly_std.repeat_interleave(pixels // len(anomaly_std))  # (C * p * q,)
    mix = torch.linalg.qr(torch.randn(pixels, pixels, generator=generator)).Q * scale
    climate = patches(climatology)  # (tokens, C * p * q), of low rank: it is smooth
    U, S, _ = torch.linalg.svd(climate, full_matrices=False)
    leading = 16 * len(U) ** 0.5 * U[:, :CLIMATE_CHANNELS] * (S[:CLIMATE_CHANNELS] / S[0]).sqrt()
    with torch.no_grad():
        net.patch_embed.proj.weight.zero_()
        net.patch_embed.proj.weight[anomaly] = mix.view(pixels, *net.patch_embed.proj.weight.shape[1:])
        net.patch_embed.proj.bias.zero_()
        net.pos_embed[0, :, anomaly] = -climate @ mix.T
        net.pos_embed[0, :, place] = leading
        net.pos_embed[0, :, code] = torch.randn(len(U), len(code), generator=generator)
        for block in net.blocks:
            block.norm1.weight.fill_(0.2)  # the filter adds its input: keep that small, and w1 large
            block.norm1.weight[place] = 0.01
            block.norm2.weight.fill_(2.0)
            block.norm2.weight[place] = 0.1
            block.filter.w1.normal_(std=0.3, generator=generator)
            block.filter.w2.normal_(std=0.015, generator=generator)
            block.filter.w2[..., sum(parts[:2]) :] *= (
                3  # what is mixed between patches goes to the code's channels
            )
            block.mlp.fc1.weight.normal_(std=EMBED**-0.5, generator=generator)
            block.mlp.fc2.weight.zero_()


def fit_head(net: AFNONet, state: Tensor, target: Tensor) -> None:
    """Least squares of the head for state -> target (B, C, H, W): the start is no worse than persistence."""
    tokens = []
    hook = net.head.register_forward_pre_hook(lambda _, args: tokens.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        net(state)
        hook.remove()
        x = torch.cat(tokens).double()  # (B * tokens, EMBED)
        B, C, H, W = target.shape
        p, q = PATCH
        y = target.view(B, C, H // p, p, W // q, q).permute(0, 2, 4, 3, 5, 1).reshape(len(x), -1).double()
        gram = x.T @ x
        gram += 1e-8 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        net.head.weight.copy_(torch.linalg.solve(gram, x.T @ y).T)


class Data:
    """Normalised samples of a (simulation, time, C, H, W) file."""

    def __init__(self, path: Path, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        self.fields = np.load(path, mmap_mode="r")
        sample = torch.from_numpy(self.fields[:, ::20].copy())
        self.mean = sample.mean((0, 1, 3, 4)) if mean is None else mean
        self.std = sample.std((0, 1, 3, 4)) if std is None else std

    def normalise(self, x: np.ndarray) -> Tensor:
        return (torch.from_numpy(np.array(x)) - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def windows(self, batch: int, length: int, rng: np.random.Generator) -> Tensor:
        """(batch, length, C, H, W), consecutive states of random simulations and times."""
        s = rng.integers(0, self.fields.shape[0], batch)
        t = rng.integers(0, self.fields.shape[1] - length + 1, batch)
        return torch.stack(
            [self.normalise(self.fields[i, j : j + length]) for i, j in zip(s, t, strict=True)]
        )


def rate(done: float, peak: float) -> float:
    """Learning rate after a share `done` of a stage: linear to the peak over 3 %, a cosine to 2 % of it."""
    return peak * min(1.0, done / 0.03) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train_stage(
    net: AFNONet, data: Data, stage: int, updates: int, weight: Tensor, change: Tensor, seed: int
) -> None:
    """One of STAGES: AdamW on the mean loss of rollouts; change (C,) is the variance of a 6-hour change."""
    rollout, batch, _, peak = STAGES[stage]
    rng = np.random.default_rng((seed, stage))
    blocks = list(net.blocks.parameters())
    groups = [
        {"params": [p for p in blocks if p.dim() > 1], "weight_decay": 0.01, "share": 1.0},
        {"params": [p for p in blocks if p.dim() == 1], "weight_decay": 0.0, "share": 1.0},
        # embedding and head hold the state to a small part of its change in 6 h: they move slowly
        {
            "params": [net.pos_embed, *net.patch_embed.parameters(), net.head.weight],
            "weight_decay": 0.0,
            "share": 0.1,
        },
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    began, running = time.perf_counter(), []
    for update in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = rate(update / updates, peak) * group["share"]
        window = data.windows(batch, rollout + 1, rng)
        state, loss = window[:, 0], torch.zeros(())
        for k in range(rollout):
            state = net(state)
            error = (weight * (state - window[:, k + 1]) ** 2).mean((0, 2, 3))  # (C,)
            loss = loss + (error / change).mean() / rollout
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        running.append(loss.item())
        if (update + 1) % 100 == 0 or update + 1 == updates:
            seconds = time.perf_counter() - began
            print(
                f"rollout {rollout} update {update + 1:5d} loss {np.mean(running):.4f}  {seconds:.0f} s",
                flush=True,
            )
            running = []


def scores(net: AFNONet, data: Data, weight: Tensor, climatology: Tensor, steps: int, cases: int) -> Tensor:
    """RMSE (3, steps, C) in physical units: of the network, of persistence and of climatology, by lead."""
    times = np.linspace(0, data.fields.shape[1] - steps - 1, cases).astype(int)
    square = torch.zeros(3, steps, len(VARIABLES))
    n = 0
    with torch.inference_mode():
        for simulation in data.fields:
            # (steps + 1, B, C, H, W)
            truth = torch.stack([data.normalise(simulation[t : t + steps + 1]) for t in times], 1)
            state = truth[0]
            n += len(times)
            for k in range(steps):
                state = net(state)
                for row, forecast in enumerate((state, truth[0], climatology)):
                    square[row, k] += (weight * (forecast - truth[k + 1]) ** 2).mean((-2, -1)).sum(0)
    return (square / n).sqrt() * data.std


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("build/shallow_water"))
    parser.add_argument("--start", type=Path, help="the file that a stage left: go on with the next one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="two updates a stage, rollouts that short data allow"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    train = Data(args.data / "train.npy")
    validation = Data(args.data / "validation.npy", train.mean, train.std)
    H, W = train.fields.shape[-2:]
    grid = Grid.regular(H, W, poles=False)
    weight = torch.cos(torch.deg2rad(torch.tensor(grid.lat, dtype=torch.float32))).view(-1, 1)
    weight = weight / weight.mean()
    with xr.open_dataset(args.data / "climatology.nc") as file:
        climatology = train.normalise(np.stack([file[name].values for name in VARIABLES]))
    pairs = train.windows(64, 2, rng)
    change = ((pairs[:, 1] - pairs[:, 0]) ** 2 * weight).mean((0, 2, 3))  # (C,)

    if args.start:
        net = load(args.start).network.train()
        first = int(args.start.stem.removeprefix("stage"))
    else:
        net = AFNONet((H, W), PATCH, len(VARIABLES), len(VARIABLES), EMBED, DEPTH, MLP_RATIO, BLOCKS)
        anomaly_std = ((pairs[:, 0] - climatology) ** 2).mean((0, 2, 3)).sqrt()
        start_at_persistence(net, climatology, anomaly_std, generator)
        fit_head(net, pairs[:, 0], pairs[:, 1])
        first = 0
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters")
    for stage in range(first, len(STAGES)):
        updates = STAGES[stage][2]
        if args.quick:
            if STAGES[stage][0] >= train.fields.shape[1]:
                break
            updates = 2
        train_stage(net, train, stage, updates, weight, change, args.seed)
        steps = min(20, validation.fields.shape[1] - 1)
        report(scores(net, validation, weight, climatology, steps, 4))
        model = WeatherModel(net, VARIABLES, grid, train.mean, train.std)
        model.save(args.data / f"stage{stage + 1}.safetensors")
    model.save(args.data / "model.safetensors")


def report(rmse: Tensor) -> None:
    """The validation RMSE as a table."""
    print("lead (h)  " + "  ".join(f"{v}: model persistence climatology" for v in VARIABLES))
    for k in sorted({0, 1, 3, 7, 11, 15, len(rmse[0]) - 1}):
        if k < len(rmse[0]):
            row = "  ".join("".join(f"{x:9.2f}" for x in rmse[:, k, c]) for c in range(len(VARIABLES)))
            print(f"{6 * (k + 1):8d}  {row}", flush=True)


if __name__ == "__main__":
    main()
