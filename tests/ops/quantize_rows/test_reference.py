"""The specification by hand."""

import torch

from wxkernels.ops.quantize_rows import reference


def test_halves_go_to_the_even_neighbour():
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5])
    q, scale = reference.quantize_rows(x)
    assert scale == 1
    assert q.tolist() == [127, 0, 2, 2, 0, -2, 126, -126]


def test_scale_is_the_float32_quotient():
    x = torch.randn(50, 8)
    _, scale = reference.quantize_rows(x)
    assert torch.equal(scale, x.abs().amax(-1) / 127)


def test_int8_of_what_lies_outside_and_of_no_number():
    y = torch.tensor([127.4, 200.0, -128.0, float("inf"), -float("inf"), float("nan")])
    assert reference.to_int8(y).tolist() == [127, 127, -127, 127, -127, 0]
