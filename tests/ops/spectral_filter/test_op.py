"""The public op: contract, registration and composition with PyTorch, on whatever backend is chosen."""

import pytest
import torch
import torch.nn.functional as F

from wxkernels import backends
from wxkernels.ops import spectral_filter
from wxkernels.ops.spectral_filter import reference

SHAPES = [  # B, H, W, nb, bs, f, fraction
    (2, 6, 8, 2, 3, 1, 1.0),
    (1, 7, 13, 1, 5, 2, 1.0),
    (1, 9, 4, 3, 4, 1, 0.5),
    (1, 8, 32, 2, 8, 1, 0.3),
    (2, 1, 1, 1, 2, 1, 1.0),
    (1, 5, 1, 2, 2, 1, 1.0),
    (1, 12, 6, 1, 4, 1, 0.0),
]


def arguments(B, H, W, nb, bs, f, dtype=torch.float32, requires_grad=False):
    generator = torch.Generator().manual_seed(B + H + W + nb + bs)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = [
        normal(B, H, W, nb * bs),
        normal(2, nb, bs, bs * f) * 0.5,
        normal(2, nb, bs * f) * 0.1,
        normal(2, nb, bs * f, bs) * 0.5,
        normal(2, nb, bs) * 0.1,
    ]
    return [t.requires_grad_(requires_grad) for t in tensors]


