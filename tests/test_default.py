"""The shipped forecast: its skill on cases it never saw, its size, and the scripts that made it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wxkernels import data, models
from wxkernels.io import load_climatology, open_fields

TRAINING = Path(__file__).parents[1] / "training" / "shallow_water"
STEPS = 20  # of 6 h, to which the forecast's error is below half that of persistence and of climatology


@pytest.fixture(scope="module")
def model():
    return models.load(data.default_model_path())


@pytest.fixture(scope="module")
def cases(model):
    """The windows of the held-out simulation, each (time, variable, lat, lon)."""
    fields = open_fields(data.default_cases_path(), model.variables, grid=model.grid).load()
    gaps = np.flatnonzero(np.diff(fields["time"].values) != model.time_step) + 1
    return [torch.from_numpy(window) for window in np.split(fields.values, gaps)]


def test_forecast_beats_persistence_and_climatology(model, cases):
    """Over the held-out states, one member each: every variable at every lead."""
    mean = load_climatology(data.default_climatology_path(), model.variables, model.grid)
    climatology = torch.from_numpy(np.array(mean))
    weight = torch.cos(torch.deg2rad(torch.tensor(model.grid.lat))).view(-1, 1)

    def square(forecast, truth):  # (cases, C)
        return (weight * (forecast - truth) ** 2).mean((-2, -1)) / weight.mean()

    truth = torch.stack([case[: STEPS + 1] for case in cases], 1)  # (STEPS + 1, cases, C, H, W)
    state = model.normalise(truth[0])
    for k in range(1, STEPS + 1):
        state = model.step(state)
        forecast = square(model.denormalise(state), truth[k]).mean(0)
        best = torch.minimum(square(truth[0], truth[k]).mean(0), square(climatology, truth[k]).mean(0))
        for c, variable in enumerate(model.variables):
            assert forecast[c] < best[c] / 4, f"{variable} at {6 * k} h: {forecast[c] ** 0.5:.3g}"


def test_what_is_shipped_is_small():
    assert data.default_model_path().stat().st_size <= 10e6
    assert data.default_cases_path().stat().st_size + data.default_climatology_path().stat().st_size <= 5e6


def test_cases_are_physical_and_long_enough(model, cases):
    """Depths between 3 and 7 km, winds below 120 m/s, 20 steps of truth after each initial state."""
    assert len(cases) == 4
    for case in cases:
        assert len(case) > STEPS
        h, u, v = case.unbind(1)
        assert h.min() > 3000
        assert h.max() < 7000
        assert max(u.abs().max(), v.abs().max()) < 120
    assert model.variables == ("h", "u", "v")


@pytest.fixture(scope="module")
def simulation():
    pytest.importorskip("torch_harmonics", reason="the simulation needs torch-harmonics")
    sys.path.insert(0, str(TRAINING))
    try:
        import atmosphere

        yield atmosphere
    finally:
        sys.path.remove(str(TRAINING))


@pytest.mark.parametrize("dt", [1200.0, 600.0])
def test_free_flow_conserves_mass_and_energy(simulation, dt):
    """Two days, no forcing, no diffusion: mass to rounding; of energy the time filter takes a part ~ dt."""
    jets = ((40.0, 15.0, 40.0), (-45.0, 12.0, 40.0))  # wide enough for this resolution
    world = simulation.Atmosphere(
        32, 64, 21, dt=dt, jets=jets, relaxation=None, diffusion_time=math.inf, dtype=torch.float64
    )
    with torch.inference_mode():
        states = list(world.run(world.start(1, seed=0), days=2))
        (mass0, energy0), (mass1, energy1) = map(world.mass_and_energy, (states[0], states[-1]))
    assert not torch.equal(states[0], states[-1])
    torch.testing.assert_close(mass1, mass0, rtol=1e-12, atol=0)
    available = energy0 - mass0**2 / 2
    torch.testing.assert_close(
        (energy1 - energy0) / available, -5e-6 * dt * torch.ones_like(mass0), rtol=0.3, atol=0
    )


def test_solid_body_rotation_stays(simulation):
    """Williamson et al. (1992), case 2: a steady balanced flow without mountains is there after five days."""
    world = simulation.Atmosphere(32, 64, 21, relaxation=None, mountains=False, dtype=torch.float64)
    speed = 2 * math.pi * world.radius / (12 * simulation.DAY)  # m s-1
    lat = world.lats.reshape(-1, 1).expand(world.nlat, world.nlon)
    wind = torch.stack((speed * torch.cos(lat), torch.zeros_like(lat)))
    with torch.inference_mode():
        start = world.balance(wind)[None]
        first, *_, last = (world.fields(state)[0] for state in world.run(start, days=5))
    assert first[0].max() - first[0].min() > 1000  # m, between the equator and the poles
    torch.testing.assert_close(last[0], first[0], rtol=0, atol=0.5)
    torch.testing.assert_close(last[1:], first[1:], rtol=0, atol=0.05)


def test_training_scripts_run(simulation, tmp_path, monkeypatch, capsys):
    """The quick form of the scripts: data, all stages, and a restart from one, with the very same end."""
    import make_data
    import train

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments), "--quick"])
        script.main()
        return capsys.readouterr().out.splitlines()

    folder, threads = tmp_path / "data", torch.get_num_threads()
    try:
        run(make_data, "--out", folder)
        whole = run(train, "--data", folder)
        result = models.load(folder / "model.safetensors").network.state_dict()
        run(train, "--data", folder, "--start", folder / "stage2.safetensors")
    finally:
        torch.set_num_threads(threads)
    assert [line.split()[1] for line in whole if line.startswith("rollout")] == ["1", "4", "8"]
    again = models.load(folder / "model.safetensors")
    assert again.variables == ("h", "u", "v")
    torch.testing.assert_close(again.network.state_dict(), result)
