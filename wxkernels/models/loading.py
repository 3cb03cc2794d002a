"""From a checkpoint file to a WeatherModel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wxkernels.errors import UserError
from wxkernels.io.grid import Grid
from wxkernels.io.lexicon import FOURCASTNET_20, FOURCASTNET_26, canonical
from wxkernels.models.afno import AFNONet
from wxkernels.models.checkpoint import Checkpoint, read
from wxkernels.models.precip import PrecipNet
from wxkernels.models.weather_model import METADATA_KEY, WeatherModel

SIX_HOURS = np.timedelta64(6, "h")


class Statistics(Protocol):
    """Mean and standard deviation of each variable, in its units; wxkernels.io.Statistics is one."""

    @property
    def mean(self) -> np.ndarray: ...  # (C,)

    @property
    def std(self) -> np.ndarray: ...  # (C,)


def load(
    path: str | Path,
    *,
    statistics: Statistics | str | Path | None = None,
    variables: Sequence[str] | None = None,
    grid: Grid | None = None,
    img_size: tuple[int, int] | None = None,
    orography: str | Path | np.ndarray | None = None,
    precipitation: str | Path | None = None,
    time_step: np.timedelta64 | None = None,
) -> WeatherModel:
    """The forecast model in a checkpoint file (formats: `checkpoint.read`).

    Files of WeatherModel.save hold all of it. Weights alone, of NVlabs or physicsnemo, need the rest:
    statistics     mean and standard deviation, or the folder with global_means.npy and global_stds.npy; by
                   default the folder of the checkpoint
    variables      names in channel order; by default FourCastNet's 20 or 26
    grid           by default FourCastNet's: latitudes 90, 90 - 180 / H, ..., without the south pole
    img_size       (H, W), where the grid is not H x 2H
    orography      for a network with one input more than outputs: heights, or their standardised values, as
                   an array (H, W) (a row of the south pole is dropped), .npy, or HDF5 with `orog`
    time_step      by default six hours
    Either takes a PrecipNet checkpoint as `precipitation`, which becomes the diagnostic `tp06`.
    Raises UserError, one line, for what is missing, surplus or does not fit.
    """
    checkpoint = read(path)
    given: dict[str, Any] = {
        "statistics": statistics,
        "variables": variables,
        "grid": grid,
        "img_size": img_size,
        "orography": orography,
        "time_step": time_step,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if METADATA_KEY not in checkpoint.metadata:
        model = _assemble(checkpoint, **given)
    elif given:
        raise UserError(f"{path}: holds its own {next(iter(given))}; leave {_option(next(iter(given)))} away")
    else:
        model = WeatherModel.from_checkpoint(checkpoint)
    if precipitation is not None:
        _add_precipitation(precipitation, model)
    return model


def _assemble(
    checkpoint: Checkpoint,
    statistics: Statistics | str | Path | None = None,
    variables: Sequence[str] | None = None,
    grid: Grid | None = None,
    img_size: tuple[int, int] | None = None,
    orography: str | Path | np.ndarray | None = None,
    time_step: np.timedelta64 = SIX_HOURS,
) -> WeatherModel:
    path = checkpoint.path
    if "backbone.pos_embed" in checkpoint.state:
        raise UserError(
            f"{path}: is a PrecipNet; give it as {_option('precipitation')} beside the backbone's checkpoint"
        )
    network = AFNONet.from_state_dict(checkpoint.state, source=str(path), **_options(checkpoint, img_size))
    H, W = network.img_size
    known = {len(names): names for names in (FOURCASTNET_20, FOURCASTNET_26)}
    variables = variables or known.get(network.out_chans, ())
    if len(variables) != network.out_chans:
        raise UserError(
            f"{path}: the network has {network.out_chans} variables, {len(variables)} are named; name them "
            f"in channel order with {_option('variables')}"
        )
    mean, std = _statistics(statistics, tuple(variables), path)
    try:
        return WeatherModel(
            network=network,
            variables=tuple(canonical(name) for name in variables),
            grid=grid or Grid(90 - 180 / H * np.arange(H), 360 / W * np.arange(W)),
            mean=torch.from_numpy(mean),
            std=torch.from_numpy(std),
            time_step=time_step,
            static=_orography(orography, network, path),
            source=str(path),
            sha256=checkpoint.sha256,
        )
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: {error}") from None


def _option(name: str) -> str:
    """An argument of `load` as a message names it: with the command line's own, where it has one."""
    shared = ("statistics", "variables", "orography", "precipitation")
    return f"{name}= (--{name})" if name in shared else f"{name}="


