import argparse
import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.models.networks import small
from wxkernels.errors import UserError
from wxkernels.models import AFNONet
from wxkernels.models.checkpoint import read, read_state_dict


@pytest.fixture(scope="module")
def state():
    return small().state_dict()


def _same(found, state):
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def _trained(state):
    """A checkpoint as NVlabs' train.py writes it, with the learning rate as ruamel.yaml read it."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))], lr=5e-4)
    optimizer.param_groups[0]["initial_lr"] = ScalarFloat(5e-4)
    optimizer.param_groups[0]["lr"] = np.float64(5e-4)
    ddp = {f"module.{key}": value for key, value in state.items()} | {"module.ged": torch.ones(1)}
    extra = {"optimizer_state_dict": optimizer.state_dict(), "args": argparse.Namespace(run_num="00")}
    return {"iters": 7, "epoch": 1, "model_state": ddp, **extra}


class ScalarFloat(float):
    """Pickled under the name, and with attributes beside the number, as the one of ruamel.yaml."""

    def __new__(cls, value):
        found = float.__new__(cls, value)
        found._width = 4
        return found


ScalarFloat.__module__ = "ruamel.yaml.scalarfloat"


def _save(content, path, **options):
    """torch.save where ruamel.yaml seems to be installed, as it is where checkpoints are written."""
    modules = {name: ModuleType(name) for name in ("ruamel", "ruamel.yaml", "ruamel.yaml.scalarfloat")}
    modules["ruamel.yaml.scalarfloat"].ScalarFloat = ScalarFloat
    with mock.patch.dict(sys.modules, modules):
        torch.save(content, path, **options)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model_state": {f"module.{k}": v for k, v in s.items()}},
        lambda s: (
            {f"module._orig_mod.{k}": v for k, v in s.items()}
            | {"module._orig_mod.device_buffer": torch.ones(0)}
        ),
        _trained,
    ],
    ids=["bare", "state_dict", "model_state, module.", "compiled, device_buffer", "NVlabs"],
)
def test_pickles(tmp_path, state, wrap, zipped):
    _save(wrap(state), tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    assert _same(read_state_dict(tmp_path / "a.ckpt"), state)


def test_a_learning_rate_of_ruamel_is_there_and_not_imported(tmp_path, state):
    _save(_trained(state), tmp_path / "a.ckpt")
    names = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "a.ckpt")
    assert "ruamel.yaml.scalarfloat.ScalarFloat" in names
    safe = torch.serialization.get_safe_globals()
    read(tmp_path / "a.ckpt")
    assert set(torch.serialization.get_safe_globals()) == set(safe)  # it is a list of a set


def test_safetensors(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "a.safetensors", {"author": "me"})
    checkpoint = read(tmp_path / "a.safetensors")
    assert _same(checkpoint.state, state)
    assert checkpoint.metadata == {"author": "me"}


def _mdlus(state, path, kind):
    """An archive as physicsnemo.Module.save writes it: zip, or the older tar."""
    arguments = {"inp_shape": [16, 32], "sparsity_threshold": 0.02, "hard_thresholding_fraction": 0.5}
    weights = io.BytesIO()
    torch.save(state | {"device_buffer": torch.empty(0)}, weights)
    module = {"__name__": "AFNO", "__module__": "no_such_module", "__args__": arguments}
    parts = {
        "model.pt": weights.getvalue(),
        "args.json": json.dumps(module).encode(),
        "metadata.json": b'{"mdlus_file_version": "0.1.0"}',
    }
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name, content in parts.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return arguments


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_physicsnemo_archives(tmp_path, state, kind):
    arguments = _mdlus(state, tmp_path / "fcn.mdlus", kind)
    checkpoint = read(tmp_path / "fcn.mdlus")
    assert _same(checkpoint.state, state)
    assert checkpoint.metadata == arguments


class _Malicious:
    def __init__(self, function, argument):
        self.function, self.argument = function, argument

    def __reduce__(self):
        return self.function, (self.argument,)


def _payloads(target):
    return {
        "posix.system": _Malicious(os.system, f"touch {target}"),
        "exec": _Malicious(exec, f"open({str(target)!r}, 'w')"),
        "io.open": _Malicious(open, str(target)),
        "webbrowser.open": _Malicious(__import__("webbrowser").open, f"file://{target}"),
    }


@pytest.mark.parametrize("name", ["posix.system", "exec", "io.open", "webbrowser.open"])
@pytest.mark.parametrize("container", ["zip", "before zip", "bare pickle", "mdlus"])
def test_a_malicious_pickle_is_named_and_not_executed(tmp_path, state, name, container):
    target, path = tmp_path / "executed", tmp_path / "a.ckpt"
    content = {"model_state": state, "optimizer_state_dict": _payloads(target)[name]}
    if container == "mdlus":
        _mdlus(content, path, "zip")
    elif container == "bare pickle":
        path.write_bytes(pickle.dumps(_payloads(target)[name], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(UserError, match=f"a.ckpt: .*{name}.* nothing in it was executed") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_stand_ins_do_not_run_what_they_stand_for(tmp_path, state):
    target = tmp_path / "saved.npy"
    _save({"model_state": state, "epoch": _Malicious(np.fromfile, str(target))}, tmp_path / "a.ckpt")
    assert _same(read_state_dict(tmp_path / "a.ckpt"), state)  # np.fromfile would fail: there is no such file


def _torch_file(state):
    buffer = io.BytesIO()
    torch.save({"model_state": state}, buffer)
    return buffer.getvalue()


def _old_torch_file(state):
    buffer = io.BytesIO()
    torch.save({"model_state": state}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ckpt", lambda s: b"", "is empty"),
        ("a.ckpt", lambda s: _torch_file(s)[:-1000], "truncated or damaged"),
        ("a.ckpt", lambda s: _torch_file(s)[:300], "truncated or damaged"),
        ("a.ckpt", lambda s: _old_torch_file(s)[:-1000], "truncated, damaged"),
        ("a.ckpt", lambda s: _old_torch_file(s)[:300], "truncated, damaged"),
        ("a.safetensors", lambda s: safetensors.torch.save(s)[:-1000], "no whole safetensors file"),
        ("a.safetensors", lambda s: safetensors.torch.save(s)[:100], "no whole safetensors file"),
        ("a.ckpt", lambda s: b"<!DOCTYPE html><html>sign in", "is a web page"),
        ("a.ckpt", lambda s: b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("a.ckpt", lambda s: b"epoch: 3\n", "is text"),
        ("a.ckpt", lambda s: b"\x89HDF\r\n\x1a\n" + bytes(64), "is no checkpoint but an HDF5 file"),
        ("a.ckpt", lambda s: bytes(range(1, 256)), "of an unknown kind"),
    ],
)
def test_what_is_no_whole_checkpoint_gets_one_line(tmp_path, state, name, content, message):
    path = tmp_path / name
    path.write_bytes(content(state))
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_directories_and_absent_files(tmp_path):
    with pytest.raises(UserError, match="is a directory; give the checkpoint file"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict of weights, got list"),
        ({}, "holds no weights"),
        ({"model_state": {}}, "holds no weights"),
        ({"model_state": {"a": 3}}, "key 'a' of 'model_state': expected a tensor, got int"),
        ({"weights": {"a": torch.ones(1)}}, "key 'weights': expected a tensor, got dict"),
    ],
)
def test_pickles_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.ckpt")


def test_archives_without_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.mdlus", "w") as archive:
        archive.writestr("args.json", "{}")
    with pytest.raises(UserError, match="zip file without weights"):
        read(tmp_path / "a.mdlus")
    with tarfile.open(tmp_path / "b.mdlus", "w") as archive:
        archive.addfile(tarfile.TarInfo("args.json"))
    with pytest.raises(UserError, match=r"tar file without model\.pt"):
        read(tmp_path / "b.mdlus")


def test_what_is_read_makes_the_network(tmp_path, state):
    torch.save(_trained(state)["model_state"], tmp_path / "a.ckpt")
    net, x = AFNONet.from_state_dict(read_state_dict(tmp_path / "a.ckpt")), torch.randn(1, 3, 16, 32)
    assert torch.equal(net(x), small()(x))
