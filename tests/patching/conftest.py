import pytest
import torch

from tests import hosts


@pytest.fixture(params=hosts.NAMES)
def host(request):
    return hosts.load(request.param)


@pytest.fixture
def network(host):
    return host.network()


@pytest.fixture
def x():
    """(B, C, H, W) for the small networks."""
    return torch.randn(2, 3, 48, 96, generator=torch.Generator().manual_seed(1))
