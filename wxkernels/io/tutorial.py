"""The folder of FourCastNet's tutorial (`ccai_demo`): what is where in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STATISTICS = "additional/stats_v0"


@dataclass(frozen=True)
class Tutorial:
    """Paths of the parts of the tutorial, None for those that the folder lacks."""

    checkpoint: Path | None
    data: Path | None
    means: Path | None
    stds: Path | None
    time_means: Path | None
    land_sea_mask: Path | None


def find(folder: str | Path) -> Tutorial:
    """What of the tutorial's layout `folder` holds; of several years of data, the last."""
    folder = Path(folder)

    def one(pattern: str) -> Path | None:
        return max(folder.glob(pattern), default=None)

    return Tutorial(
        checkpoint=one("model_weights/FCN_weights_v0/backbone.ckpt"),
        data=one("data/FCN_ERA5_data_v0/out_of_sample/*.h5"),
        means=one(f"{_STATISTICS}/global_means.npy"),
        stds=one(f"{_STATISTICS}/global_stds.npy"),
        time_means=one(f"{_STATISTICS}/time_means.npy"),
        land_sea_mask=one(f"{_STATISTICS}/land_sea_mask.npy"),
    )
