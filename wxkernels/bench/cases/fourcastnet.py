"""One step of the published FourCastNet: as it is, as other runtimes run it, patched in each precision."""

import copy
import functools
import importlib
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from wxkernels import models
from wxkernels.bench.case import Case, Size
from wxkernels.bench.cases.spectral_filter import flops as filter_flops
from wxkernels.bench.engine import Call, Problem, Variant, Work
from wxkernels.bench.machine import Ceilings
from wxkernels.bench.memory import Footprint, in_fresh_process
from wxkernels.bench.peers import PEERS
from wxkernels.bench.profile import OpClock, Part, Profiled, measure_parts, module_clock
from wxkernels.errors import UserError
from wxkernels.io.grid import Grid
from wxkernels.ops.spectral_filter.reference import spectral_filter
from wxkernels.patching import patch

#: Dtypes by precision: of the MLPs' products, and of the other products. Transforms are float32 in all.
PRECISIONS = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.int8, torch.bfloat16),
}
OURS = {f"patched-{precision}": precision for precision in PRECISIONS}
#: What a profile can take apart; a compiled network has no parts.
PROFILED = ("eager", "eager-bf16", *OURS)
EMBEDDING, FILTER, MLP, HEAD = "embedding", "filter", "MLP", "head"
#: The operators that are the parts of a patched network.
OPS = {
    "wxkernels::patch_embed": EMBEDDING,
    "wxkernels::spectral_filter": FILTER,
    "wxkernels::mlp": MLP,
    "wxkernels::patch_head": HEAD,
}


def backends(device: torch.device) -> dict[str, str | None]:
    try:
        _afnonet()
    except Exception as error:  # a package that does not fit torch raises more than ImportError
        hint = "pip install -c constraints.txt --no-deps ai-models-fourcastnet einops"
        return dict.fromkeys((*PEERS, *OURS), f"the published network is not here ({error}): {hint}")
    return {name: peer.reason(device) for name, peer in PEERS.items()} | dict.fromkeys(OURS)


def problem(size: Size, names: Sequence[str]) -> Problem:
    network, states = _published(size), _states(size, 3)
    variants = []
    for name in names:
        if name in OURS:
            build = partial(_patched, network, OURS[name], states[2])
            variants.append(Variant(name, build, _whole(size, OURS[name])))
        else:
            build = partial(_peer, network, name, states[2])
            variants.append(Variant(name, build, _whole(size, PEERS[name].precision), PEERS[name].kind))
    return Problem(
        op="fourcastnet",
        shape=tuple(states[0].shape),
        dtype=size.dtype,
        inputs=[[x] for x in states[:2]],
        exact=partial(_exact, network),
        variants=variants,
        command=size.command("fourcastnet"),
    )


def profile(
    size: Size, names: Sequence[str], ceilings: Ceilings, rounds: int, progress: Callable[[str], None]
) -> list[Part]:
    """The parts of a step: modules of the published network, operators of the patched one."""
    network, states = _published(size), _states(size, 2)
    variants = []
    for name in names:
        if name in OURS:
            precision, call = OURS[name], _patched(network, OURS[name], states[1])
            variants.append(Profiled(name, call, partial(OpClock, parts=OPS), work(size, precision)))
        else:
            call = PEERS[name].build(network, states[1])
            clock = partial(module_clock, parts=_modules(network))
            variants.append(Profiled(name, call, clock, work(size, PEERS[name].precision)))
    return measure_parts(
        "fourcastnet",
        states[0].shape,
        variants,
        states[:1],
        ceilings,
        rounds=rounds,
        device=size.device,
        command=f"{size.command('fourcastnet')} --profile",
        progress=progress,
    )


def memory(size: Size, progress: Callable[[str], None]) -> list[Footprint]:
    """A step of the published network, and of ours read from its checkpoint in each precision."""
    found = []

    def add(name: str, file: int | None, prepare: Callable[..., Any], *args: Any) -> None:
        progress(f"a step of {name} in a process of its own")
        resident = in_fresh_process(prepare, *args)
        shape = "x".join(map(str, _fields(size)))
        command = f"{size.command('fourcastnet')} --memory"
        found.append(Footprint("fourcastnet", shape, name, file, resident, command))

    for name in ("eager", "eager-bf16"):
        add(name, None, _published_step, size, name)
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            progress(f"writes the checkpoint in {precision}")
            path = Path(folder) / f"{precision}.safetensors"
            _write(size, precision, path)
            add(f"loaded-{precision}", path.stat().st_size, _loaded_step, size, path)
            path.unlink()
    return found


