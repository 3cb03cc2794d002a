"""A network with all that turns it into a forecast model: variables, grid, statistics, time step."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from wxkernels.errors import UserError
from wxkernels.io.files import whole_file
from wxkernels.io.grid import Grid
from wxkernels.models.afno import AFNONet
from wxkernels.models.checkpoint import Checkpoint
from wxkernels.models.precip import PrecipNet
from wxkernels.quantization import Scheme, apply, calibrate, layer_names

#: The key of our entry in the string table of a safetensors file.
METADATA_KEY = "wxkernels"
_STATIC, _DIAGNOSTIC = "model.static", "model.diagnostics"


@dataclass
class WeatherModel:
    """One step of a forecast: state (B, C, H, W), normalised, at a time -> the state `time_step` later.

    C = len(variables). The network gets the state and, after it, the static channels. A diagnostic maps the
    normalised state to one variable more, in its own units. `source` names the files the model came from,
    `sha256` is theirs. Raises ValueError for parts that do not fit.
    """

    network: nn.Module
    variables: tuple[str, ...]
    grid: Grid
    mean: Tensor  # (C,) float32, in the units of the variables
    std: Tensor  # (C,)
    time_step: np.timedelta64 = field(default_factory=lambda: np.timedelta64(6, "h"))
    static: Tensor | None = None  # (S, H, W), normalised: the orography
    diagnostics: dict[str, PrecipNet] = field(default_factory=dict)
    source: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        self.variables = tuple(self.variables)
        C, (H, W) = len(self.variables), self.grid.shape
        if len(set(self.variables)) != C:
            raise ValueError(f"variables: expected each once, got {', '.join(self.variables)}")
        if twice := self.diagnostics.keys() & set(self.variables):
            raise ValueError(f"diagnostics: {', '.join(twice)} is a variable of the state already")
        if isinstance(self.network, AFNONet):
            self._check_network(self.network)
        for name in ("mean", "std"):
            values = torch.as_tensor(getattr(self, name), dtype=torch.float32)
            if values.shape != (C,) or not values.isfinite().all():
                raise ValueError(f"{name}: expected {C} finite numbers, got {values.tolist()}")
            setattr(self, name, values)
        if not (self.std > 0).all():
            wrong = self.variables[int(self.std.argmin())]
            raise ValueError(f"std: expected > 0, got {self.std.min():g} for {wrong}")
        if self.static is not None and (self.static.dim() != 3 or self.static.shape[1:] != (H, W)):
            raise ValueError(f"static: expected (S, {H}, {W}), got {tuple(self.static.shape)}")

    def _check_network(self, network: AFNONet) -> None:
        C, S = len(self.variables), 0 if self.static is None else len(self.static)
        if network.img_size != self.grid.shape:
            raise ValueError(f"grid: expected {network.img_size} from the network, got {self.grid.shape}")
        if network.out_chans != C:
            raise ValueError(f"variables: expected {network.out_chans} from the network, got {C}")
        if network.in_chans != C + S:
            raise ValueError(f"static: expected {network.in_chans - C} channels from the network, got {S}")

    @property
    def output_variables(self) -> tuple[str, ...]:
        """What a forecast holds at each lead time: the variables of the state, then the diagnosed ones."""
        return *self.variables, *self.diagnostics

    @property
    def batch_invariant(self) -> bool:
        """Whether a member's step is bit for bit the same in a batch of any size."""
        return isinstance(self.network, AFNONet)

    @property
    def scheme(self) -> Scheme | None:
        """The precisions of a quantised network, None for one as it was trained."""
        return self.network.scheme if isinstance(self.network, AFNONet) else None

    @property
    def precision(self) -> str:
        """What the network was quantised to, "bf16", "int8" or "fp8", else "fp32"."""
        return "fp32" if self.scheme is None else self.scheme.precision

    def parts(self) -> list[nn.Module | Tensor]:
        """What `step` and `diagnose` read."""
        static = [] if self.static is None else [self.static]
        return [self.network, *self.diagnostics.values(), *static]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.mean.device

    def to(self, device: torch.device | str) -> Self:
        """Move everything to `device`, in place."""
        self.network.to(device)
        for network in self.diagnostics.values():
            network.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        if self.static is not None:
            self.static = self.static.to(device)
        return self

    def normalise(self, x: Tensor) -> Tensor:
        """(x - mean) / std on x (..., C, H, W) in the units of the variables."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def denormalise(self, x: Tensor) -> Tensor:
        """std x + mean on x (..., C, H, W), normalised."""
        return x * self.std[:, None, None] + self.mean[:, None, None]

    def quantize(
        self,
        states: Tensor,
        precision: str,
        *,
        overrides: Mapping[str, str] | None = None,
        budget: float | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Scheme:
        """Convert the network and those of the diagnostics to "bf16", "int8" or "fp8", in place.

        Calibrated on states (N, C, H, W), normalised, one by one. overrides, budget, provenance
        and ValueError: `wxkernels.quantization.calibrate`; ValueError too for a network that is not ours or
        is quantised already.
        """
        if not isinstance(self.network, AFNONet):
            raise ValueError(f"network: expected an AFNONet, got {type(self.network).__name__}")
        if self.scheme is not None:
            raise ValueError(f"network: it is in {self.precision} already; give one in fp32")
        convert = partial(_convert, precision=precision, budget=budget, provenance=provenance)
        states = states.to(self.device, torch.float32)
        scheme = convert(self.network, self._inputs(states), overrides or {}, persistent=len(self.variables))
        for diagnostic in self.diagnostics.values():
            backbone = diagnostic.float().backbone
            names = layer_names(backbone)  # a pattern may be for the model's network alone
            fit = {p: v for p, v in (overrides or {}).items() if any(fnmatchcase(n, p) for n in names)}
            convert(backbone, states[:, : backbone.in_chans], fit)
        return scheme

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """The state one time step after x (B, C, H, W); both normalised, same dtype. Without gradients."""
        if isinstance(self.network, AFNONet):
            dtype = self.network.dtype
        else:
            dtype = next(self.network.parameters(), x).dtype
        return self.network(self._inputs(x.to(dtype))).to(x.dtype)

    def _inputs(self, x: Tensor) -> Tensor:
        """What the network gets: (B, C + S, H, W)."""
        if self.static is None:
            return x
        return torch.cat([x, self.static.to(x.dtype).expand(len(x), *self.static.shape)], dim=1)

    @torch.no_grad()
    def diagnose(self, x: Tensor) -> dict[str, Tensor]:
        """Diagnosed variables of the normalised state x (B, C, H, W), each (B, H, W) in its own units."""
        return {
            name: network(x[:, : network.in_chans].to(network.conv.weight.dtype))[:, 0]
            for name, network in self.diagnostics.items()
        }

    def save(self, path: str | Path) -> None:
        """Write the model to one safetensors file that `load` reads back identically; replaces it at once.

        UserError: it cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if not isinstance(self.network, AFNONet):
            raise ValueError(f"network: expected an AFNONet, got {type(self.network).__name__}")
        tensors = dict(self.network.state_dict())
        if self.static is not None:
            tensors[_STATIC] = self.static
        for name, network in self.diagnostics.items():
            tensors |= {f"{_DIAGNOSTIC}.{name}.{key}": v for key, v in network.state_dict().items()}
        schemes = {"network": self.network.scheme}
        schemes |= {name: network.backbone.scheme for name, network in self.diagnostics.items()}
        quantization = {name: scheme.to_dict() for name, scheme in schemes.items() if scheme is not None}
        metadata = {
            "format": 3 if quantization else 1,  # 2: quantised, without hidden_offset
            "network": self.network.config,
            "variables": self.variables,
            "lat": self.grid.lat.tolist(),
            "lon": self.grid.lon.tolist(),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "time_step_seconds": int(self.time_step / np.timedelta64(1, "s")),
            "diagnostics": {name: network.backbone.config for name, network in self.diagnostics.items()},
        }
        if quantization:
            metadata["quantization"] = quantization
        tensors = {key: values.contiguous() for key, values in tensors.items()}
        with whole_file(path) as partial:
            try:
                save_file(tensors, partial, {METADATA_KEY: json.dumps(metadata)})
            except SafetensorError as error:
                raise UserError(f"cannot write {path}: {error}; free space there or choose another") from None

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """The model that `save` wrote. Raises UserError where the file's parts do not fit each other."""
        source = str(checkpoint.path)
        try:
            metadata = json.loads(checkpoint.metadata[METADATA_KEY])
            if metadata["format"] not in (1, 3):
                raise UserError(
                    f"{source}: format {metadata['format']}, expected 1 or 3; update wxkernels, or where the "
                    "number is 2 quantise the original again"
                )
            quantization = metadata["quantization"] if metadata["format"] == 3 else {}
            schemes = {name: Scheme.from_dict(values) for name, values in quantization.items()}
            state = dict(checkpoint.state)
            static = state.pop(_STATIC, None)
            diagnostics = {}
            for name, config in metadata["diagnostics"].items():
                prefix = f"{_DIAGNOSTIC}.{name}."
                part = {k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)}
                diagnostics[name] = PrecipNet.from_state_dict(
                    part, source=source, scheme=schemes.get(name), **_hints(config)
                )
            hints = _hints(metadata["network"])
            return cls(
                network=AFNONet.from_state_dict(state, source=source, scheme=schemes.get("network"), **hints),
                variables=tuple(metadata["variables"]),
                grid=Grid(np.array(metadata["lat"]), np.array(metadata["lon"])),
                mean=torch.tensor(metadata["mean"], dtype=torch.float32),
                std=torch.tensor(metadata["std"], dtype=torch.float32),
                time_step=np.timedelta64(metadata["time_step_seconds"], "s"),
                static=static,
                diagnostics=diagnostics,
                source=source,
                sha256=checkpoint.sha256,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{source}: its metadata is damaged ({error}); save the model again") from None


def _convert(network: AFNONet, inputs: Tensor, overrides: Mapping[str, str], **options: Any) -> Scheme:
    """Calibrate on inputs (N, C, H, W), one by one, and convert in place."""
    scheme = calibrate(network.float(), inputs.split(1), overrides=overrides, **options)
    apply(network, scheme)
    return scheme


def _hints(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a network's configuration that the shapes of its weights do not tell."""
    return {
        "img_size": tuple(config["img_size"]),
        "sparsity_threshold": config["sparsity_threshold"],
        "hard_thresholding_fraction": config["hard_thresholding_fraction"],
    }
