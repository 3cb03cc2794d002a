"""What each layer of a network would be in each precision, and the error that this makes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wxkernels import ops
from wxkernels.quantization.conversion import (
    blocks_of,
    convert_block,
    convert_filter,
    convert_mlp,
    roots_of,
)
from wxkernels.quantization.scheme import LayerScheme, Scheme, hidden_code

ROWS = 2048  # tokens that a layer is measured on, of all states together
ALPHAS = (0.0, 0.25, 0.5, 0.75)  # of SmoothQuant
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the largest value of a hidden layer
#: A channel that hardly varies in calibration may do so later: it is scaled as if it had this share of the
#: largest channel.
LEAST = 0.01
_WEIGHTS = {"patch_embed": "patch_embed.proj.weight", "head": "head.weight"}


class Measurement:
    """A network run `steps` steps from states as it is, with samples of what its layers get in the first.

    It is left as it is. A layer's error is estimated: what the layer adds to the tokens differs by d
    (rows, C), which the skips and the head take to the fields: RMS(head(d)) / RMS(f(x) - x).
    """

    def __init__(
        self, network: nn.Module, states: Sequence[Tensor], *, steps: int = 1, persistent: int | None = None
    ) -> None:
        self.network = network
        self.blocks, self.roots = blocks_of(network), roots_of(network)
        self._states: list[Tensor] = []
        self._steps = steps
        self._outputs: list[list[Tensor]] = []  # of each state, what `_roll` gives
        self._changes: list[float] = []  # RMS of outputs - x, for each of those steps
        self._samples: dict[str, list[Tensor]] = {}  # an MLP's tokens; what bf16 changes in the other layers
        self._layers: dict[tuple[str, str], LayerScheme] = {}
        if len(states):
            self._run(states, persistent)

    def layer(self, name: str, precision: str) -> LayerScheme:
        """The layer in `precision`, as good as it gets; its error is None where there are no states."""
        key = name, precision
        if key not in self._layers:
            found = LayerScheme(precision)
            if self._states:
                found = self._mlp(name, found) if name.endswith("mlp") else self._other(name, found)
            weights = self._weights(name)
            after = sum(_nbytes_in(precision, weight) for weight in weights)
            self._layers[key] = replace(found, size_before=sum(w.nbytes for w in weights), size_after=after)
        return self._layers[key]

    def errors(self, choice: dict[str, str]) -> list[float]:
        """RMS(f_q(x) - f(x)) / RMS(f(x) - x) with the layers in the precisions of `choice`; inf for a NaN.

        After the first step and, where there are more, after the last.
        """
        squares = _Squares()
        with self._converted(choice) as step:
            for x, outputs in zip(self._states, self._outputs, strict=True):
                squares.add(found - y for found, y in zip(self._roll(step, x), outputs, strict=True))
        found = [e / change for e, change in zip(squares.rms(), self._changes, strict=True)]
        return [math.inf if math.isnan(e) else e for e in found]

    def _run(self, states: Sequence[Tensor], persistent: int | None) -> None:
        device = next(self.network.parameters()).device
        rows = max(ROWS // len(states), 1)
        watched: list[tuple[nn.Module, Callable[..., None]]] = [
            (block, partial(self._see_block, name, rows)) for name, block in self.blocks.items()
        ]
        for prefix, root in self.roots.items():
            watched.append((root.patch_embed, partial(self._see_embed, f"{prefix}patch_embed", rows)))
            watched.append((root.head, partial(self._see_head, f"{prefix}head", rows)))
        squares = _Squares()
        for x in (x.to(device) for x in states):
            with ExitStack() as stack:
                for module, hook in watched:
                    stack.callback(module.register_forward_pre_hook(hook).remove)
                first = self.network(x).float()
            goes_on = persistent
            if goes_on is None:
                goes_on = first.shape[1] if x.shape[1] == first.shape[1] else 0
            if self._steps > 1 and goes_on != first.shape[1]:
                raise ValueError(f"steps: expected 1 where outputs are no inputs, got {self._steps}")
            self._states.append(x)
            self._outputs.append(self._roll(self.network, x, first))
            before = F.pad(x[:, :goes_on], (0, 0, 0, 0, 0, first.shape[1] - goes_on))
            squares.add(y - before for y in self._outputs[-1])
        self._changes = [change or 1.0 for change in squares.rms()]
        if not all(map(math.isfinite, self._changes)):
            raise ValueError("network: expected finite results from the states, got others")

    def _roll(self, step: Callable[[Tensor], Tensor], x: Tensor, first: Tensor | None = None) -> list[Tensor]:
        """The result of the first step from x, and that of the last where there are more; float32."""
        y = step(x).float() if first is None else first
        found = [y]
        for _ in range(1, self._steps):
            x = torch.cat([y.to(x.dtype), x[:, y.shape[1] :]], 1)
            y = step(x).float()
        return found if self._steps == 1 else [*found, y]

    def _see_block(self, name: str, rows: int, block: Any, args: tuple[Tensor, ...]) -> None:
        t, rounded = (convert_filter(block.filter, p)(args[0], block.norm1) for p in ("fp32", "bf16"))
        self._keep(f"{name}.mlp", _sample(t, rows))
        self._keep(f"{name}.filter", _sample(rounded, rows) - _sample(t, rows))

    def _see_embed(self, name: str, rows: int, embed: Any, args: tuple[Tensor, ...]) -> None:
        x, weight = args[0].float(), embed.proj.weight
        t, rounded = (ops.patch_embed(x, weight.to(dtype), None) for dtype in (torch.float32, torch.bfloat16))
        self._keep(name, _sample(rounded - t, rows))

    def _see_head(self, name: str, rows: int, head: Any, args: tuple[Tensor, ...]) -> None:
        tokens, weight = _sample(args[0], rows), head.weight.float()
        fields = F.linear(_rounded("bf16", tokens), _rounded("bf16", weight))
        self._keep(name, fields - F.linear(tokens, weight))

    def _keep(self, name: str, values: Tensor) -> None:
        self._samples.setdefault(name, []).append(values)

    def _other(self, name: str, layer: LayerScheme) -> LayerScheme:
        if layer.precision == "fp32":
            return replace(layer, error=0.0)
        if name.endswith("pos_embed"):
            (positions,) = self._weights(name)
            return replace(layer, error=self._effect(name, _rounded(layer.precision, positions) - positions))
        return replace(layer, error=self._effect(name, torch.cat(self._samples[name])))

    def _mlp(self, name: str, layer: LayerScheme) -> LayerScheme:
        """The shift and, in int8, the SmoothQuant and the clip with the smallest error."""
        if layer.precision == "fp32":
            return replace(layer, error=0.0)
        block = self.blocks[name.removesuffix(".mlp")]
        norm, fc1 = block.norm2, block.mlp.fc1
        tokens = torch.cat(self._samples[name])
        exact_norm, exact = convert_mlp(norm, block.mlp, LayerScheme("fp32"))
        y = exact(tokens, exact_norm)

        def measured(**changes: Any) -> LayerScheme:
            tried = replace(layer, **changes)
            new_norm, new = convert_mlp(norm, block.mlp, tried)
            return replace(tried, error=self._effect(name, new(tokens, new_norm) - y))

        error = attrgetter("error")
        n = F.layer_norm(tokens, tokens.shape[-1:], norm.weight.float(), _float(norm.bias), norm.eps)
        shift, weight = n.mean(0), fc1.weight.float()
        plain = torch.ones_like(shift)
        if layer.precision == "bf16":
            return measured(shift=shift, scale=plain)
        hidden = F.gelu(F.linear(n, weight, _float(fc1.bias)))
        least, largest = min(hidden.min().item(), 0.0), max(hidden.max().item(), 0.0)

        def code(clip: float) -> dict[str, Any]:
            scale, offset = hidden_code(least, clip * largest)
            return {"hidden_scale": scale, "hidden_offset": offset}

        spread, reach = _reach(n - shift), _reach(weight)
        scales = {a: spread**a / reach ** (1 - a) if a else plain for a in ALPHAS}
        layer = replace(layer, shift=shift, **code(1.0))
        layer = min((measured(smooth=a, scale=scale) for a, scale in scales.items()), key=error)
        return min((measured(**code(clip)) for clip in CLIPS), key=error)

    def _effect(self, name: str, d: Tensor) -> float:
        """RMS of what d (rows, C), added to tokens, or (rows, p q C_out) at the head, is in the fields."""
        root = next((root for prefix, root in self.roots.items() if name.startswith(prefix)), None)
        if root is not None and not name.endswith("head"):
            d = F.linear(d, root.head.weight.float())
        squares = _Squares()
        squares.add([d])
        error = squares.rms()[0] / self._changes[0]
        return math.inf if math.isnan(error) else error

    def _weights(self, name: str) -> list[Tensor]:
        """The matrices of a layer; what else it has keeps its dtype."""
        owner, _, part = name.rpartition(".")
        if part == "mlp":
            return [self.blocks[owner].mlp.fc1.weight, self.blocks[owner].mlp.fc2.weight]
        if part == "filter":
            return [self.blocks[owner].filter.w1, self.blocks[owner].filter.w2]
        root = self.roots[owner and f"{owner}."]
        if part == "pos_embed":
            return [root.pos_embed[0]]
        return [root.get_parameter(_WEIGHTS[part])]

    @contextmanager
    def _converted(self, choice: dict[str, str]) -> Iterator[Callable[[Tensor], Tensor]]:
        """The network with its layers in the precisions of `choice`, as long as the context lasts."""
        scheme = Scheme("fp32", {name: self.layer(name, precision) for name, precision in choice.items()})
        swapped: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name, block in self.blocks.items():
                stack.enter_context(_forward(block, convert_block(block, name, scheme)))
            for prefix, root in self.roots.items():
                for part, key in _WEIGHTS.items():
                    swapped[prefix + key] = _rounded(choice[prefix + part], root.get_parameter(key))
                    if choice[prefix + part] == "bf16":
                        module = root.get_submodule(part)
                        stack.callback(module.register_forward_pre_hook(_round_inputs).remove)
                pos_embed = _rounded(choice[f"{prefix}pos_embed"], root.pos_embed[0])
                swapped[f"{prefix}pos_embed"] = pos_embed[None]
            yield lambda x: torch.func.functional_call(self.network, swapped, (x,))


class _Squares:
    """Root mean squares of several fields over all that is added."""

    def __init__(self) -> None:
        self._sums: list[tuple[float, int]] = []

    def add(self, fields: Iterable[Tensor]) -> None:
        norms = ((torch.linalg.vector_norm(f, dtype=torch.float64).item(), f.numel()) for f in fields)
        new = [(norm**2, count) for norm, count in norms]
        old = self._sums or [(0.0, 0)] * len(new)
        self._sums = [(a + c, b + d) for (a, b), (c, d) in zip(old, new, strict=True)]

    def rms(self) -> list[float]:
        return [(total / max(count, 1)) ** 0.5 for total, count in self._sums]


def nbytes(module: nn.Module) -> int:
    """Bytes of all weights and buffers that its state dict has."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _nbytes_in(precision: str, weight: Tensor) -> int:
    if precision == "fp32":
        return weight.nbytes
    return 2 * weight.numel() if precision == "bf16" else weight.numel() + 4 * len(weight)


