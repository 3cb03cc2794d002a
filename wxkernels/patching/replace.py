"""patch and unpatch: put our ops behind the modules of a running model, and put the originals back."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wxkernels.errors import UserError
from wxkernels.patching import blocks, filters, hosts, networks, precisions
from wxkernels.patching.forward import LEVELS, CapturedForward, Forward, PatchedForward, on, patched, refusal
from wxkernels.patching.probe import Errors, ProbeError, prove, prove_rounding
from wxkernels.patching.report import Replaced, Report, Skipped
from wxkernels.quantization import LayerScheme
from wxkernels.quantization.conversion import blocks_of

log = logging.getLogger("wxkernels")


def patch(
    model: Any,
    *,
    backend: str | None = None,
    probe: bool = True,
    precision: str | Mapping[str, str] = "same",
    calibration: Sequence[Tensor] | None = None,
    capture: bool = False,
) -> Report:
    """Let the modules of `model` that wxkernels knows run on our ops; returns what was replaced and what not.

    Known are the network, the block and the filter of FourCastNet, ai-models-fourcastnet, physicsnemo and
    modulus. One is replaced when its class, its parts and the shapes of their parameters are the published
    ones and, with `probe`, our error against float64 on a probe is at most twice its own; of a block or a
    network that is left alone the parts are replaced. Type, parameters, state_dict, hooks and `meta` stay.
    Networks and blocks run their original forward in training, while gradients are recorded, and where a hook
    is set on a part that our ops do not call.

    precision: "same" computes the same function in the precision of the parameters. "bf16", "int8" and "fp8"
    (e4m3) round what products multiply; converted copies are held beside the parameters. In "int8" that is
    MLPs and stored positions, in "fp8" MLPs, with int8 positions; the rest is bf16. A dict chooses for layers
    by name, {"blocks.0.*": "bf16", "*": "int8"}: the first pattern that fits, "same" if none does.
    calibration: a few normalised inputs (B, C, H, W) of the network. int8 and fp8 need them; and where one
    precision is named for all, the worst layers become finer until the error of a step is within the budget
    for it (`quantization.BUDGETS`).

    capture: on a GPU the calls of `model` with one tensor are replayed from CUDA graphs, one for each shape
    and the like (`wxkernels.capture`), under inference_mode or no_grad and without hooks. Python in the model
    does not run then.

    Copies and pickles stay patched; to read such a pickle one needs wxkernels, so `unpatch` before saving for
    elsewhere. Patching again replaces the patch. `model` is a torch.nn.Module, or an object that holds one at
    `.model`. `backend` names one for all calls (torch.compile then breaks its graph at each module, as
    in other precisions); by default each call chooses by its tensors. Raises UserError when `model` holds
    no module, the named backend cannot run here, or precision and calibration do not fit the model, which is
    then as it was.
    """
    network = _network(model)
    precisions.check(precision)
    inputs = precisions.inputs(calibration)
    earlier = {module: forward for module in network.modules() if (forward := patched(module)) is not None}
    for module in earlier:
        del module.__dict__["forward"]
    try:
        report, forwards = _prepare(network, backend, probe, precision, inputs)
        new: dict[nn.Module, Forward] = {**forwards}
        if capture:
            new |= _captured(network, forwards.get(network), report)
    except BaseException:
        for module, forward in earlier.items():
            module.__dict__["forward"] = forward
        raise
    for module, forward in new.items():
        module.__dict__["forward"] = forward
    report.before = [(module, earlier.get(module)) for module in {**earlier, **new}]
    if not forwards:
        log.warning("patch: nothing was replaced in %s; the report says why", type(network).__qualname__)
    return report


def unpatch(model: Any) -> None:
    """Put the original forward of every patched module of `model` back; harmless where nothing is patched."""
    for module in _network(model).modules():
        if patched(module) is not None:
            del module.__dict__["forward"]


class _Found:
    """A module that our ops can stand in for, on its way through `patch`."""

    def __init__(self, name: str, module: nn.Module, level: Any, errors: Errors | None):
        self.name, self.module, self.level, self.errors = name, module, level, errors
        #: Part of the module -> the name in the model of a layer with a precision of its own.
        self.layers: dict[str, str] = {part: precisions.join(name, part) for part in level.LAYERS}
        self.schemes = {part: LayerScheme("fp32") for part in level.LAYERS}

    @property
    def precisions(self) -> dict[str, str]:
        """Part -> "fp32" (as given), "bf16", "int8" or "fp8"."""
        return {part: scheme.precision for part, scheme in self.schemes.items()}

    @property
    def is_rounded(self) -> bool:
        return set(self.precisions.values()) != {"fp32"}

    def row(self) -> Replaced:
        told = {self.layers[part]: "same" if p == "fp32" else p for part, p in self.precisions.items()}
        return Replaced(self.name, _class(self.module), self.level.OPS, told, self.errors)


def _prepare(
    network: nn.Module,
    backend: str | None,
    probe: bool,
    precision: str | Mapping[str, str],
    calibration: list[Tensor],
) -> tuple[Report, dict[nn.Module, PatchedForward]]:
    """The report of a patch, and the new forwards; nothing is replaced yet."""
    with on(backend):  # UserError for one that cannot run
        pass
    report = Report()
    found = _known(network, backend, report, probe)
    _choose(network, found, report, precision, calibration)
    if probe:
        found = _rounded_well(found, backend, report)
    inner = {f.module.filter for f in found if f.level is blocks}  # they serve while gradients are recorded
    forwards = {}
    report.size_before = report.size_after = _nbytes(network.state_dict().values())
    for f in found:
        rounded = f.is_rounded and f.module not in inner
        forward = PatchedForward(f.module, f.level.KIND, backend, f.schemes if rounded else None)
        if rounded:
            report.size_after += _nbytes(forward.converted().state_dict().values())
            report.size_after -= _nbytes(f.level.parameters(f.module))
        if f.module not in inner:
            report.replaced.append(f.row())
        forwards[f.module] = forward
    return report, forwards


def _captured(
    network: nn.Module, inner: PatchedForward | None, report: Report
) -> dict[nn.Module, CapturedForward]:
    """The forward that captures the model's calls, if it can be; the report gets what becomes of them."""
    if "forward" in network.__dict__:
        report.capture = "not captured, its forward was replaced on this very object"
        return {}
    report.capture = "replayed from a CUDA graph for each shape of the input"
    if elsewhere := {p.device.type for p in network.parameters()} - {"cuda"}:
        report.capture = f"not captured on {' and '.join(elsewhere)}; on a GPU {report.capture}"
    return {network: CapturedForward(network, inner)}


