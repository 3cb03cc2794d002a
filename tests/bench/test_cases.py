"""Every case at small shapes: its variants compute its exact result; the work that is counted."""

import sys
from functools import partial

import pytest
import torch

from tests import hosts
from wxkernels.bench import convolution
from wxkernels.bench.case import compiled
from wxkernels.bench.cases import CASES, fourcastnet, linear_int8, spectral_filter
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.engine import Size, measure
from wxkernels.bench.profile import measure_parts

CPU = torch.device("cpu")
#: name, shape, dtype; whole rows of vectors and not, one and several samples
SMALL = [
    ("spectral_filter", (6, 10, 8, 2), torch.float32),
    ("spectral_filter", (6, 10, 8, 2), torch.bfloat16),
    ("layer_norm", (7, 48), torch.float32),
    ("layer_norm", (7, 48), torch.bfloat16),
    ("layer_norm_int8", (7, 48), torch.float32),
    ("layer_norm_int8", (7, 48), torch.bfloat16),
    ("linear_int8", (17, 64, 96), torch.int8),
    ("linear_int8", (17, 96, 64), torch.int8),
    ("mlp", (17, 32, 64), torch.float32),
    ("patch_embed", (8, 12, 3, 4, 6, 10), torch.float32),
    ("patch_head", (8, 12, 3, 4, 6, 10), torch.float32),
]
#: Where the quick shape is a layer's.
QUICK_OF = {"linear_int8": "small:fc1", "linear_fp8": "small:fc1"}
#: Errors relative to the largest value: half a step of int8 is 1/254 of the largest, bfloat16's 1/256.
INT8, BF16, FP32 = 0.02, 0.02, 1e-5
FP8 = torch.float8_e4m3fn


def size(shape, dtype=torch.float32, batch=2):
    return Size(batch, shape, dtype, CPU)


def errors(case, size, names):
    rows, failed = measure(case.problem(size, names), Ceilings("machine", {}, None), rounds=1)
    assert failed == []
    assert {row.case for row in rows} == {case.name}
    return {row.backend: row.error for row in rows}


@pytest.mark.parametrize(("name", "shape", "dtype"), SMALL, ids=lambda value: str(value))
def test_the_variants_of_an_op_compute_the_same(name, shape, dtype):
    case = CASES[name]
    here = case.peers(CPU) | case.ours(CPU)
    # What torch.compile makes has its own tests, and takes ten seconds of ours.
    names = [n for n, reason in here.items() if reason is None and "compiled" not in n]
    assert len(names) >= 2
    found = errors(case, size(shape, dtype), names)
    for variant, error in found.items():
        precise = dtype == torch.float32 and "int8" not in name + variant and "bf16" not in variant
        precise = precise or (name == "linear_int8" and variant != "bf16" and shape[1] > shape[2])
        assert error <= (FP32 if precise else max(INT8, BF16)), f"{variant}: {error}"


@pytest.mark.parametrize("shape", [(512, 128, 512), (512, 512, 128)])
def test_int_mm_is_measured_without_its_epilogue(shape):
    problem = linear_int8.CASE.problem(size(shape, torch.int8, 1), ["int_mm"])
    [variant] = problem.variants
    inputs = problem.sample()
    product = variant.build()(variant.adapt(inputs))
    x, weight = (t.double() for t in inputs[:2])
    assert product.dtype == torch.int32
    assert torch.equal(product.double(), x @ weight.T)


def test_only_the_device_keeps_a_gpu_backend_from_the_linear_layer(monkeypatch):
    for name in ("cuda", "triton"):
        monkeypatch.setattr(linear_int8.OP.implementations[name], "unavailable", lambda: None)
        assert linear_int8.ours(CPU)[name].startswith("x is on cpu; it needs a CUDA")


@pytest.mark.parametrize("shape", [(512, 128, 512), (512, 512, 128)])
def test_the_fp8_layer_is_held_to_the_others(shape):
    # It is a peer on GPUs only; PyTorch's product of scaled rows runs here too.
    assert "capability 9.0" in linear_int8.CASE.peers(CPU)["fp8"]
    found = errors(linear_int8.CASE, size(shape, torch.int8, 1), ["fp8", "bf16"])
    assert found["bf16"] < found["fp8"] < 0.1  # three bits of mantissa
    assert errors(linear_int8.CASE_FP8, size(shape, FP8, 1), ["reference"])["reference"] < 0.1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_sample_has_other_inputs_and_its_own_copy_of_the_weights(case):
    if case.network:
        hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    problem = case.problem(size(case.shapes[QUICK_OF.get(case.name, "small")], case.dtypes[0]), [])
    first, second = problem.sample(), problem.sample()
    assert first[0].shape == problem.shape[:1] + first[0].shape[1:]
    assert not torch.equal(first[0], second[0])
    for a, b in zip(first[1:4], second[1:4], strict=True):
        assert torch.equal(a, b)
        assert a is not b


