import pytest
import torch


def pytest_configure():
    """Networks this small gain nothing from a second thread, and wait for it where the cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)
