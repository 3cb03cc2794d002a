"""How tensors reach the compiled module, and what a missing or older one says."""

from types import ModuleType

import torch

from wxkernels import _native


def test_an_older_module_is_no_attribute_error(monkeypatch):
    monkeypatch.setattr(_native, "core", ModuleType("_core"))
    assert "is older than the Python code" in _native.missing("mlp")
    _native.core.mlp = print
    assert _native.missing("mlp") is None
    monkeypatch.setattr(_native, "core", None)
    monkeypatch.setattr(_native, "reason", "it is not built")
    assert _native.missing("mlp") == "it is not built"


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