def published(x, w1, b1, w2, b2, threshold, fraction):
    """AFNO2D as the paper's repository computes it: whole spectra, the same slices, written out anew."""
    B, H, W, C = x.shape
    nb, bs = w1.shape[1:3]
    X = torch.fft.fft2(x, dim=(1, 2), norm="ortho")[:, :, : W // 2 + 1].reshape(B, H, W // 2 + 1, nb, bs)
    total = H // 2 + 1
    kept = int(total * fraction)
    modes = (slice(None), slice(total - kept, total + kept), slice(None, kept))
    w1c, w2c = torch.complex(w1[0], w1[1]), torch.complex(w2[0], w2[1])
    o1 = torch.einsum("bhwki,kio->bhwko", X[modes], w1c) + torch.complex(b1[0], b1[1])
    o1 = torch.complex(o1.real.relu(), o1.imag.relu())
    o2 = torch.einsum("bhwki,kio->bhwko", o1, w2c) + torch.complex(b2[0], b2[1])
    Y = torch.zeros_like(X)
    Y[modes] = torch.complex(F.softshrink(o2.real, threshold), F.softshrink(o2.imag, threshold))
    return torch.fft.irfft2(Y.reshape(B, H, W // 2 + 1, C), s=(H, W), dim=(1, 2), norm="ortho") + x


@pytest.mark.parametrize(("B", "H", "W", "nb", "bs", "f", "fraction"), SHAPES)
def test_reference_equals_published(B, H, W, nb, bs, f, fraction):
    tensors = arguments(B, H, W, nb, bs, f, torch.float64)
    expected = published(*tensors, 0.01, fraction)
    with backends.use("reference"):
        found = spectral_filter(*tensors, sparsity_threshold=0.01, hard_thresholding_fraction=fraction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("B", "H", "W", "nb", "bs", "f", "fraction"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_chosen_backend_keeps_the_error_rule(B, H, W, nb, bs, f, fraction, dtype):
    tensors = arguments(B, H, W, nb, bs, f, dtype)
    exact = published(*(t.double() for t in tensors), 0.01, fraction)
    plain = reference.spectral_filter(*tensors, 0.01, fraction)
    found = spectral_filter(*tensors, hard_thresholding_fraction=fraction)
    assert found.dtype == dtype
    error, allowed = (found - exact).abs().max(), (plain - exact).abs().max()
    assert error <= 2 * allowed + torch.finfo(dtype).eps


def norm(C):
    weight, bias = torch.randn(2, C, generator=torch.Generator().manual_seed(C))
    return 1 + 0.2 * weight, bias


@pytest.mark.parametrize(("B", "H", "W", "nb", "bs", "f", "fraction"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_with_a_norm_it_is_the_first_half_of_a_block(B, H, W, nb, bs, f, fraction, dtype):
    x, *weights = arguments(B, H, W, nb, bs, f, dtype)
    weight, bias = norm(nb * bs)

    def half_a_block(dtype):
        n = F.layer_norm(x.to(dtype), weight.shape, weight.to(dtype), bias.to(dtype), 1e-6)
        return reference.spectral_filter(n, *(w.to(dtype) for w in weights), 0.01, fraction) + x.to(dtype)

    exact, plain = half_a_block(torch.float64), half_a_block(dtype)
    found = spectral_filter(
        x, *weights, hard_thresholding_fraction=fraction, norm_weight=weight, norm_bias=bias
    )
    assert found.dtype == dtype
    error, allowed = (found - exact).abs().max(), (plain - exact).abs().max()
    roundings = 4 if dtype == torch.float64 else 1  # the exact result has errors of its own then
    assert error <= 2 * allowed + roundings * torch.finfo(dtype).eps * exact.abs().max()


def test_the_norm_alone_without_weights():
    x, *weights = arguments(2, 6, 8, 2, 3, 1)
    zeros = [torch.zeros_like(w) for w in weights]
    weight, bias = norm(6)
    n = F.layer_norm(x, (6,), weight, bias, 1e-6)
    found = spectral_filter(x, *zeros, norm_weight=weight, norm_bias=bias)
    torch.testing.assert_close(found, n + x)
    found = spectral_filter(x, *zeros, norm_weight=weight, eps=0.5)
    torch.testing.assert_close(found, F.layer_norm(x, (6,), weight, None, 0.5) + x)


def test_bfloat16_weights_round_the_other_operand():
    """Three steps of accuracy: float32 weights, bfloat16 weights as float32, bfloat16 products."""
    x, *weights = arguments(1, 12, 16, 1, 16, 1)
    rounded = [w.bfloat16() for w in weights]
    with backends.use("reference"):
        products = spectral_filter(x, *rounded)
        as_float32 = spectral_filter(x, *(w.float() for w in rounded))
    assert products.dtype == torch.float32
    difference = (products - as_float32).square().mean().sqrt()
    filtered = (as_float32 - x).square().mean().sqrt()
    assert 1e-4 * filtered < difference < 1e-2 * filtered
    found = spectral_filter(x, *rounded)
    assert (found - as_float32).square().mean().sqrt() <= 2 * difference


def test_truncation_comes_from_the_height():
    assert reference.kept_modes(90, 180, 1.0) == (0, 90, 46)
    assert reference.kept_modes(90, 180, 0.5) == (23, 69, 23)
    assert reference.kept_modes(90, 20, 1.0) == (0, 90, 11)


def test_gradients_are_those_of_the_reference():
    tensors = arguments(1, 4, 6, 2, 2, 1, torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *t: spectral_filter(*t, sparsity_threshold=0.0), tensors)
    single = [t.detach().float().requires_grad_() for t in tensors]
    spectral_filter(*single).sum().backward()
    plain = [t.detach().clone().requires_grad_() for t in single]
    reference.spectral_filter(*plain, 0.01, 1.0).sum().backward()
    for a, b in zip(single, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"x": t["x"][0]}, "x: expected (B, H, W, C)"),
        (lambda t: t | {"x": t["x"][..., :-1]}, "w1: expected (2, nb, bs, bs * f)"),
        (lambda t: t | {"b1": t["b1"][:1]}, "b1: expected shape"),
        (lambda t: t | {"w2": t["w2"].transpose(0, 1)}, "w2: expected shape"),
        (lambda t: t | {"b2": t["b2"].int()}, "b2: expected a floating dtype"),
        (lambda t: t | {"hard_thresholding_fraction": 1.5}, "hard_thresholding_fraction: expected"),
        (lambda t: t | {"sparsity_threshold": float("nan")}, "sparsity_threshold: expected"),
        (lambda t: t | {"norm_weight": torch.ones(5)}, "norm_weight: expected shape (12,) from x"),
        (lambda t: t | {"norm_bias": torch.ones(12)}, "norm_bias: expected None without norm_weight"),
        (lambda t: t | {"norm_weight": torch.ones(12), "eps": -1.0}, "eps: expected >= 0"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    names = ("x", "w1", "b1", "w2", "b2")
    call = change(dict(zip(names, arguments(1, 6, 10, 3, 4, 1), strict=True)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        spectral_filter(**call)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