def _known(network: nn.Module, backend: str | None, report: Report, probe: bool) -> list[_Found]:
    """What our ops can stand in for, proven in float32; the report gets what they cannot."""
    found: list[_Found] = []
    proofs: dict[tuple[Any, ...], tuple[str | None, Errors | None]] = {}  # modules alike share one
    for name, module in network.named_modules():
        level = next((level for level in LEVELS.values() if level.is_candidate(module)), None)
        if level is None:
            continue
        reason, errors = refusal(level, module), None
        if reason is None and probe:
            key = level.signature(module)
            if key not in proofs:
                proofs[key] = _proof(level, module, backend)
            reason, errors = proofs[key]
        if reason:
            report.skipped.append(Skipped(name, _class(module), reason))
        else:
            found.append(_Found(name, module, level, errors))
    return found


def _proof(level: Any, module: nn.Module, backend: str | None) -> tuple[str | None, Errors | None]:
    """The reason of the probe to leave `module` alone, or None, and the errors it found.

    The backend that was named may have no floating MLP: the formula of a block is proven on any.
    """
    try:
        with on(backend if level is filters else None):
            errors = prove(level, module, hosts.original(module))
    except (ProbeError, RuntimeError) as error:
        return precisions.line(error), None
    return errors.refusal(), errors


