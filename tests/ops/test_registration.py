"""What every op promises of its place in PyTorch: opcheck, compile, autocast, gradients, batches, strides."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wxkernels import ops

H, W = 3, 5  # tokens
C, D, N = 13, 22, 7  # channels, no whole vector of them
BATCH = 3
E4M3 = torch.float8_e4m3fn


def cases():
    """By name: a public op, its arguments that have a batch dimension, and its other tensors."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def int8(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    def e4m3(*shape):
        return int8(*shape).float().to(E4M3)

    def positive(*shape):
        return torch.rand(*shape, generator=generator) / 100 + 0.001

    x = {"x": normal(BATCH, H, W, C)}
    norm = {"weight": 1 + 0.1 * normal(C), "bias": normal(C)}
    weight = {"weight": int8(N, C), "weight_scale": positive(N), "bias": normal(N)}
    norms = {"norm_weight": norm["weight"], "norm_bias": norm["bias"]}
    biases = {"fc1_bias": normal(D), "fc2_bias": normal(C)}
    scales = {"fc1_scale": positive(D), "fc2_scale": positive(C), "hidden_scale": torch.tensor(0.05)}
    fields = {"x": normal(BATCH, 2, 2 * H, 3 * W)}
    embedding = {"weight": normal(D, 2, 2, 3), "bias": normal(D)}
    layers = {
        "w1": normal(2, 1, C, C),
        "b1": normal(2, 1, C),
        "w2": normal(2, 1, C, C),
        "b2": normal(2, 1, C),
    }
    return {
        "layer_norm": (ops.layer_norm, x, norm),
        "layer_norm to int8": (partial(ops.layer_norm, quantize=True), x, norm),
        "quantize_rows": (ops.quantize_rows, x, {}),
        "linear_int8": (
            partial(ops.linear_int8, activation="gelu"),
            x | {"residual": normal(BATCH, H, W, N)},
            weight,
        ),
        "linear_int8 from int8 to int8": (
            partial(ops.linear_int8, activation="gelu_tanh"),
            {"x": int8(BATCH, H, W, C), "x_scale": positive(BATCH, H, W)},
            weight | {"out_scale": torch.tensor(0.05)},
        ),
        "linear_fp8": (
            partial(ops.linear_fp8, activation="gelu"),
            x | {"residual": normal(BATCH, H, W, N)},
            weight | {"weight": e4m3(N, C)},
        ),
        "quantize_rows to e4m3": (partial(ops.quantize_rows, dtype=E4M3), x, {}),
        "mlp": (ops.mlp, x, norms | biases | {"fc1_weight": normal(D, C), "fc2_weight": normal(C, D)}),
        "mlp in int8": (
            partial(ops.mlp, hidden_offset=-90),
            x,
            norms | biases | scales | {"fc1_weight": int8(D, C), "fc2_weight": int8(C, D)},
        ),
        "mlp in e4m3": (
            ops.mlp,
            x,
            norms | biases | scales | {"fc1_weight": e4m3(D, C), "fc2_weight": e4m3(C, D)},
        ),
        "patch_embed": (ops.patch_embed, fields, embedding | {"pos_embed": normal(1, H * W, D)}),
        "patch_embed with int8 positions": (
            ops.patch_embed,
            fields,
            embedding | {"pos_embed": int8(1, H * W, D), "pos_scale": positive(H * W)},
        ),
        "patch_head": (
            partial(ops.patch_head, patch_size=(2, 3)),
            {"tokens": x["x"]},
            {"weight": normal(2 * 3 * N, C), "bias": normal(2 * 3 * N)},
        ),
        "spectral_filter": (ops.spectral_filter, x, layers | norms),
    }


CASES = cases()
each = pytest.mark.parametrize("name", CASES)
INT8 = [name for name in CASES if any(k in name for k in ("int8", "fp8", "e4m3", "quantize_rows"))]
each_int8 = pytest.mark.parametrize("name", INT8)
each_floating = pytest.mark.parametrize("name", [name for name in CASES if name not in INT8])


def run(call, tensors):
    found = call(**tensors)
    return found if isinstance(found, tuple) else (found,)


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def leaves(tensors, dtype=torch.float32):
    """Copies; the floating ones ask for a gradient."""
    return {
        name: t.to(dtype, copy=True).requires_grad_() if t.is_floating_point() and t.dtype != E4M3 else t
        for name, t in tensors.items()
    }


