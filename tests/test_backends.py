"""The choice of a backend: by device and dtype, by name, by record; and what a wrong name says."""

import json
import logging
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from wxkernels import _native, backends
from wxkernels.errors import UserError
from wxkernels.ops import spectral_filter
from wxkernels.ops.quantize_rows import OP as ROWS
from wxkernels.ops.quantize_rows import OP_FP8 as ROWS_FP8
from wxkernels.ops.spectral_filter import OP, native, reference

TENSORS = [torch.randn(1, 4, 6, 2), *(torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2)) * 2]
needs_core = pytest.mark.skipif(_native.core is None, reason=str(_native.reason))


@needs_core
def test_native_is_chosen_and_float64_goes_to_the_reference(caplog):
    assert OP.choose(*TENSORS) is native
    with caplog.at_level(logging.INFO, "wxkernels"):
        OP._told.clear()
        assert OP.choose(*(t.double() for t in TENSORS)) is reference
        assert OP.choose(*(t.double() for t in TENSORS)) is reference
    assert sum("native on cpu, torch.float64 is passed over" in r.message for r in caplog.records) == 1


def test_a_named_backend_is_used_or_raises():
    with backends.use("reference"):
        assert OP.choose(*TENSORS) is reference
    if _native.core is not None:
        with (
            backends.use("native"),
            pytest.raises(RuntimeError, match="'native' was asked for, but it takes"),
        ):
            spectral_filter(*(t.double() for t in TENSORS))
    with pytest.raises(UserError, match="there is no backend 'magic'; choose one of"), backends.use("magic"):
        pass


def test_an_op_without_the_named_backend_keeps_its_own_choice(monkeypatch):
    monkeypatch.setitem(OP.implementations, "magic", reference)
    before = ROWS.choose(TENSORS[0])
    with backends.use("magic"):
        assert OP.choose(*TENSORS) is reference
        assert ROWS.choose(TENSORS[0]) is before
    monkeypatch.setenv("WXKERNELS_BACKEND", "charm")
    with pytest.raises(RuntimeError, match="quantize_rows: there is no backend 'charm'; choose one of"):
        ROWS.choose(TENSORS[0])


def test_a_backend_is_named_where_any_op_has_it(monkeypatch):
    """As with a compiled module that is older than some of the ops."""
    missing = ModuleType("missing")
    missing.unavailable = lambda: "it is not built"
    monkeypatch.setitem(ROWS.implementations, "magic", missing)
    with (
        pytest.raises(UserError, match="backend magic cannot run here: it is not built"),
        backends.use("magic"),
    ):
        pass
    monkeypatch.setitem(OP.implementations, "magic", reference)
    with backends.use("magic"):
        assert OP.choose(*TENSORS) is reference
        with pytest.raises(
            RuntimeError, match="'magic' was asked for, but it is not built; name another, or none"
        ):
            ROWS.choose(TENSORS[0])


def test_a_gpu_backend_waits_for_its_record(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "device_architecture", lambda device: "sm_90")
    assert OP._unproven("triton", TENSORS[0]).startswith("on sm_90 it has no record of its tests")
    record = {"op": "spectral_filter", "backend": "triton", "architecture": "sm_90", "speedup": None}
    (tmp_path / "verified.json").write_text(json.dumps({"records": [record]}))
    monkeypatch.setattr(backends, "files", lambda package: tmp_path)
    backends.verified.cache_clear()
    try:
        assert OP._unproven("triton", TENSORS[0]) is None
        monkeypatch.setattr(backends, "device_architecture", lambda device: "sm_80")
        assert OP._unproven("triton", TENSORS[0]) is not None
        backends.verified.cache_clear()
        records = [record | {"backend": b, "speedup": speed} for b, speed in (("triton", 0.9), ("cuda", 1.1))]
        (tmp_path / "verified.json").write_text(json.dumps({"records": records}))
        assert backends.verified() == {("spectral_filter", "cuda", "sm_90"): 1.1}
    finally:
        backends.verified.cache_clear()


