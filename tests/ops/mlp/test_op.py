"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch

from wxkernels.ops import mlp, quantize_rows
from wxkernels.ops.mlp import reference

C, D = 20, 44
E4M3 = torch.float8_e4m3fn


def arguments(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    weights = {"fc1_weight": normal(D, C) / C**0.5, "fc2_weight": normal(C, D) / D**0.5}
    tensors = {"norm_weight": 1 + 0.2 * normal(C), "norm_bias": normal(C)}
    tensors |= {"fc1_bias": normal(D), "fc2_bias": normal(C)}
    if dtype.itemsize > 1:
        return tensors | {name: weight.to(dtype) for name, weight in weights.items()}
    for name, weight in weights.items():
        tensors[name], tensors[name.replace("weight", "scale")] = quantize_rows(weight, dtype)
    return tensors | {"hidden_scale": torch.tensor([0.03]), "hidden_offset": -90 * (dtype == torch.int8)}


def in_float64(x, tensors):
    """The same layer without any rounding of its operands."""
    exact = {name: t.double() for name, t in tensors.items() if name not in ("hidden_scale", "hidden_offset")}
    for name in ("fc1", "fc2"):
        if f"{name}_scale" in exact:
            exact[f"{name}_weight"] *= exact.pop(f"{name}_scale")[:, None]
    return mlp(x.double(), **exact)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16, torch.int8, E4M3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(C,), (1, C), (17, C), (2, 3, 5, C)])
def test_error_is_at_most_twice_that_of_the_reference(shape, dtype, weights):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    tensors = arguments(weights)
    found = mlp(x, **tensors)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    scales = [tensors.get(name) for name in ("fc1_scale", "fc2_scale", "hidden_scale")]
    offset = tensors.get("hidden_offset", 0)
    names = ("norm_weight", "norm_bias", "fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
    plain = reference.mlp(x, *(tensors[name] for name in names), *scales, offset, 1e-6, "gelu")
    exact = in_float64(x, tensors)
    allowed = 2 * (plain.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.int8, E4M3])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(weights, bad):
    x, tensors = torch.randn(6, C), arguments(weights)
    clean = mlp(x, **tensors)
    x[2, 3] = float(bad)
    found = mlp(x, **tensors)
    others = torch.arange(6) != 2
    assert found[2].isnan().all()
    assert torch.equal(found[others], clean[others])


def test_rows_of_zeros_and_constant_channels():
    for weights in (torch.float32, torch.bfloat16, torch.int8, E4M3):
        tensors = arguments(weights) | {"norm_bias": None}
        x = torch.zeros(3, C)
        x[1] = 5.0
        found = mlp(x, **tensors)
        assert found.isfinite().all()
        torch.testing.assert_close(found[1], found[0] + 5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.int8, E4M3])
def test_biases_may_be_absent(weights):
    x, tensors = torch.randn(7, C), arguments(weights)
    biases = ("norm_bias", "fc1_bias", "fc2_bias")
    zeros = {name: torch.zeros_like(tensors[name]) for name in biases}
    found = mlp(x, **tensors | dict.fromkeys(biases))
    torch.testing.assert_close(found, mlp(x, **tensors | zeros))


FLOATING, INT8, FP8 = arguments(), arguments(torch.int8), arguments(E4M3)


@pytest.mark.parametrize(
    ("tensors", "change", "message"),
    [
        (FLOATING, {"x": torch.zeros(3, C + 1)}, f"norm_weight: expected shape ({C + 1},) from x"),
        (FLOATING, {"x": torch.zeros(3, C, dtype=torch.int8)}, "x: expected a floating dtype"),
        (FLOATING, {"norm_bias": torch.zeros(1)}, "norm_bias: expected shape"),
        (FLOATING, {"fc1_weight": torch.zeros(D, C + 1)}, f"fc1_weight: expected (D, {C}) for x"),
        (
            FLOATING,
            {"fc2_weight": torch.zeros(D, C)},
            f"fc2_weight: expected shape ({C}, {D}) from fc1_weight",
        ),
        (
            FLOATING,
            {"fc2_weight": torch.zeros(C, D).half()},
            "fc2_weight: expected torch.float32 as fc1_weight",
        ),
        (FLOATING, {"fc1_bias": torch.zeros(C)}, "fc1_bias: expected shape"),
        (FLOATING, {"fc2_bias": torch.zeros(C, dtype=torch.int8)}, "fc2_bias: expected a floating dtype"),
        (FLOATING, {"fc2_bias": torch.zeros(C, device="meta")}, "fc2_bias: expected on the device of x"),
        (FLOATING, {"hidden_scale": torch.ones(1)}, "hidden_scale: expected None for torch.float32 weights"),
        (FLOATING, {"hidden_offset": 1}, "hidden_offset: expected 0 for torch.float32 weights, got 1"),
        (FLOATING, {"activation": "relu"}, "activation: expected None, 'gelu'"),
        (FLOATING, {"eps": -1e-6}, "eps: expected >= 0"),
        (INT8, {"hidden_scale": None}, "hidden_scale: expected a scale for int8 weights, got None"),
        (FP8, {"fc1_scale": None}, "fc1_scale: expected a scale for float8_e4m3fn weights, got None"),
        (FP8, {"hidden_offset": 1}, "hidden_offset: expected 0 for torch.float8_e4m3fn weights, got 1"),
        (INT8, {"hidden_scale": torch.ones(D)}, "hidden_scale: expected one element"),
        (INT8, {"hidden_offset": -128}, "hidden_offset: expected -127 to 127, got -128"),
        (INT8, {"fc1_scale": torch.ones(C)}, f"fc1_scale: expected shape ({D},)"),
        (INT8, {"fc2_scale": torch.ones(C, dtype=torch.int8)}, "fc2_scale: expected a floating dtype"),
        (
            INT8,
            {"fc1_weight": torch.zeros(D, C).int(), "fc2_weight": torch.zeros(C, D).int()},
            "fc1_scale: expected None for torch.int32 weights",
        ),
    ],
)
def test_a_wrong_argument_is_named(tensors, change, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        mlp(**{"x": torch.zeros(3, C)} | tensors | change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