def _sample(values: Tensor, rows: int) -> Tensor:
    """At most `rows` rows of (..., C), the same ones of every tensor of that size, float32."""
    values = values.flatten(0, -2)
    chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:rows]
    return values[chosen.to(values.device)].float()


def _rounded(precision: str, tensor: Tensor) -> Tensor:
    """What (rows, ...) is after it was stored in `precision`."""
    if precision == "bf16":
        return tensor.to(torch.bfloat16).to(tensor.dtype)
    if precision == "int8":
        q, scale = ops.quantize_rows(tensor)
        return q.to(tensor.dtype) * scale[:, None].to(tensor.dtype)
    return tensor


def _round_inputs(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return _rounded("bf16", args[0]), *args[1:]


def _reach(rows: Tensor) -> Tensor:
    """The largest |value| of each column, with LEAST of the largest of all as the least; 1 if all are 0."""
    found = rows.abs().amax(0)
    found = found.clamp(min=LEAST * found.max())
    return torch.where(found > 0, found, 1.0)


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


@contextmanager
def _forward(block: nn.Module, stand_in: nn.Module) -> Iterator[None]:
    """Calls of `block` run `stand_in`, as long as the context lasts."""
    before = block.__dict__.get("forward")
    block.__dict__["forward"] = stand_in.forward
    try:
        yield
    finally:
        if before is None:
            del block.__dict__["forward"]
        else:
            block.__dict__["forward"] = before
