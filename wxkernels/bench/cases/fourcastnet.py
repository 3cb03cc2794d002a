"""One step of the published FourCastNet: as it is, as other runtimes run it, patched in each precision."""

import copy
import functools
import importlib
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

from wxkernels import backends, models
from wxkernels.bench.case import Case, Here
from wxkernels.bench.cases import mlp as mlp_case
from wxkernels.bench.cases.spectral_filter import flops as filter_flops
from wxkernels.bench.engine import Call, Problem, Progress, Size, Variant, Work, option
from wxkernels.bench.memory import footprint, measure_bytes
from wxkernels.bench.models import MODELS
from wxkernels.bench.peers import PEERS
from wxkernels.bench.profile import Network, OpClock, Profiled, module_clock
from wxkernels.bench.results import Footprint
from wxkernels.errors import UserError
from wxkernels.io.grid import Grid
from wxkernels.ops.spectral_filter.reference import spectral_filter
from wxkernels.patching import patch

#: Dtypes by precision: of the MLPs' products, and of the other products. Transforms are float32 in all.
PRECISIONS = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.int8, torch.bfloat16),
    "fp8": (torch.float8_e4m3fn, torch.bfloat16),
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


def ours(device: torch.device) -> Here:
    here: Here = dict.fromkeys(OURS, _missing())
    here["patched-fp8"] = here["patched-fp8"] or _without_fp8(device)
    return here


def _without_fp8(device: torch.device) -> str | None:
    """Why PyTorch would compute the e4m3 MLPs of a patched network."""
    if reason := mlp_case.ours(device)["triton-fp8"]:
        return f"its MLPs have no kernel here: {reason}"
    if not backends.has_gpu_kernel("mlp", device):
        return "the tests of the kernel of its MLPs have no record here (ci/gpu.sh)"
    return None


def peers(device: torch.device) -> Here:
    reason = _missing()
    return {name: reason or peer.reason(device) for name, peer in PEERS.items()}


def problem(size: Size, names: Sequence[str]) -> Problem:
    network, generator = _published(size), torch.Generator().manual_seed(0)
    calibration = _state(size, generator)
    variants = []
    for name in names:
        if name in OURS:
            build = partial(_patched, network, OURS[name], calibration)
            variants.append(Variant(name, build, _whole(size, OURS[name])))
        else:
            build = partial(_peer, network, name, calibration)
            variants.append(Variant(name, build, _whole(size, PEERS[name].precision), PEERS[name].kind))
    return Problem(
        case="fourcastnet",
        op="fourcastnet",
        size=size,
        shape=_fields(size),
        sample=lambda: [_state(size, generator)],
        exact=partial(_exact, network),
        variants=variants,
    )


def network(size: Size, names: Sequence[str]) -> Network:
    """The parts of a step: modules of the published network, operators of the patched one."""
    published, generator = _published(size), torch.Generator().manual_seed(0)
    calibration = _state(size, generator)
    variants = []
    for name in names:
        if name in OURS:
            call = _patched(published, OURS[name], calibration)
            clock: Any = partial(OpClock, parts=OPS)
            variants.append(Profiled(name, "ours", call, clock, work(size, OURS[name])))
        else:
            own = copy.deepcopy(published)  # a peer may change it
            call = PEERS[name].build(own, calibration)
            clock = partial(module_clock, parts=_modules(own))
            parts = work(size, PEERS[name].precision)
            variants.append(Profiled(name, PEERS[name].kind, call, clock, parts))
    inputs = [_state(size, generator)]
    return Network("fourcastnet", "fourcastnet", size, _fields(size), inputs, variants)