def test_an_op_has_the_record_of_the_op_it_is_tested_with(monkeypatch):
    monkeypatch.setattr(backends, "verified", lambda: {("quantize_rows", "triton", "meta"): 1.0})
    x = torch.empty(1, device="meta")
    assert ROWS._unproven("triton", x) is None
    assert ROWS_FP8._unproven("triton", x) is None
    assert OP._unproven("triton", x) is not None


def test_of_two_gpu_backends_with_a_record_the_faster_is_chosen(monkeypatch):
    def module():
        found = ModuleType("backend")
        found.unavailable = lambda: None
        found.unsupported = lambda *tensors: None if tensors[0].device.type == "meta" else "it is for GPUs"
        return found

    names = ("native", "cuda", "triton", "reference")
    modules = {name: module() for name in names}
    modules["native"].unavailable = lambda: "not built"
    op = backends.Op("stand-in", modules)
    monkeypatch.delitem(backends._ops, "stand-in")
    speeds = {}
    monkeypatch.setattr(backends, "verified", lambda: speeds)
    x = torch.empty(1, device="meta")
    for of_cuda, of_triton, chosen in (
        (None, None, "reference"),
        (2, 3, "triton"),
        (3, 2, "cuda"),
        (None, 0, "triton"),
    ):
        speeds.clear()
        for name, speed in (("cuda", of_cuda), ("triton", of_triton)):
            if speed is not None:
                speeds["stand-in", name, "meta"] = speed
        assert op.choose(x) is modules[chosen]


def test_an_op_has_a_gpu_kernel_where_one_was_asked_for_or_has_a_record(monkeypatch):
    device = torch.device("meta")
    records = {("mlp", "triton", "meta"): 0.0}

    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x):
        return x + 1 if backends.has_gpu_kernel("mlp", x.device) else x

    assert not backends.has_gpu_kernel("mlp", device)
    for name, expected in (("triton", True), ("cuda", False), ("reference", False)):
        monkeypatch.setenv("WXKERNELS_BACKEND", name)
        assert backends.has_gpu_kernel("mlp", device) == expected
    monkeypatch.delenv("WXKERNELS_BACKEND")
    monkeypatch.setattr(backends, "verified", lambda: records)
    assert backends.has_gpu_kernel("mlp", device)
    assert not backends.has_gpu_kernel("patch_embed", device)
    assert compiled(torch.ones(())) == 1
    torch.compiler.reset()
    monkeypatch.setattr(backends, "verified", lambda: {("mlp", "triton", "cpu"): 0.0})
    assert compiled(torch.ones(())) == 2


@needs_core
def test_an_instruction_set_is_held_inside_the_block_only():
    before = _native.core.isa()
    with backends.use_isa("scalar"):
        assert _native.core.isa() == "scalar"
    assert _native.core.isa() == before
    with pytest.raises(ValueError, match="does not run on this machine"), backends.use_isa("avx1024"):
        pass


@pytest.mark.parametrize(
    ("variable", "message"),
    [("WXKERNELS_BACKEND", "there is no backend 'magic'"), ("WXKERNELS_ISA", 'instruction set "magic"')],
)
def test_a_wrong_environment_is_one_line(variable, message):
    command = [sys.executable, "-m", "wxkernels.cli", "info"]
    done = subprocess.run(command, env={**os.environ, variable: "magic"}, capture_output=True, text=True)
    if variable == "WXKERNELS_ISA" and _native.core is None:
        pytest.skip(str(_native.reason))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_import_is_light_and_changes_nothing():
    code = (
        "import sys, torch; before = set(sys.modules); import wxkernels; wxkernels.__version__;"
        "heavy = {'xarray', 'zarr', 'h5py', 'scipy', 'triton', 'matplotlib'} & (set(sys.modules) - before);"
        "assert not heavy, heavy; assert wxkernels.patch; assert 'ops' in dir(wxkernels)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_front_door_knows_the_backends_before_an_op_was_used():
    code = "import wxkernels\nwith wxkernels.backends.use('reference'): pass"
    subprocess.run([sys.executable, "-c", code], check=True)
