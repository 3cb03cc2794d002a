"""CUDA graphs: what a call launches on a GPU is recorded once for each kind of input, then replayed whole."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from wxkernels import backends

log = logging.getLogger("wxkernels")

#: Calls before a capture: libraries choose their kernels, and Triton compiles, in the first.
WARM_UPS = 2
#: Where there are graphs; the tests put a stand-in for `Graph` on the CPU.
DEVICES = ("cuda",)


class Uncapturable(RuntimeError):
    """A call that no graph stands for; the message says why."""


class Graph:
    """function(*inputs) as a CUDA graph: `fill` its copies of the inputs, `replay`, and `output` is anew.

    after: a graph to share the memory of intermediate results with; of the two one runs at a time. Raises
    Uncapturable, OutOfMemoryError, and what the function raises.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Sequence[Tensor], after: Self | None = None
    ) -> None:
        device = inputs[0].device
        #: What graphs that share memory are captured on; it runs after their callers, whatever theirs are.
        self.stream: torch.cuda.Stream = torch.cuda.Stream(device) if after is None else after.stream
        self._graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self.stream):
            self.inputs = [torch.empty_like(x).copy_(x) for x in inputs]
            for _ in range(WARM_UPS):
                function(*self.inputs)
            # Other threads may go on using the device.
            options: Any = {"stream": self.stream, "capture_error_mode": "thread_local"}
            if after is not None:
                options["pool"] = after._graph.pool()
            try:
                with torch.cuda.graph(self._graph, **options):
                    self.output = function(*self.inputs)
            except RuntimeError as error:
                raise _cause(error) from None

    def fill(self, inputs: Sequence[Tensor]) -> None:
        """Copy the inputs in, once those who filled it before have released it."""
        torch.cuda.current_stream(self.inputs[0].device).wait_stream(self.stream)
        for own, x in zip(self.inputs, inputs, strict=True):
            own.copy_(x)

    def replay(self) -> None:
        self._graph.replay()

    def release(self) -> None:
        """Let the next `fill` overwrite the output."""
        self.stream.wait_stream(torch.cuda.current_stream(self.inputs[0].device))


