"""What the words of a command line choose: cases, their sizes, their variants."""

import re
from collections.abc import Sequence

import torch

from wxkernels.bench.case import Case, Here
from wxkernels.bench.cases import CASES
from wxkernels.bench.engine import Size, dtype_name
from wxkernels.bench.models import QUICK
from wxkernels.errors import UserError

PRECISIONS = ("fp32", "bf16", "int8", "fp8")


def case(name: str) -> Case:
    if name not in CASES:
        raise UserError(f"there is no case {name!r}; choose one of {', '.join(CASES)}")
    return CASES[name]


def sizes(
    case: Case,
    device: torch.device,
    shapes: Sequence[str] = (),
    batches: Sequence[int] = (),
    dtypes: Sequence[str] = (),
    quick: bool = False,
) -> list[Size]:
    """Every combination; by default the case's first model, its first dtype, batch 1."""
    found = [
        Size(batch, shape, _dtype(case, dtype), device, model)
        for model, shape in _shapes(case, shapes or [QUICK if quick else next(iter(case.shapes))])
        for dtype in dtypes or (dtype_name(case.dtypes[0]),)
        for batch in batches or (1,)
    ]
    return list(dict.fromkeys(found))


def variants(
    case: Case,
    device: torch.device,
    backends: Sequence[str] = (),
    peers: Sequence[str] = (),
    precisions: Sequence[str] = (),
) -> list[str]:
    """Peers, then ours: the named ones, or all that run here. A precision names all of ours in it.

    UserError: what is named is not there or cannot run here, or nothing can.
    """
    here = {"--peer": case.peers(device), "--backend": case.ours(device)}
    for precision in precisions:
        named = [name for name in here["--backend"] if name.endswith(f"-{precision}")]
        if not named:
            raise UserError(f"--precision: {case.name} has nothing of ours in {precision!r}")
        able = [name for name in named if here["--backend"][name] is None]
        backends = [*backends, *(able or named[:1])]
    for option, names in (("--peer", peers), ("--backend", backends)):
        for name in names:
            _check(option, name, here)
    if backends or peers:
        return list(dict.fromkeys((*peers, *backends)))
    able = [name for found in here.values() for name, reason in found.items() if reason is None]
    if not able:
        raise UserError(f"{case.name} cannot run here: {missing(case, device)}")
    return able


def missing(case: Case, device: torch.device) -> str | None:
    """Why nothing of a case runs here; None where something does."""
    reasons = [*case.ours(device).values(), *case.peers(device).values()]
    return None if None in reasons else reasons[0]


def compared(
    case: Case,
    device: torch.device,
    backends: Sequence[str] = (),
    peers: Sequence[str] = (),
    quick: bool = False,
) -> list[str]:
    """What is measured side by side: `variants`, and what those of one option are compared with.

    That is all of ours beside peers and the case's baselines beside backends: the first if it is to be quick.
    """
    if not backends and (peers or quick):
        backends = [name for name, reason in case.ours(device).items() if reason is None]
    names, here = variants(case, device, backends, peers), case.peers(device)
    if any(name in here for name in names):
        return names
    baselines = [name for name in case.baselines if here[name] is None]
    return [*(baselines[:1] if quick else baselines), *names]


def _check(option: str, name: str, here: dict[str, Here]) -> None:
    known = here[option]
    if name not in known:
        [other] = here.keys() - {option}
        hint = f"it is a {other}" if name in here[other] else f"choose from {', '.join(known)}"
        raise UserError(f"{option}: there is no {name!r}; {hint}")
    if known[name]:
        raise UserError(f"{option}: {name} cannot run here: {known[name]}")


def _shapes(case: Case, texts: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The shapes that are named, with their names, or spelled out, which then is their name."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for text in texts:
        named = [item for item in case.shapes.items() if text in (item[0], item[0].partition(":")[0])]
        sizes = text.split("x")
        spelled = all(re.fullmatch("[1-9][0-9]{0,8}", s) for s in sizes)
        if not named and not (spelled and len(sizes) == len(case.axes.split(" x "))):
            raise UserError(f"--shape: {text!r} is neither {case.axes} nor one of {', '.join(case.shapes)}")
        found += named or [("x".join(sizes), tuple(map(int, sizes)))]
    return found


def _dtype(case: Case, name: str) -> torch.dtype:
    known = {dtype_name(d): d for d in case.dtypes}
    if name not in known:
        raise UserError(f"--dtype: {case.name} takes {', '.join(known)}, not {name!r}")
    return known[name]