class Recorder(TorchDispatchMode):
    """Keeps the call of torch.ops.wxkernels that goes through it."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "wxkernels":
            self.op, self.args = op, args
        return op(*args, **(kwargs or {}))


@each
def test_opcheck(name):
    call, batched, shared = CASES[name]
    with Recorder() as recorder:
        call(**batched, **shared)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    if any(isinstance(a, torch.Tensor) and a.dtype == E4M3 for a in recorder.args):
        utils = utils[1:]  # PyTorch's comparison multiplies, which it cannot in e4m3
    torch.library.opcheck(recorder.op, recorder.args, test_utils=utils)
    differentiated = [
        a.clone().requires_grad_(a.is_floating_point()) if isinstance(a, torch.Tensor) else a
        for a in recorder.args
    ]
    # The compiled gradient is the next test: with every size a symbol it takes ten seconds.
    torch.library.opcheck(recorder.op, tuple(differentiated), test_utils=utils[:-1])


@each_floating
def test_gradients_compile(name):
    torch.compiler.reset()
    call, batched, shared = CASES[name]
    compiled, eager = leaves(batched | shared), leaves(batched | shared)
    torch.compile(lambda: call(**compiled).square().sum(), fullgraph=True, backend="aot_eager")().backward()
    call(**eager).square().sum().backward()
    for key, tensor in eager.items():
        torch.testing.assert_close(compiled[key].grad, tensor.grad)


@each
def test_compiles_without_a_graph_break(name):
    torch.compiler.reset()
    call, batched, shared = CASES[name]
    compiled = torch.compile(lambda tensors: run(call, tensors), fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert_same(compiled(batched | shared), run(call, batched | shared))


@each
@pytest.mark.parametrize("backend", ["reference", None])
def test_autocast_changes_nothing(name, backend, monkeypatch):
    if backend:
        monkeypatch.setenv("WXKERNELS_BACKEND", backend)
    call, batched, shared = CASES[name]
    expected = run(call, batched | shared)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(run(call, batched | shared), expected)


@each
@pytest.mark.parametrize("backend", ["reference", None])
def test_bits_of_a_sample_do_not_depend_on_its_batch(name, backend, monkeypatch):
    if backend:
        monkeypatch.setenv("WXKERNELS_BACKEND", backend)
    call, batched, shared = CASES[name]
    whole = run(call, batched | shared)
    for i in range(BATCH):
        sample = {key: t[i : i + 1] for key, t in batched.items()}
        assert_same(run(call, sample | shared), [part[i : i + 1] for part in whole])


@each
def test_batch_of_none(name):
    call, batched, shared = CASES[name]
    whole = run(call, batched | shared)
    empty = run(call, {key: t[:0] for key, t in batched.items()} | shared)
    for a, b in zip(empty, whole, strict=True):
        assert (a.shape, a.dtype) == ((0, *b.shape[1:]), b.dtype)


@each
def test_strided_arguments(name):
    """Every tensor as a window of a larger one whose other elements are NaN, or -128."""
    call, batched, shared = CASES[name]
    tensors = batched | shared

    def window(t):
        filler = float("nan") if t.is_floating_point() else -128
        sizes = [2 * size + 1 for size in t.shape]
        view = torch.full(sizes, filler, dtype=t.dtype)[tuple(slice(1, None, 2) for _ in sizes)]
        return view.copy_(t)

    found = run(call, {key: window(t) for key, t in tensors.items()})
    assert all(part.is_contiguous() for part in found)
    assert_same(found, run(call, tensors))


@each
def test_arguments_are_left_alone(name):
    call, batched, shared = CASES[name]
    before = {key: t.clone() for key, t in (batched | shared).items()}
    call(**batched, **shared)
    assert all(torch.equal(t, before[key]) for key, t in (batched | shared).items())


@each_floating
def test_gradients_are_those_of_the_reference(name):
    call, batched, shared = CASES[name]
    sample = {key: t[:1] for key, t in batched.items()}
    tensors = leaves(sample | shared, torch.float64)
    keys = list(tensors)
    torch.autograd.gradcheck(
        lambda *values: call(**dict(zip(keys, values, strict=True))), list(tensors.values()), fast_mode=True
    )


@each_floating
def test_gradients_of_a_batch_of_none(name):
    call, batched, shared = CASES[name]
    tensors = leaves({key: t[:0] for key, t in batched.items()} | shared)
    call(**tensors).sum().backward()
    assert next(iter(tensors.values())).grad.shape[0] == 0


@each_int8
def test_int8_results_are_detached(name):
    call, batched, shared = CASES[name]
    for part in run(call, leaves(batched | shared)):
        assert not part.requires_grad
