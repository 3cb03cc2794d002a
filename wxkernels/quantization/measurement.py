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
    layer_names,
    roots_of,
)
from wxkernels.quantization.scheme import LayerScheme, Scheme, hidden_code, hidden_scale_fp8

ROWS = 2048  # tokens that a layer is measured on, of all states together
STEPS = 20  # over which errors add up: those of the default forecast
ALPHAS = (0.0, 0.5)  # of SmoothQuant
#: What hardly varies in calibration may do so later: the reach of a channel, the change of a variable count
#: as if they had this share of the largest.
LEAST = 0.01
_WEIGHTS = {"patch_embed": "patch_embed.proj.weight", "head": "head.weight"}


class Measurement:
    """A network's step from states as it is, with samples of what its layers get on the way.

    It is left as it is. An error is by variable what `_Errors` makes of the states, over STEPS steps where
    results are inputs, relative to that variable's RMS(f(x) - x); of the variables the largest counts. A
    layer's is estimated: what the layer adds to the tokens differs by d (rows, C), which the skips and the
    head take to the fields.
    """

    def __init__(
        self, network: nn.Module, states: Sequence[Tensor], *, persistent: int | None = None
    ) -> None:
        self.network = network
        self.blocks, self.roots = blocks_of(network), roots_of(network)
        self._states: list[Tensor] = []  # a sample each
        self._outputs: list[Tensor] = []
        self._changes = torch.ones(1)  # RMS(f(x) - x) by variable
        self._steps = 1
        self._rows = ROWS
        self._samples: dict[str, list[Tensor]] = {}  # an MLP's tokens; what bf16 changes in the other layers
        self._layers: dict[tuple[str, str], LayerScheme] = {}
        self._measures = len(states) > 0
        if self._measures:
            self._run([sample for x in states for sample in x.split(1)], persistent)

    def layer(self, name: str, precision: str) -> LayerScheme:
        """The layer in `precision`, as good as it gets; its error is None where there are no states."""
        key = name, precision
        if key not in self._layers:
            found = LayerScheme(precision)
            if self._measures:
                found = self._mlp(name, found) if name.endswith("mlp") else self._other(name, found)
            weights = self._weights(name)
            after = sum(_nbytes_in(precision, weight) for weight in weights)
            self._layers[key] = replace(found, size_before=sum(w.nbytes for w in weights), size_after=after)
        return self._layers[key]

    def error(self, choice: dict[str, str]) -> float:
        """That of a step with the layers in the precisions of `choice`; inf for a NaN."""
        errors = _Errors()
        with self._converted(choice) as step:
            for x, y in zip(self._states, self._outputs, strict=True):
                errors.add(step(x).float() - y)
        return _largest(errors.rms(self._steps) / self._changes)

    def _run(self, states: Sequence[Tensor], persistent: int | None) -> None:
        self._rows = ROWS // max(len(states), 2)
        watched: list[tuple[nn.Module, Callable[..., None]]] = [
            (block, partial(self._see_block, name)) for name, block in self.blocks.items()
        ]
        for prefix, root in self.roots.items():
            watched.append((root.patch_embed, partial(self._see_embed, f"{prefix}patch_embed")))
            watched.append((root.head, partial(self._see_head, f"{prefix}head")))
        with ExitStack() as stack:
            step = stack.enter_context(self._converted(dict.fromkeys(layer_names(self.network), "fp32")))
            for module, hook in watched:
                stack.callback(module.register_forward_pre_hook(hook).remove)
            x = states[0].to(next(self.network.parameters()).device)
            y = step(x).float()
            goes_on = persistent
            if goes_on is None:
                goes_on = y.shape[1] if x.shape[1] == y.shape[1] else 0
            self._see(x, y)
            rest = list(states[1:])
            if goes_on == y.shape[1]:
                self._steps = STEPS
                rest = rest or [torch.cat([y.to(x.dtype), x[:, goes_on:]], 1)]
            for x in (x.to(y.device) for x in rest):
                self._see(x, step(x).float())
        changes = _Errors()
        for x, y in zip(self._states, self._outputs, strict=True):
            changes.add(y - F.pad(x[:, :goes_on], (0, 0, 0, 0, 0, y.shape[1] - goes_on)))
        self._changes = changes.rms(1)
        if not self._changes.isfinite().all():
            raise ValueError("network: expected finite results from the states, got others")
        self._changes = self._changes.clamp(min=LEAST * self._changes.max())
        self._changes = torch.where(self._changes > 0, self._changes, 1.0)

    def _see(self, x: Tensor, y: Tensor) -> None:
        self._states.append(x)
        self._outputs.append(y)

    def _see_block(self, name: str, block: Any, args: tuple[Tensor, ...]) -> None:
        t, rounded = (convert_filter(block.filter, p)(args[0], block.norm1) for p in ("fp32", "bf16"))
        self._keep(f"{name}.mlp", self._sample(t))
        self._keep(f"{name}.filter", self._sample(rounded) - self._sample(t))

    def _see_embed(self, name: str, embed: Any, args: tuple[Tensor, ...]) -> None:
        x, weight = args[0].float(), embed.proj.weight
        t, rounded = (ops.patch_embed(x, weight.to(dtype), None) for dtype in (torch.float32, torch.bfloat16))
        self._keep(name, self._sample(rounded - t))

    def _see_head(self, name: str, head: Any, args: tuple[Tensor, ...]) -> None:
        tokens, weight = self._sample(args[0]), head.weight.float()
        fields = F.linear(_rounded("bf16", tokens), _rounded("bf16", weight))
        self._keep(name, fields - F.linear(tokens, weight))

    def _keep(self, name: str, values: Tensor) -> None:
        self._samples.setdefault(name, []).append(values)

    def _other(self, name: str, layer: LayerScheme) -> LayerScheme:
        if layer.precision == "fp32":
            return replace(layer, error=0.0)
        if name.endswith("pos_embed"):
            (positions,) = self._weights(name)
            errors = self._sample(_rounded(layer.precision, positions) - positions)
            return replace(layer, error=self._effect(name, [errors] * len(self._states)))
        return replace(layer, error=self._effect(name, self._samples[name]))

    def _mlp(self, name: str, layer: LayerScheme) -> LayerScheme:
        """The shift and, in one byte, the reach of the hidden layer; in int8 the better SmoothQuant too."""
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
            errors = (new(tokens, new_norm) - y).chunk(len(self._states))
            return replace(tried, error=self._effect(name, errors))

        error = attrgetter("error")
        n = F.layer_norm(tokens, tokens.shape[-1:], norm.weight.float(), _float(norm.bias), norm.eps)
        shift, weight = n.mean(0), fc1.weight.float()
        plain = torch.ones_like(shift)
        if layer.precision == "bf16":
            return measured(shift=shift, scale=plain)
        hidden = F.gelu(F.linear(n, weight, _float(fc1.bias)))
        if layer.precision == "fp8":
            return measured(shift=shift, scale=plain, hidden_scale=hidden_scale_fp8(hidden.max().item()))
        code = hidden_code(min(hidden.min().item(), 0.0), max(hidden.max().item(), 0.0))
        spread, reach = _reach(n - shift), _reach(weight)
        scales = {a: spread**a / reach ** (1 - a) if a else plain for a in ALPHAS}
        layer = replace(layer, shift=shift, hidden_scale=code[0], hidden_offset=code[1])
        return min((measured(smooth=a, scale=scale) for a, scale in scales.items()), key=error)

    def _effect(self, name: str, errors: Iterable[Tensor]) -> float:
        """The error that d (rows, C) of each state makes, added to tokens; (rows, p q C_out) at the head."""
        root = next((root for prefix, root in self.roots.items() if name.startswith(prefix)), None)
        points = 0 if root is None else root.patch_embed.proj.weight[0, 0].numel()  # of a patch
        changes = self._changes
        if root is None or len(root.head.weight) != points * len(changes):  # its fields are not the results
            changes = changes.square().mean().sqrt()[None]
        found = _Errors()
        for d in errors:
            if root is not None and not name.endswith("head"):
                d = F.linear(d, root.head.weight.float())
            found.add(d.reshape(-1, len(changes)))
        return _largest(found.rms(self._steps) / changes)

    def _sample(self, values: Tensor) -> Tensor:
        """A state's share of ROWS rows of (..., C), the same ones of every tensor of that size, float32."""
        values = values.flatten(0, -2)
        chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[: self._rows]
        return values[chosen.to(values.device)].float()

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