class Captured:
    """function(x), a tensor, replayed from a graph of its own for each kind of x; elsewhere just called.

    A graph stands for one shape, strides, dtype and device, autocast, backend and precision of products. It
    stands once its replay has given the bits of the call. `reads` tells what the function reads: when a
    parameter or buffer has moved or was written to, or an attribute of a module was assigned or its forward
    hooked, all is captured anew. Python in the function runs only then. `limit` graphs are kept, those used
    last; they share one pool of memory.

    The function is called as it is on a CPU, while gradients are recorded, inside of torch.compile and of
    another capture; and, with a warning that says why, where it cannot be captured.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        reads: Callable[[], Iterable[nn.Module | Tensor]],
        limit: int = 8,
    ) -> None:
        self.function, self.reads, self.limit = function, reads, limit
        self._graphs: OrderedDict[tuple[Any, ...], Graph | None] = OrderedDict()  # None: called as it is
        self._state: _State | None = None  # of what the graphs read
        self._changed = 0  # calls in a row that changed what they read
        self._told: set[str] = set()
        self._lock = threading.RLock()

    def __call__(self, x: Tensor) -> Tensor:
        """function(x), a tensor of its own."""
        return self._answer(x, torch.clone)

    def lend(self, x: Tensor) -> Tensor:
        """function(x) where the graph leaves it: the next call overwrites it."""
        return self._answer(x, lambda output: output)

    def _answer(self, x: Tensor, take: Callable[[Tensor], Tensor]) -> Tensor:
        if (
            x.device.type not in DEVICES
            or x.numel() == 0
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or (x.is_cuda and torch.cuda.is_current_stream_capturing())
        ):
            return self.function(x)
        with self._lock:
            self._drop_stale()
            key = (x.shape, x.stride(), x.dtype, x.device, *_settings(x.device.type))
            if key not in self._graphs:
                return self._first(key, x)
            self._graphs.move_to_end(key)
            graph = self._graphs[key]
            if graph is None:
                return self.function(x)
            graph.fill([x])
            graph.replay()
            y = take(graph.output)
            graph.release()
            return y

    def _drop_stale(self) -> bool:
        """Forget all graphs if what they read has changed since they were captured; says whether it has."""
        parts = list(self.reads())
        if self._state is not None and self._state.is_that_of(parts):
            return False
        self._graphs.clear()
        self._state = _State(parts)
        return True

    def _first(self, key: tuple[Any, ...], x: Tensor) -> Tensor:
        """function(x) as it is; from then on there is a graph for such x, or the reason why not was told."""
        y = self.function(x)
        if self._drop_stale():  # by the call: once that may be what it prepares for others
            self._changed += 1
            if self._changed > 1:
                self._tell("a call changes its parameters or attributes, which a replay would not")
            return y
        self._changed = 0
        try:
            self._graphs[key] = self._graph(x, y)
        except torch.OutOfMemoryError:
            self._graphs.clear()
            raise
        except Uncapturable as error:
            self._graphs[key] = None
            self._tell(str(error))
        while len(self._graphs) > self.limit:
            self._graphs.popitem(last=False)
        return y

    def _graph(self, x: Tensor, y: Tensor) -> Graph:
        """The graph of function(x) = y."""
        assert self._state is not None
        if type(y) is not Tensor:
            raise Uncapturable(f"it returns a {type(y).__name__}, not a tensor")
        if any(map(_is_hooked, self._state.modules)):
            raise Uncapturable("a module in it has a hook, which a replay would not call")
        odd = next((t for t in self._state.tensors if not _is_plain(t)), None)
        if odd is not None:
            raise Uncapturable(f"it holds a {type(odd).__name__}, whose storage is not known")
        there = (graph for graph in self._graphs.values() if graph is not None)
        after = next((graph for graph in there if graph.inputs[0].device == x.device), None)
        graph = Graph(self._uncached, [x], after)
        graph.fill([x])
        graph.replay()
        if not _same_bits(graph.output, y):
            raise Uncapturable("its replay gave other numbers than the call")
        graph.release()
        return graph

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            name = getattr(self.function, "__qualname__", type(self.function).__name__)
            log.warning("no CUDA graph of %s, which is called as it is: %s", name, reason)

    def _uncached(self, x: Tensor) -> Tensor:
        """The call without the cache of autocast, whose copies of weights a graph would outlive."""
        kind = x.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False):
            return self.function(x)


class _State:
    """Modules and tensors as they are now, as far as a graph that reads them depends on it.

    To look whether that is so still takes 0.2 ms for the 12 blocks of FourCastNet.
    """

    def __init__(self, parts: Sequence[nn.Module | Tensor]) -> None:
        self.modules = [m for part in parts if isinstance(part, nn.Module) for m in part.modules()]
        # All that is compared by its identity or address is held: no other can come to have that.
        self._held: list[Any] = [*parts, *chain.from_iterable(map(_attributes, self.modules))]
        self.tensors = [value for value in self._held if isinstance(value, Tensor)]
        self._addressed = [t for t in self.tensors if _is_plain(t)]
        self._versioned = [t for t in self._addressed if not t.is_inference()]
        self._storages = [t.detach() for t in self._addressed]
        self._facts = self._look(parts)

    def is_that_of(self, parts: Sequence[nn.Module | Tensor]) -> bool:
        return self._look(parts) == self._facts

    def _look(self, parts: Sequence[nn.Module | Tensor]) -> list[int]:
        facts = [*map(id, parts)]
        for module in self.modules:
            facts += map(id, _attributes(module))
            facts.append(_is_hooked(module))
        facts += (t.data_ptr() for t in self._addressed)
        facts += (t._version for t in self._versioned)  # grows with changes in place
        return facts


def _attributes(module: nn.Module) -> Iterable[Any]:
    return chain(
        vars(module).values(),
        module._modules.values(),
        module._parameters.values(),
        module._buffers.values(),
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is sure to have an address and a version."""
    return type(tensor) in (Tensor, nn.Parameter)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _settings(kind: str) -> tuple[Any, ...]:
    """What of PyTorch's state and ours chooses kernels, and the kind of tensors."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)  # newer than allow_tf32, which then may not be read
    return (
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        matmul.allow_tf32 if precision is None else precision,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        backends.forced(),
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether the tensors are equal; a NaN is equal to a NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _cause(error: BaseException) -> RuntimeError:
    """What broke a capture; PyTorch raises over it that the capture has not ended well."""
    first, memory = error, None
    while first is not None:
        memory = first if isinstance(first, torch.OutOfMemoryError) else memory
        if first.__context__ is None:
            break
        first = first.__context__
    return memory or Uncapturable((str(first).strip() or type(first).__name__).splitlines()[0])
