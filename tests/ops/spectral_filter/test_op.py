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


def test_truncation_comes_from_the_height():
    assert reference.kept_modes(90, 180, 1.0) == (0, 90, 46)
    assert reference.kept_modes(90, 180, 0.5) == (23, 69, 23)
    assert reference.kept_modes(90, 20, 1.0) == (0, 90, 11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    tensors = arguments(1, 6, 10, 2, 4, 1, dtype, requires_grad=dtype == torch.float32)
    torch.library.opcheck(torch.ops.wxkernels.spectral_filter, (*tensors, 0.01, 1.0))


def test_gradients_are_those_of_the_reference():
    tensors = arguments(1, 4, 6, 2, 2, 1, torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *t: spectral_filter(*t, sparsity_threshold=0.0), tensors)
    single = [t.detach().float().requires_grad_() for t in tensors]
    spectral_filter(*single).sum().backward()
    plain = [t.detach().clone().requires_grad_() for t in single]
    reference.spectral_filter(*plain, 0.01, 1.0).sum().backward()
    for a, b in zip(single, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_compiles_without_a_graph_break():
    tensors = arguments(2, 6, 10, 2, 4, 1)
    compiled = torch.compile(
        lambda x, *w: spectral_filter(x * 2, *w) + 1, fullgraph=True, backend="aot_eager"
    )
    with torch.inference_mode():
        found = compiled(*tensors)
    torch.testing.assert_close(found, spectral_filter(tensors[0] * 2, *tensors[1:]) + 1)


def test_autocast_leaves_the_dtype_of_x():
    tensors = arguments(1, 6, 10, 2, 4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spectral_filter(tensors[0].bfloat16(), *tensors[1:])
    assert found.dtype == torch.bfloat16


def test_batch_of_none():
    tensors = arguments(1, 6, 10, 2, 4, 1)
    assert spectral_filter(tensors[0][:0], *tensors[1:]).shape == (0, 6, 10, 8)


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
    ],
)
def test_a_wrong_argument_is_named(change, message):
    names = ("x", "w1", "b1", "w2", "b2")
    call = change(dict(zip(names, arguments(1, 6, 10, 3, 4, 1), strict=True)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        spectral_filter(**call)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