def memory(size: Size, names: Sequence[str], progress: Progress) -> list[Footprint]:
    """A step of the published network, and of ours read from its checkpoint in each precision."""
    found = []

    def add(name: str, chosen: str, prepare: Callable[..., Any], *args: Any, file: int | None = None) -> None:
        progress(f"a step of {name} in a process of its own")
        taken = measure_bytes(size.device, prepare, *args)
        row = footprint("fourcastnet", "fourcastnet", size, _fields(size), name, chosen, taken, file)
        found.append(row)

    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if name not in OURS:
                add(name, option(name, "peer"), _peer_step, size, name)
                continue
            precision, path = OURS[name], Path(folder) / "network.safetensors"
            progress(f"writes the checkpoint in {precision}")
            _write(size, precision, path)
            chosen = option(name, "ours")
            add(f"loaded-{precision}", chosen, _loaded_step, size, path, file=path.stat().st_size)
    return found


def work(size: Size, precision: str) -> dict[str, Work]:
    """The least work of each part: 16 N dim^2 operations in the MLP of a block, and so on.

    The tokens are read and written once by each layer, in float32; weights are read once.
    """
    H, W, channels, p, dim, depth, nb = size.shape
    h, w = H // p, W // p
    mlp, other = PRECISIONS[precision]
    fields, tokens = 4.0 * size.batch * channels * H * W, 4.0 * size.batch * h * w * dim
    patches = 2.0 * size.batch * h * w * channels * p**2 * dim
    weights = channels * p**2 * dim * other.itemsize
    positions = h * w * dim * (1 if mlp.itemsize == 1 else other.itemsize)
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


def _state(size: Size, generator: torch.Generator) -> Tensor:
    return torch.randn(_fields(size), generator=generator).to(size.device)


def _options(size: Size) -> dict[str, Any]:
    H, W, channels, p, dim, depth, nb = size.shape
    if H % p or W % p:
        raise UserError(f"shape: {H} x {W} is not whole patches of {p}")
    if dim % nb:
        raise UserError(f"shape: {dim} channels do not divide into {nb} blocks")
    return {
        "img_size": (H, W),
        "patch_size": (p, p),
        "in_chans": channels,
        "out_chans": channels,
        "embed_dim": dim,
        "depth": depth,
        "num_blocks": nb,
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


def _missing() -> str | None:
    """Why the published network is not here; None where it is."""
    try:
        _afnonet()
    except Exception as error:  # a package that does not fit torch raises more than ImportError
        hint = "pip install -c constraints.txt --no-deps ai-models-fourcastnet einops"
        return f"the published network is not here ({error}): {hint}"
    return None


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
    calibration = [state[:1]] if precision in ("int8", "fp8") else None
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


def _peer_step(size: Size, name: str) -> tuple[Callable[[], object], int]:
    network, x = _published(size), _state(size, torch.Generator().manual_seed(0))
    call = PEERS[name].build(network, x)
    if name not in PROFILED:  # it compiles in its first call
        with torch.inference_mode():
            call([x])
    return lambda: call([x]), _nbytes(network)


def _loaded_step(size: Size, path: Path) -> tuple[Callable[[], object], int]:
    model, x = models.load(path), _state(size, torch.Generator().manual_seed(0))
    model.network.to(size.device)
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
        model.quantize(
            _state(size, torch.Generator().manual_seed(0))[:1], precision, budget=1e6
        )  # no layer in a finer one
    model.save(path)


def _nbytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


CASE = Case(
    name="fourcastnet",
    summary="one step of the published network, also patched; random weights (two names of timm are stood in"
    " for where it does not import)",
    axes="H x W x channels x patch x dim x depth x blocks",
    shapes={
        name: (*m.grid, m.channels, m.patch[0], m.dim, m.depth, m.blocks)
        for name, m in MODELS.items()
        if m.patch[0] == m.patch[1] and m.hidden == 4 * m.dim  # as the published network has them
    },
    dtypes=(torch.float32,),
    ours=ours,
    peers=peers,
    problem=problem,
    baselines=("eager", "compiled-bf16"),
    rounds=5,
    network=network,
    profiled=PROFILED,
    memory=memory,
)