class _Errors:
    """The errors d_i of a step from several states, taken for those of consecutive steps.

    By variable, RMS(sum of n errors) / sqrt(n) = sqrt(mean_i d_i^2 + (n - 1) mean_(i != j) d_i d_j): what is
    the same in every step adds up, what is random does not. The second mean is 0 where it would be negative,
    and from one state alone.
    """

    def __init__(self) -> None:
        self._count = 0
        self._squares: Tensor | float = 0.0
        self._sum: Tensor | float = 0.0

    def add(self, d: Tensor) -> None:
        """d (..., variable, ...) with the variable second, of the same shape each time."""
        self._count += 1
        self._squares = self._squares + _mean_square(d)
        self._sum = self._sum + d

    def rms(self, steps: int) -> Tensor:
        """(variable,)."""
        assert isinstance(self._squares, Tensor)
        assert isinstance(self._sum, Tensor)
        n = self._count
        found = self._squares / n
        if n > 1:
            common = (_mean_square(self._sum) - self._squares) / (n * (n - 1))
            found = found + (steps - 1) * common.clamp(min=0)
        return found.sqrt()


def nbytes(module: nn.Module) -> int:
    """Bytes of all weights and buffers that its state dict has."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _nbytes_in(precision: str, weight: Tensor) -> int:
    if precision == "fp32":
        return weight.nbytes
    return 2 * weight.numel() if precision == "bf16" else weight.numel() + 4 * len(weight)


def _mean_square(d: Tensor) -> Tensor:
    """Over all dimensions but the second."""
    return d.square().mean([dim for dim in range(d.dim()) if dim != 1])


def _largest(errors: Tensor) -> float:
    error = errors.max().item()
    return math.inf if math.isnan(error) else error


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
