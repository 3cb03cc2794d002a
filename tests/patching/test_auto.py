"""`import wxkernels.auto`: each case is a script of its own, since it changes classes of a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hosts

ROOT = Path(__file__).parents[2]

PREAMBLE = """
import importlib, inspect, logging, os, sys, torch
from tests.hosts import make_importable
make_importable()
module, name = sys.argv[1:]
"""

IMPORT = """
host = importlib.import_module(module)
Layer = getattr(host, name)
"""

# Compares the class in use with the function it had, which functools.wraps keeps.
CHECKS = """
from wxkernels.patching import filters, hosts
calls = []
run = filters.run
filters.run = lambda layer, *args: calls.append(layer) or run(layer, *args)

layer, x = Layer(16, 4), torch.randn(2, 6, 15, 16)
original = Layer.forward.__wrapped__
torch.testing.assert_close(layer(x), original(layer, x))
assert calls == [layer]

class Mine(Layer):
    pass

mine = Mine(16, 4)
assert torch.equal(mine(x), original(mine, x))
layer.num_blocks = 1.5  # no shape of the published layer: the original answers, here with its own error
try:
    layer(x)
except TypeError:
    pass
else:
    raise AssertionError("the original was not called")
layer.num_blocks = 4
assert calls == [layer]

import wxkernels
assert wxkernels.patch(layer).replaced and calls.pop() is not layer  # the probe has a layer of its own
wxkernels.unpatch(layer)
assert Layer.forward.__wrapped__ is original
"""


def run(host, script, kind="layer", **environment):
    layer = getattr(hosts.load(host), kind)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + script, layer.__module__, layer.__name__],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("host", hosts.NAMES)
def test_host_imported_later(host):
    run(
        host,
        """
import wxkernels.auto
"""
        + IMPORT
        + """
assert inspect.getsource(host).startswith("#")  # the module has its own loader
assert not isinstance(host.__spec__.loader, wxkernels.auto._Loader)
state = torch.get_rng_state()
importlib.reload(wxkernels.auto)  # puts a second finder in the path
importlib.reload(host)
assert torch.equal(torch.get_rng_state(), state)
assert getattr(host, name) is not Layer
Layer = getattr(host, name)
assert not hasattr(Layer.forward.__wrapped__, "__wrapped__")  # replaced once
"""
        + CHECKS,
    )


@pytest.mark.parametrize("host", hosts.NAMES)
def test_host_imported_before(host):
    run(
        host,
        IMPORT
        + """
import wxkernels.auto
"""
        + CHECKS
        + """
compiled = torch.compile(layer, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(x), original(layer, x))
""",
    )


@pytest.mark.parametrize("host", hosts.NAMES)
def test_blocks(host):
    run(
        host,
        """
import wxkernels.auto
"""
        + IMPORT
        + """
from wxkernels.patching import blocks
calls = []
run = blocks.run
blocks.run = lambda block, *args: calls.append(block) or run(block, *args)

block, x = Layer(16, num_blocks=4).eval(), torch.randn(2, 6, 15, 16)
block.mlp.fc2.weight.data.mul_(10)
original = Layer.forward.__wrapped__
expected = original(block, x)
assert torch.equal(block(x), expected) and expected.requires_grad and not calls
with torch.inference_mode():
    torch.testing.assert_close(block(x), expected)
    assert calls.pop() is block
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    del calls[:]

    block.double_skip = False
    assert not torch.allclose(block(x), expected) and torch.equal(block(x), original(block, x))
    block.double_skip = True
    block.norm2.register_forward_hook(lambda *args: torch.zeros_like(x))
    assert not torch.allclose(block(x), expected) and torch.equal(block(x), original(block, x))

    class Mine(Layer):
        pass

    mine = Mine(16, num_blocks=4).eval()
    assert torch.equal(mine(x), original(mine, x)) and not calls

    block.norm2._forward_hooks.clear()
    import wxkernels
    assert wxkernels.patch(block).replaced and calls.pop() is not block  # the probe has a block of its own
    wxkernels.unpatch(block)
    assert Layer.forward.__wrapped__ is original
""",
        kind="block",
    )


def test_disabled_and_then_a_changed_host():
    run(
        hosts.NAMES[0],
        """
finders = list(sys.meta_path)
import wxkernels.auto
assert sys.meta_path == finders
"""
        + IMPORT
        + """
assert not hasattr(Layer.forward, "__wrapped__")
import wxkernels
assert wxkernels.patch(Layer(16, 4)).replaced  # by name it works all the same

# A host that computes something else is left alone.
del os.environ["WXKERNELS_DISABLE"]
forward = Layer.forward = lambda self, x: 2 * x
told = []
logging.getLogger("wxkernels").addFilter(lambda record: told.append(record.getMessage()))
importlib.reload(wxkernels.auto)
assert Layer.forward is forward
assert "differs from the published layer" in told[-1], told
""",
        WXKERNELS_DISABLE="1",
    )
