"""What a forecast starts from, by the shipped model on files of a few of its times."""

import numpy as np
import pytest
import xarray as xr

from wxkernels import data, forecast
from wxkernels.errors import UserError
from wxkernels.forecast.case import load_case
from wxkernels.verification import Scorer


@pytest.fixture
def fields() -> xr.Dataset:
    with xr.open_dataset(data.default_cases_path()) as whole:
        return whole.isel(time=slice(0, 4)).load()


def saved(fields: xr.Dataset, path):
    fields.to_netcdf(path, engine="h5netcdf")
    return path


def test_a_faulty_truth_does_not_end_the_forecast(fields, tmp_path, caplog):
    """NaN is left out point by point; what cannot be read is left out whole, with a warning."""
    fields["h"][1, 3, 4:6] = np.nan
    fields["h"][2] *= 1000
    source = saved(fields, tmp_path / "cases.nc")
    for truth in (None, source):
        caplog.clear()
        case = load_case(source, checkpoint=data.default_model_path(), truth=truth)
        leads = np.arange(4) * case.model.time_step
        scorer = Scorer(case.truth, init_time=case.initial_time, lead_times=leads)
        forecast.run(case.model, case.initial, steps=3, scorer=scorer, progress=False)
        scores = scorer.result()
        assert scores["times"].values.tolist() == [1, 1, 0, 1]
        assert scores["rmse"].sel(variable="h").notnull().values.tolist() == [True, True, False, True]
        (message,) = caplog.messages
        assert np.datetime_as_string(fields["time"].values[2], "m") in message


def test_an_initial_state_with_nan_is_refused(fields, tmp_path):
    fields["h"][0, 3, 4] = np.nan
    with pytest.raises(UserError, match=r"h has 1 NaN.*fill them"):
        load_case(saved(fields, tmp_path / "cases.nc"), checkpoint=data.default_model_path())
