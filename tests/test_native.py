"""How tensors reach the compiled module, and what a missing or older one says."""

from types import ModuleType

import pytest
import torch

from wxkernels import _native

needs_core = pytest.mark.skipif(_native.core is None, reason=str(_native.reason))


def test_a_module_of_other_sources_is_refused():
    module = ModuleType("_core")
    assert "rebuild it: `pip install -e .`" in _native.stale(module)
    module.interface = _native.INTERFACE + 1
    assert _native.stale(module) is not None
    module.interface = _native.INTERFACE
    assert _native.stale(module) is None


# Calls of no rows, so that no address is read where a check is missing.
MATRIX = {"x": 0, "out": 0, "scale": 0, "dtype": "float32", "rows": 0, "channels": 4, "row_stride": 4}
PATCHES = {"out": 0, "dtype": "float32", "patch": (2, 2), "weight_dtype": "float32", "weight": 0, "bias": 0}
CALLS = {
    "quantize_rows": MATRIX,
    "layer_norm": MATRIX | {"weight": 0, "bias": 0, "eps": 0.0},
    "linear_int8": dict.fromkeys(("x", "x_scale", "M", "weight", "bias", "residual", "out"), 0)
    | {"x_dtype": "float32", "x_scale_stride": 0, "N": 4, "K": 4, "row_stride": 4, "weight_scale": 16}
    | {"activation": "none", "residual_dtype": "float32", "residual_stride": 4}
    | {"out_dtype": "float32", "out_scale": 1.0},
    "mlp": dict.fromkeys(("x", "out", "rows", "norm_weight", "norm_bias", "fc1_weight", "fc1_bias"), 0)
    | dict.fromkeys(("fc1_scale", "fc2_weight", "fc2_scale", "fc2_bias"), 0)
    | {"dtype": "float32", "channels": 4, "hidden": 8, "row_stride": 4, "eps": 0.0, "hidden_scale": 1.0}
    | {"weight_dtype": "float32", "hidden_offset": 0, "activation": "gelu"},
    "patch_embed": PATCHES
    | {"x": 0, "shape": (0, 3, 4, 4), "dim": 5, "pos": 0, "pos_dtype": "float32", "pos_scale": 0},
    "patch_head": PATCHES | {"tokens": 0, "shape": (0, 2, 2, 5), "out_chans": 3},
    "spectral_filter": dict.fromkeys(("x", "out", "w1", "b1", "w2", "b2"), 0)
    | {"dtype": "float32", "shape": (0, 4, 6, 8), "strides": (192, 48, 8, 1), "blocks": 2, "hidden_size": 4}
    | {"threshold": 0.01, "kept": (0, 4, 4)},
}


@needs_core
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, {"dtype": "int8"}, "got int8") for name in CALLS if name != "linear_int8"),
        *((name, {"rows": -1}, "got -1") for name in ("quantize_rows", "layer_norm", "mlp")),
        *((name, {"patch": (2, 0)}, "1 or more, got 0") for name in ("patch_embed", "patch_head")),
        *(
            (name, {"weight_dtype": "int8"}, "a scale for int8")
            for name in ("patch_embed", "patch_head", "mlp")
        ),
        ("quantize_rows", {"channels": -4}, "got -4"),
        ("linear_int8", {"M": -1}, "got -1"),
        ("linear_int8", {"x_dtype": "int8"}, "x: expected a scale"),
        ("linear_int8", {"weight_scale": 0}, "weight: expected a scale"),
        ("linear_int8", {"residual_dtype": "int8"}, "got int8"),
        ("mlp", {"hidden": -8}, "got -8"),
        ("mlp", {"activation": "relu"}, "got relu"),
        ("patch_embed", {"shape": (0, 3, -4, 4)}, "got -4"),
        ("patch_embed", {"pos": 16, "pos_dtype": "int8"}, "pos: expected a scale"),
        ("patch_head", {"out_chans": -3}, "got -3"),
        ("spectral_filter", {"blocks": 3}, "a divisor of 8"),
        ("spectral_filter", {"shape": (0, 4, -6, 8)}, "got -6"),
        ("spectral_filter", {"kept": (0, 4, 5)}, "within width / 2"),
    ],
)
def test_the_compiled_module_refuses_what_would_end_the_process(name, change, message):
    function = getattr(_native.core, name)
    function(**CALLS[name], threads=1)
    with pytest.raises(ValueError, match="expected") as caught:
        function(**(CALLS[name] | change), threads=1)
    assert message in str(caught.value)


def test_rows_are_a_view_where_strides_allow():
    x = torch.randn(4, 6, 10)
    rows = _native.rows(x[:, :, 2:7])
    assert rows.shape == (24, 5)
    assert rows.data_ptr() == x[0, 0, 2:].data_ptr()
    assert rows.stride() == (10, 1)
    for copied in (x[:, ::2, 2:7], x.transpose(1, 2), x[:, :, ::2]):
        rows = _native.rows(copied)
        assert rows.stride(1) == 1
        assert torch.equal(rows, copied.reshape(-1, copied.shape[-1]))
    assert _native.rows(x[0, 0]).shape == (1, 10)


def test_weights_keep_the_dtype_of_their_products():
    weight = torch.randn(3, 5)
    for dtype, name in ((torch.int8, "int8"), (torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
        found, named = _native.weight(weight.to(dtype).t())
        assert (found.dtype, named) == (dtype, name)
        assert found.is_contiguous()
    for dtype in (torch.float16, torch.float64):
        found, named = _native.weight(weight.to(dtype))
        assert (found.dtype, named) == (torch.float32, "float32")


@needs_core
def test_the_rate_of_a_copy():
    assert _native.core.copy_rate(bytes=1, threads=2) > 0
    with pytest.raises(ValueError, match="sizes: expected 1 or more, got 0"):
        _native.core.copy_rate(bytes=0, threads=1)