def _options(checkpoint: Checkpoint, img_size: tuple[int, int] | None) -> dict[str, Any]:
    """What a physicsnemo archive tells about its network beyond the shapes of the weights."""
    arguments = checkpoint.metadata
    names = ("sparsity_threshold", "hard_thresholding_fraction")
    try:
        options: dict[str, Any] = {name: float(arguments[name]) for name in names if name in arguments}
        if img_size is None and "inp_shape" in arguments:
            H, W = arguments["inp_shape"]
            img_size = int(H), int(W)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path}: args.json is damaged ({error}); save the archive again"
        ) from None
    return options | {"img_size": img_size}


def _statistics(
    statistics: Statistics | str | Path | None, variables: tuple[str, ...], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std), each (C,) float32."""
    if statistics is None:
        statistics = path.parent
        if not (statistics / "global_means.npy").is_file():
            raise UserError(
                f"{path}: holds weights alone; pass {_option('statistics')}, the folder with "
                "global_means.npy and global_stds.npy"
            )
    if isinstance(statistics, str | Path):
        from wxkernels.io.statistics import load as load_statistics

        found: Statistics = load_statistics(statistics, variables)
    else:
        found = statistics
    return np.asarray(found.mean, np.float32), np.asarray(found.std, np.float32)


def _orography(orography: str | Path | np.ndarray | None, network: AFNONet, path: Path) -> Tensor | None:
    """The static channel (1, H, W), mean 0 and standard deviation 1, where the network has one."""
    extra = network.in_chans - network.out_chans
    channels = f"{path}: the network has {network.in_chans} inputs and {network.out_chans} outputs"
    if extra == 0:
        if orography is not None:
            raise UserError(f"{channels}: it takes no orography; leave {_option('orography')} away")
        return None
    if extra != 1:
        raise UserError(
            f"{channels}; only one static channel, the orography, can be added: give another checkpoint"
        )
    if orography is None:
        raise UserError(
            f"{channels}: it wants the orography; pass {_option('orography')}, an array "
            "(H, W), .npy or HDF5 with `orog`"
        )
    name = "orography" if isinstance(orography, np.ndarray) else str(orography)
    values = orography if isinstance(orography, np.ndarray) else _read_field(Path(orography))
    values = values.squeeze().astype(np.float64)
    H, W = network.img_size
    if values.ndim != 2 or values.shape[0] not in (H, H + 1) or values.shape[1] != W:
        raise UserError(
            f"{name}: expected ({H}, {W}), or with the south pole's row, got {values.shape}; regrid it"
        )
    mean, std = values.mean(), values.std()
    if not np.isfinite(std) or std == 0:
        raise UserError(
            f"{name}: expected finite heights that differ, got mean {mean:g}, std {std:g}; give the orography"
        )
    if abs(mean) > 0.05 or abs(std - 1) > 0.05:  # NVlabs keeps the field standardised on disk
        values = (values - mean) / std
    return torch.from_numpy(values[None, :H].astype(np.float32))


def _read_field(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .npy or HDF5 file with the orography")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        import h5py

        with h5py.File(path) as file:
            if "orog" not in file:
                raise UserError(
                    f"{path}: has no dataset `orog` (found {', '.join(file) or 'none'}); rename it"
                )
            return np.asarray(file["orog"])
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is no readable .npy or HDF5 file ({error}); copy it again") from None


def _add_precipitation(path: str | Path, model: WeatherModel) -> None:
    if "tp06" in model.output_variables:
        raise UserError(f"{path}: {model.source} has tp06 already; leave {_option('precipitation')} away")
    checkpoint = read(path)
    if "backbone.pos_embed" not in checkpoint.state:
        raise UserError(
            f"{path}: is no PrecipNet (key 'backbone.pos_embed' is missing); give precip.ckpt of FourCastNet"
        )
    net = PrecipNet.from_state_dict(checkpoint.state, source=str(path), img_size=model.grid.shape)
    if net.in_chans > len(model.variables) or net.backbone.out_chans != 1:
        raise UserError(
            f"{path}: expected at most {len(model.variables)} inputs and 1 output, got {net.in_chans} and "
            f"{net.backbone.out_chans}; give the PrecipNet of this backbone"
        )
    model.diagnostics["tp06"] = net
    model.source, model.sha256 = f"{model.source}, {path}", f"{model.sha256}, {checkpoint.sha256}"
