"""`import wxkernels.auto` speeds up the known filters and blocks of a script that cannot be changed.

It replaces the forward of these host classes (those of `wxkernels.patch`), now or as soon as they are
imported, after the same probe and in the precision of the parameters; one whose class, parts or shapes differ
runs its original forward. Patch embedding and head are left to `wxkernels.patch`. With the environment
variable WXKERNELS_DISABLE=1 the import does nothing; `wxkernels.patch` works all the same. For example:
`python -c "import wxkernels.auto, runpy; runpy.run_path('script.py', run_name='__main__')"`.
"""

import functools
import logging
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from wxkernels.patching import blocks, filters, hosts
from wxkernels.patching.forward import LEVELS, refusal, stands_in
from wxkernels.patching.probe import prove

log = logging.getLogger("wxkernels")

#: Module -> its classes that are replaced: those that a small instance can be made of.
REPLACEABLE: dict[str, list[hosts.Host]] = {}
for _host in hosts.TABLE.values():
    if _host.kind in (filters.KIND, blocks.KIND) and not _host.differs:
        REPLACEABLE.setdefault(_host.module, []).append(_host)


class _Finder(MetaPathFinder):
    """Lets the other finders find a host's module, and adds one act after its execution."""

    def __init__(self) -> None:
        self.busy: set[str] = set()  # a finder of the same kind may ask us back

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REPLACEABLE or fullname in self.busy:
            return None
        self.busy.add(fullname)
        try:
            specs = (finder.find_spec(fullname, path, target) for finder in sys.meta_path)
            spec = next((found for found in specs if found is not None), None)
        finally:
            self.busy.remove(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """A host module's own loader; the module keeps that one, and its classes are replaced once it has run."""

    def __init__(self, loader: Any):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _replace_classes(module)


def _replace_classes(module: ModuleType) -> None:
    for host in REPLACEABLE[module.__name__]:
        cls = getattr(module, host.name, None)
        if cls is not None and cls not in hosts.original_forwards:
            _replace(cls, LEVELS[host.kind])


def _replace(cls: Any, level: Any) -> None:
    original = cls.forward
    try:
        with torch.device("meta"):  # no storage, no random numbers drawn
            layer = cls(16, num_blocks=2)
        reason = refusal(level, layer) or prove(level, layer, original).refusal()
    except Exception as error:  # whatever it is, the script's own import must go on
        reason = f"{type(error).__name__}: {error}"
    if reason:
        log.warning("auto: %s.%s is left alone: %s", cls.__module__, cls.__qualname__, reason)
        return

    @functools.wraps(original)
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        if type(self) is cls and stands_in(level, self, x):
            return level.run(self, x, self)
        return original(self, x)

    hosts.original_forwards[cls] = original
    cls.forward = forward
    log.info("auto: %s.%s runs on wxkernels", cls.__module__, cls.__qualname__)


if os.environ.get("WXKERNELS_DISABLE", "0") in ("", "0"):
    sys.meta_path.insert(0, _Finder())
    for _name in REPLACEABLE:
        if _name in sys.modules:
            _replace_classes(sys.modules[_name])
