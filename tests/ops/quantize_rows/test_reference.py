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


def test_e4m3_has_three_bits_after_the_first_and_halves_go_to_the_even_neighbour():
    x = torch.tensor([448.0, 17.0, 19.0, -17.0, 2**-9, 2**-10, 1.5 * 2**-9])
    q, scale = reference.quantize_rows_fp8(x)
    assert scale == 1
    assert q.float().tolist() == [448, 16, 20, -16, 2**-9, 0, 2**-8]


def test_e4m3_of_what_lies_outside_and_of_no_number():
    y = torch.tensor([449.0, 1e9, -torch.inf, torch.nan])
    found = reference.quantized(y, torch.float8_e4m3fn).float()
    assert found[:3].tolist() == [448, 448, -448]
    assert found[3].isnan()


def test_int8_of_what_lies_outside_and_of_no_number():
    y = torch.tensor([127.4, 200.0, -128.0, float("inf"), -float("inf"), float("nan")])
    assert reference.to_int8(y).tolist() == [127, 127, -127, 127, -127, 0]