def work(size: Size, precision: str) -> dict[str, Work]:
    """The least work of each part: 16 N dim^2 operations in the MLP of a block, and so on.

    The tokens are read and written once by each layer, in float32; weights are read once.
    """
    H, W, channels, p, dim, depth = size.shape
    h, w = H // p, W // p
    mlp, other = PRECISIONS[precision]
    fields, tokens = 4.0 * size.batch * channels * H * W, 4.0 * size.batch * h * w * dim
    patches = 2.0 * size.batch * h * w * channels * p**2 * dim
    weights = channels * p**2 * dim * other.itemsize
    positions = h * w * dim * (1 if precision == "int8" else other.itemsize)
    nb = math.gcd(dim, 8)
    filters = filter_flops(size.batch, h, w, dim, nb, other)
    return {
        EMBEDDING: Work({other: patches}, fields + weights + positions + tokens),
        FILTER: Work(
            {dtype: depth * flops for dtype, flops in filters.items()},
            depth * (2 * tokens + 4 * dim * (dim // nb) * other.itemsize),
        ),
        MLP: Work(
            {mlp: depth * 16.0 * size.batch * h * w * dim**2},
            depth * (2 * tokens + 8 * dim**2 * mlp.itemsize),
        ),
        HEAD: Work({other: patches}, tokens + weights + fields),
    }


def _whole(size: Size, precision: str) -> Work:
    return functools.reduce(Work.__add__, work(size, precision).values())


def _fields(size: Size) -> tuple[int, int, int, int]:
    H, W, channels = size.shape[:3]
    return size.batch, channels, H, W


def _states(size: Size, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(_fields(size), generator=generator).to(size.device) for _ in range(count)]


def _options(size: Size) -> dict[str, Any]:
    H, W, channels, p, dim, depth = size.shape
    if H % p or W % p:
        raise UserError(f"shape: {H} x {W} is not whole patches of {p}")
    return {
        "img_size": (H, W),
        "patch_size": (p, p),
        "in_chans": channels,
        "out_chans": channels,
        "embed_dim": dim,
        "depth": depth,
        "num_blocks": math.gcd(dim, 8),
    }


def _random(network: nn.Module) -> nn.Module:
    """The published initial weights, but filters that pass the softshrink, as trained ones do."""
    for name, parameter in network.named_parameters():
        if ".filter." in name:
            parameter.data.mul_(5)
    return network.eval()


def _published(size: Size) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _random(_afnonet().AFNONet(**_options(size))).to(size.device)


def _afnonet() -> ModuleType:
    """The published module. Of timm it takes two names; where timm is not whole, they stand in for it.

    (timm imports torchvision, whose wheels need a CUDA build of torch.)
    """
    name = "ai_models_fourcastnet.afnonet"
    try:
        return importlib.import_module(name)
    except Exception as error:
        if "timm" not in str(error) and "torchvision" not in str(error):
            raise
    layers = ModuleType("timm.models.layers")
    layers.__dict__.update(DropPath=nn.Identity, trunc_normal_=nn.init.trunc_normal_)
    packages = {part: ModuleType(part) for part in ("timm", "timm.models")}
    with mock.patch.dict(sys.modules, {**packages, layers.__name__: layers}):
        module = importlib.import_module(name)
    sys.modules[name] = module  # what the context above undoes
    return module


def _patched(network: nn.Module, precision: str, state: Tensor) -> Call:
    """Every layer in `precision`: a pattern keeps the search from moving some to a finer one."""
    network = copy.deepcopy(network)
    calibration = [state[:1]] if precision == "int8" else None
    patch(network, precision={"*": "same" if precision == "fp32" else precision}, calibration=calibration)
    return lambda tensors: network(*tensors)


def _peer(network: nn.Module, name: str, state: Tensor) -> Call:
    return PEERS[name].build(copy.deepcopy(network), state)


def _modules(network: Any) -> Mapping[str, Sequence[nn.Module]]:
    """The parts of the published network; skips, positions and un-patching lie between them."""
    return {
        EMBEDDING: [network.patch_embed],
        FILTER: [layer for block in network.blocks for layer in (block.norm1, block.filter)],
        MLP: [layer for block in network.blocks for layer in (block.norm2, block.mlp)],
        HEAD: [network.head],
    }


def _exact(network: nn.Module, tensors: Sequence[Tensor]) -> Tensor:
    """The first sample in float64. The filters' own code does not take it: they are their specification."""
    double: Any = copy.deepcopy(network).double()
    for block in double.blocks:
        block.filter.forward = partial(_exact_filter, block.filter)
    return double(tensors[0][:1].double())


def _exact_filter(layer: Any, x: Tensor) -> Tensor:
    threshold, fraction = layer.sparsity_threshold, layer.hard_thresholding_fraction
    return spectral_filter(x, layer.w1, layer.b1, layer.w2, layer.b2, threshold, fraction)


def _published_step(size: Size, name: str) -> tuple[Callable[[], object], int]:
    network, [x] = _published(size), _states(size, 1)
    call = PEERS[name].build(network, x)
    return lambda: call([x]), _nbytes(network)


def _loaded_step(size: Size, path: Path) -> tuple[Callable[[], object], int]:
    model, [x] = models.load(path), _states(size, 1)
    return lambda: model.step(x), _nbytes(model.network)


def _write(size: Size, precision: str, path: Path) -> None:
    """Our network with random weights, in `precision`, as a checkpoint."""
    _, C, H, W = _fields(size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _random(models.AFNONet(**_options(size)))
    model = models.WeatherModel(
        network=network,
        variables=tuple(f"v{i}" for i in range(C)),
        grid=Grid.regular(H, W, poles=False),
        mean=torch.zeros(C),
        std=torch.ones(C),
    )
    if precision != "fp32":
        model.quantize(_states(size, 1)[0][:1], precision, budget=1e6)  # no layer in a finer one
    model.save(path)


def _nbytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


CASE = Case(
    name="fourcastnet",
    summary="one step of the published network, also patched; random weights (two names of timm are stood in"
    " for where it does not import)",
    axes="H x W x channels x patch x dim x depth",
    shapes={"fourcastnet": (720, 1440, 20, 8, 768, 12), "small": (64, 128, 20, 8, 64, 2)},
    dtypes=(torch.float32,),
    backends=backends,
    problem=problem,
    baselines=("eager", "compiled-bf16"),
    rounds=5,
    profile=profile,
    profiled=PROFILED,
    memory=memory,
)
