import pytest
import torch

from tests import hosts
from tests.models.networks import SMALL, randomise, small
from wxkernels import backends
from wxkernels.errors import UserError
from wxkernels.models import AFNONet

SIZES = {
    "16x32": {},
    "odd": {"img_size": (15, 30), "patch_size": (5, 5), "embed_dim": 40, "in_chans": 7},
    "prime": {"img_size": (14, 21), "patch_size": (7, 7), "embed_dim": 36, "in_chans": 1},
    "factor 2": {"img_size": (33, 66), "patch_size": (3, 3), "hidden_size_factor": 2},
    "64x128": {"img_size": (64, 128), "patch_size": (8, 8), "embed_dim": 96},
    "fraction": {"img_size": (12, 20), "patch_size": (4, 2), "hard_thresholding_fraction": 0.5},
}


@pytest.mark.parametrize(
    ("changes", "threads"),
    [*((size, 1) for size in SIZES.values()), (SIZES["64x128"], 2)],
    ids=[*SIZES, "64x128, 2 threads"],
)
def test_a_member_is_the_same_in_every_batch(changes, threads):
    torch.set_num_threads(threads)
    net = small(**changes)
    x = torch.randn(8, net.in_chans, *net.img_size)
    with torch.inference_mode():
        alone = torch.cat([net(member.clone()) for member in x.split(1)])
        for batch in (2, 3, 8):
            together = torch.cat([net(part) for part in x.split(batch)])
            assert torch.equal(alone, together), f"batches of {batch} differ from members alone"
        assert torch.equal(alone.flip(0), net(x.flip(0)))


@pytest.mark.parametrize("changes", SIZES.values(), ids=SIZES)
def test_training_and_inference_compute_the_same(changes):
    net = small(**changes).double()
    x = torch.randn(2, net.in_chans, *net.img_size, dtype=torch.float64)
    with torch.no_grad():
        inference = net(x)
    torch.testing.assert_close(net(x).detach(), inference, rtol=1e-12, atol=1e-12)


def test_gradients():
    net = AFNONet((4, 8), (2, 2), 1, 1, embed_dim=4, depth=1, num_blocks=2).double()
    randomise(net)
    x = torch.randn(2, 1, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (x,), fast_mode=True)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net, x = small(), torch.randn(2, 3, 16, 32)
    with torch.no_grad():
        exact, half = net(x), net.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    assert (half.float() - exact).norm() < 20 * torch.finfo(dtype).eps * exact.norm()


def test_autocast():
    net, x = small(), torch.randn(2, 3, 16, 32)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = net(x)
    assert (cast.float() - exact).norm() < 20 * torch.finfo(torch.bfloat16).eps * exact.norm()


def test_empty_batch():
    with torch.no_grad():
        assert small()(torch.empty(0, 3, 16, 32)).shape == (0, 3, 16, 32)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, 16, 32\), got \(1, 3, 16, 31\)"):
        small()(torch.empty(1, 3, 16, 31))
    with pytest.raises(ValueError, match="img_size: expected whole patches of 4 x 4, got 15 x 32"):
        small(img_size=(15, 32))
    with pytest.raises(ValueError, match="embed_dim: expected a multiple of num_blocks = 5, got 24"):
        small(num_blocks=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"sparsity_threshold": 0.03},
        {"patch_size": (4, 2), "out_chans": 5, "mlp_ratio": 2.5, "depth": 3},
        {"hidden_size_factor": 3, "num_blocks": 2, "embed_dim": 14, "mlp_ratio": 1.3},
    ],
)
def test_the_sizes_are_read_from_the_weights(changes):
    net = small(**changes)
    state = net.state_dict() | {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    read = AFNONet.from_state_dict(state, sparsity_threshold=changes.get("sparsity_threshold", 0.01))
    assert read.config | {"mlp_ratio": 0} == net.config | {"mlp_ratio": 0}
    x = torch.randn(1, 3, 16, 32)
    assert torch.equal(read(x), net(x))
    assert not any(
        torch._C._is_alias_of(a, b) for a, b in zip(read.parameters(), net.parameters(), strict=True)
    )


def test_a_grid_that_is_not_twice_as_wide_needs_its_size():
    net = small(img_size=(12, 20))
    with pytest.raises(UserError, match=r"'pos_embed': expected .* patches of 4 x 4, got 15; no H x 2H"):
        AFNONet.from_state_dict(net.state_dict())
    assert AFNONet.from_state_dict(net.state_dict(), img_size=(12, 20)).img_size == (12, 20)
    with pytest.raises(UserError, match="'pos_embed': expected 4 x 5 patches for 16 x 20 points"):
        AFNONet.from_state_dict(net.state_dict(), img_size=(16, 20))


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: _without(s, "pos_embed"), "a.ckpt: key 'pos_embed' of AFNONet is missing"),
        (
            lambda s: _without(s, "blocks.1.mlp.fc2.bias"),
            r"1 keys .* first 'blocks.1.mlp.fc2.bias' .*\(24,\)",
        ),
        (lambda s: s | {"decoder.weight": torch.ones(3)}, r"unexpected keys, first 'decoder.weight'.*\(3,\)"),
        (
            lambda s: s | {"blocks.1.filter.b2": torch.ones(2, 3)},
            r"'blocks.1.filter.b2': .*\(2, 4, 6\), got torch.float32 \(2, 3\)",
        ),
        (
            lambda s: s | {"head.weight": torch.ones(47, 24)},
            r"'head.weight': expected a multiple of 4 \* 4 .* 47",
        ),
        (lambda s: s | {"pos_embed": torch.ones(32, 24)}, "'pos_embed': expected 3 dimensions"),
        (
            lambda s: s | {"blocks.0.filter.w1": torch.ones(2, 5, 6, 6)},
            "embed_dim: expected a multiple of .* 5",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_gets_one_line(spoil, message):
    with pytest.raises(UserError, match=message) as error:
        AFNONet.from_state_dict(spoil(small().state_dict()), source="a.ckpt")
    assert str(error.value).startswith("a.ckpt: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{}, {"img_size": (24, 48), "out_chans": 4}, {"hard_thresholding_fraction": 0.7}]
)
def test_as_exact_as_the_published_network(changes):
    config = SMALL | changes
    theirs = randomise(hosts.module("ai_models_fourcastnet.afnonet").AFNONet(**config)).eval()
    ours = AFNONet.from_state_dict(
        theirs.state_dict(),
        hard_thresholding_fraction=config.get("hard_thresholding_fraction", 1.0),
    )
    x = torch.randn(2, 3, *config["img_size"])
    with torch.no_grad():
        expected, found = theirs(x).double(), ours(x).double()
        with backends.use("reference"):
            exact = ours.double()(x.double())
    scale = exact.abs().max()
    assert (expected - exact).abs().max() < 1e-5 * scale
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max()


def test_starts_from_the_published_initial_values():
    torch.manual_seed(1)
    theirs = hosts.module("ai_models_fourcastnet.afnonet").AFNONet(**SMALL | {"embed_dim": 96}).state_dict()
    for key, value in AFNONet(**SMALL | {"embed_dim": 96}).state_dict().items():
        assert value.shape == theirs[key].shape
        spreads = float(value.std(correction=0)), float(theirs[key].std(correction=0))
        assert spreads[0] == pytest.approx(spreads[1], rel=0.25), key
