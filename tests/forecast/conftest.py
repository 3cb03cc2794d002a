import pytest

from wxkernels.forecast import beside, ensemble


@pytest.fixture
def ahead(monkeypatch, tapes):
    """The host lags behind the device, as on a GPU, and steps are replayed; gives the tapes."""
    for module in (beside, ensemble):
        monkeypatch.setattr(module, "runs_ahead", lambda device: True)
    return tapes


@pytest.fixture(params=["at once", "ahead"])
def either_way(request):
    """Results at once, as on a CPU, and with the host lagging behind."""
    if request.param == "ahead":
        request.getfixturevalue("ahead")