def _choose(
    network: nn.Module,
    found: list[_Found],
    report: Report,
    precision: str | Mapping[str, str],
    calibration: list[Tensor],
) -> None:
    """Give each of `found` the schemes of its layers, measured where there are calibration inputs."""
    names = list(dict.fromkeys(name for f in found for name in f.layers.values()))
    chosen = precisions.choose(precision, names)
    for root_name, root, inside, inputs in _by_network(network, found, calibration):
        local = {name: name.removeprefix(f"{root_name}.") for f in inside for name in f.layers.values()}
        if all(chosen[name] == "same" for name in local):
            continue
        if inputs:
            _check_blocks(root_name, root, inside, report)
        search = precision if isinstance(precision, str) else None
        scheme = precisions.scheme(root, {local[name]: chosen[name] for name in local}, inputs, search)
        if scheme.error is not None:
            report.error = max(scheme.error, report.error or 0.0)
        for f in inside:
            f.schemes = {part: scheme.layers[local[name]] for part, name in f.layers.items()}


def _by_network(
    network: nn.Module, found: list[_Found], calibration: list[Tensor]
) -> Iterable[tuple[str, nn.Module, list[_Found], list[Tensor]]]:
    """`found`, by the AFNO network that they are in, and the calibration inputs, which are that network's.

    Where there is no such network they are the model's; what is beside one has none.
    """
    roots = {name: m for name, m in network.named_modules() if networks.is_candidate(m)}
    rest = found
    for name, root in roots.items():
        inside = set(root.modules())
        yield name, root, [f for f in rest if f.module in inside], calibration
        rest = [f for f in rest if f.module not in inside]
    if rest:
        yield "", network, rest, [] if roots else calibration


def _check_blocks(name: str, root: nn.Module, inside: list[_Found], report: Report) -> None:
    """UserError for a block that is left alone: calibration needs to know what all of them compute."""
    known = {f.module for f in inside}
    for block_name, block in blocks_of(root).items():
        if block not in known:
            full = precisions.join(name, block_name)
            why = next((s.reason for s in report.skipped if s.name == full), "it is not known")
            raise UserError(
                f"calibration: every block has to be replaced, and {full or 'the model'} cannot: {why}; "
                "leave it out and use precision='bf16' or 'same'"
            )


def _rounded_well(found: list[_Found], backend: str | None, report: Report) -> list[_Found]:
    """Those of `found` whose error in the chosen precisions is one of rounding."""
    proofs: dict[tuple[Any, ...], tuple[str | None, Errors | None]] = {}
    kept: list[_Found] = []
    for f in found:
        reason = None
        if f.is_rounded and f.errors is not None:
            key = (f.level.signature(f.module), *f.precisions.items())
            if key not in proofs:
                proofs[key] = _rounding_proof(f, f.errors, backend)
            reason, f.errors = proofs[key]
        if reason:
            report.skipped.append(Skipped(f.name, _class(f.module), reason))
        else:
            kept.append(f)
    return kept


def _rounding_proof(f: _Found, errors: Errors, backend: str | None) -> tuple[str | None, Errors | None]:
    """As `_proof`, in the precisions chosen for f."""
    try:
        with on(backend):
            errors = errors._replace(rounded=prove_rounding(f.level, f.module, f.precisions))
    except RuntimeError as error:
        return precisions.line(error), None
    return errors.refusal(f.precisions.values()), errors


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _network(model: Any) -> nn.Module:
    for candidate in (model, getattr(model, "model", None)):
        if isinstance(candidate, nn.Module):
            return candidate
    raise UserError(
        f"model: expected a torch.nn.Module or an object that holds one at .model, got {type(model).__name__}"
    )