@pytest.mark.parametrize(("name", "shape", "dtype"), [one for one in SMALL if one[2] != torch.bfloat16])
def test_a_variant_computes_with_the_weights_that_it_is_given(name, shape, dtype):
    here = CASES[name].ours(CPU) | CASES[name].peers(CPU)
    names = [n for n, reason in here.items() if reason is None and "compiled" not in n]
    problem = CASES[name].problem(size(shape, dtype), names)
    given = problem.sample()
    tripled = [given[0], *(3 * weight for weight in given[1:4]), *given[4:]]
    for variant in problem.variants:
        call = variant.build()
        with torch.inference_mode():
            first, second = (variant.finish(call(variant.adapt(s)), s) for s in (given, tripled))
        assert not torch.allclose(first, second), variant.name


def test_variants_share_no_compiled_code(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    double = torch.nn.Linear(2, 2)
    first, second, x = compiled(double), compiled(double), torch.ones(3, 2)
    assert torch.equal(first(x), double(x))
    assert torch.equal(second(x), first(x))
    assert len(graphs) == 2


def test_the_transforms_and_the_blocks_of_the_filter_are_counted():
    H, W, C, nb = 16, 8, 4, 2
    # Rows: a real transform a row and channel; columns: forth and back, for the kept 5 columns (of 5).
    rows, columns = 2 * H * C * 2.5 * W * 3, 2 * 5 * C * 5 * H * 4
    mlp = H * 5 * C * (C // nb) * 2 * 3 * 2  # modes x outputs x inputs x layers x (3 multiply-adds)
    assert spectral_filter.flops(3, H, W, C, nb, torch.float32) == {torch.float32: 3 * (rows + columns + mlp)}
    assert spectral_filter.flops(1, H, W, C, nb, torch.bfloat16) == {
        torch.bfloat16: mlp,
        torch.float32: rows + columns,
    }


def test_the_work_of_fourcastnet_is_that_of_its_description():
    # GFLOP a step of one member, from the arithmetic of the published network at 720 x 1440, 20 channels.
    full = size(fourcastnet.CASE.shapes["fourcastnet"], batch=1)
    for precision, (mlp, other) in fourcastnet.PRECISIONS.items():
        parts = fourcastnet.work(full, precision)
        assert parts["MLP"].flops == {mlp: pytest.approx(1834.6e9, rel=1e-3)}
        assert parts["embedding"].flops == {other: pytest.approx(31.9e9, rel=1e-2)}
        assert parts["head"].flops == parts["embedding"].flops
        assert sum(parts["filter"].flops.values()) < 58.6e9 + 10.5e9
    weights = fourcastnet.work(full, "int8")["MLP"].bytes - 24 * 4 * 16200 * 768
    assert weights == 12 * 8 * 768**2


@pytest.fixture
def published():
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip


TINY = size((32, 64, 3, 8, 16, 1, 8))


@pytest.mark.usefixtures("published")
def test_patched_networks_are_held_to_the_published_one():
    found = errors(fourcastnet.CASE, TINY, ["eager", "eager-bf16", *fourcastnet.OURS])
    assert found["eager"] < FP32
    assert found["patched-fp32"] <= 2 * found["eager"] + 1e-7
    assert found["patched-bf16"] <= 2 * found["eager-bf16"]
    assert found["eager"] < found["patched-int8"] < INT8


@pytest.mark.usefixtures("published")
def test_a_peer_that_changes_its_network_leaves_that_of_ours(monkeypatch):
    monkeypatch.setattr(convolution, "is_wrong", lambda *tensors: True)
    network = fourcastnet.network(TINY, ["eager-bf16", "patched-bf16"])
    parts = measure_parts(network, Ceilings("machine", {}, None), rounds=1)
    assert len(parts) == 10
    assert all(part.median_ms > 0 for part in parts)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16"])
def test_other_runtimes_compute_the_published_network(name):
    if reason := fourcastnet.peers(CPU)[name]:
        pytest.skip(reason)
    assert errors(fourcastnet.CASE, TINY, [name])[name] < (0.05 if "-" in name else FP32)


@pytest.mark.usefixtures("published")
def test_where_timm_is_not_whole_two_names_stand_in_for_it(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] in ("timm", "ai_models_fourcastnet")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it fails
    before = set(sys.modules)
    network = fourcastnet._published(TINY)
    assert type(network).__module__ == "ai_models_fourcastnet.afnonet"
    assert sys.modules["timm"] is None
    assert not {n for n in sys.modules if n.startswith("timm")} - before


def test_the_network_without_its_package_is_told(monkeypatch):
    monkeypatch.setattr(fourcastnet, "_afnonet", partial(__import__, "no_such_package"))
    [reason] = {*fourcastnet.ours(CPU).values(), *fourcastnet.peers(CPU).values()}
    assert reason.startswith("the published network is not here (No module named 'no_such_package'): pip")
