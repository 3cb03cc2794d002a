"""ci/tune.py, as far as it goes without a GPU: what it would time, what it leaves out, what it stores."""

import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wxkernels import backends
from wxkernels.bench.models import MODELS, Model
from wxkernels.models.afno import AFNONet
from wxkernels.ops import _triton
from wxkernels.ops._triton import Launch, Target, Tiles
from wxkernels.ops.layer_norm import triton as layer_norm
from wxkernels.ops.linear_int8 import triton as linear_int8
from wxkernels.ops.mlp import triton as mlp
from wxkernels.ops.patch_embed import triton as patch_embed
from wxkernels.ops.patch_head import triton as patch_head
from wxkernels.ops.spectral_filter import triton as spectral_filter
from wxkernels.quantization import LayerScheme, Scheme, apply
from wxkernels.quantization.conversion import layer_names
from wxkernels.quantization.scheme import asked

CI = Path(__file__).parents[2] / "ci"
FP32, BF16 = torch.float32, torch.bfloat16
TARGETS = [Target("cuda", 80), Target("cuda", 90), Target("cuda", 100), Target("hip", "gfx942", 64)]


@pytest.fixture(scope="module")
def tune():
    sys.path.insert(0, str(CI))  # for aot
    try:
        spec = importlib.util.spec_from_file_location("tune", CI / "tune.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["tune"] = module  # where processes that compile find its functions
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(CI))
        sys.modules.pop("tune", None)


def launches(tune, target, batches=(1, 8)):
    """By case, of each batch."""
    for precision, stream in tune.PRECISIONS:
        for name in tune.NAMES:
            yield [
                list(tune.launches(MODELS[name], batch, precision, stream, target, tune.meta))
                for batch in batches
            ]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_neither_keys_nor_floating_tiles_depend_on_the_batch(tune, target):
    for one, eight in launches(tune, target):
        assert [launch.key for launch in one] == [launch.key for launch in eight]
        for a, b in zip(one, eight, strict=True):
            assert b.programs > a.programs
            operand = a.arguments.get("x")
            if operand is None or operand.dtype != torch.int8:  # integer sums are exact in any order
                assert a.tiles == b.tiles


@pytest.mark.parametrize(
    ("precision", "stream"), [("bf16", FP32), ("int8", FP32), ("fp8", FP32), ("bf16", BF16), ("fp32", FP32)]
)
def test_what_is_tuned_is_what_a_network_launches(tune, precision, stream, monkeypatch):
    """With kernels that nothing starts."""
    assert (precision, stream) in tune.PRECISIONS
    model = Model((12, 32), (4, 8), 3, 32, 1, 2, 64)
    network = AFNONet((12, 32), (4, 8), 3, 3, 32, 1, 2.0, 2)
    if stream == BF16:
        network.bfloat16()
    elif precision != "fp32":
        layers = {name: LayerScheme(asked(name, precision)) for name in layer_names(network)}
        layers["blocks.0.mlp"] = replace(
            layers["blocks.0.mlp"], hidden_scale=0.1, hidden_offset=-90 * (precision == "int8")
        )
        apply(network, Scheme(precision, layers))
    started = set()
    monkeypatch.setattr(_triton, "start", lambda launch: started.add(launch.key))
    monkeypatch.setattr(_triton, "unsupported_device", lambda x: None)
    monkeypatch.setattr(_triton, "unsupported_e4m3", lambda x: None)
    for module in (layer_norm, linear_int8, mlp, patch_embed, patch_head, spectral_filter):
        monkeypatch.setattr(module, "unavailable", lambda: None)
    with backends.use("triton"), torch.inference_mode():
        network(torch.zeros(1, 3, 12, 32, dtype=stream))
    expected = tune.launches(model, 1, precision, stream, Target("cuda", 80), tune.meta)
    assert started == {launch.key for launch in expected}


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_candidates_are_others_that_cover_what_they_must(tune, target):
    for group in tune.groups(target, tune.meta, (1,)):
        launch, found = group.one, tune.candidates(group.one)
        assert 1 <= len(found) <= 12
        assert launch.tiles not in found
        whole = {"BLOCK_C", "BLOCK_I"} | ({"BLOCK_K"} if launch.kernel == "quantize_rows" else set())
        for tiles in found:
            assert found.count(tiles) == 1
            for name, size in tiles.sizes.items():
                assert size & (size - 1) == 0
                assert size >= 16 or launch.kernel in tune.aot.NOT_MULTIPLYING  # the least side of tl.dot
                assert size == launch.tiles.sizes[name] or name not in whole
            for name, padded in tune.PADDED.get(launch.kernel, {}).items():
                assert padded % tiles.sizes[name] == 0


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_a_candidate_that_does_not_fit_is_left_out(tune, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launch = next(g.one for g in tune.groups(Target("cuda", 80), tune.meta) if g.one.kernel == "linear")
    large = tune.resized(launch.tiles, 8, 4, BLOCK_M=256, BLOCK_K=128)
    small = tune.resized(launch.tiles, 4, 3, BLOCK_M=64, BLOCK_N=64)
    assert "shared memory" in tune.fault(tune.job(launch, large, "sm_80", "large"))
    assert tune.fault(tune.job(launch, small, "sm_80", "small")) is None


@pytest.mark.parametrize(
    ("ones", "eights", "wins"),
    [
        ([1.0, 0.9], [8.0, 7.2], 1),
        ([1.0, 0.9, 0.8], [8.0, 7.2, 6.4], 2),
        ([1.0, 0.98], [8.0, 7.84], None),  # less than the margin
        ([1.0, 0.9], [8.0, 9.0], None),  # what is won with one sample is lost with eight
        ([1.0, 0.8], [8.0, 8.4], 1),
        ([1.0], [8.0], None),
    ],
)
def test_tiles_win_by_the_mean_of_both_batches(tune, ones, eights, wins):
    drawn = np.random.default_rng(0)
    noise = 1 + 0.002 * drawn.standard_normal((len(ones), 2, tune.ROUNDS))
    found = tune.winner(list(np.array([ones, eights]).T[:, :, None] * noise))
    assert (found and found[0]) == wins


def test_tiles_do_not_win_by_noise(tune):
    drawn = np.random.default_rng(0)
    own, other = (1 + 0.3 * drawn.random((2, 2, tune.ROUNDS))) * np.array([1.0, 0.95])[:, None, None]
    assert tune.winner([own, other]) is None


def test_times_are_those_of_the_tiles_in_interleaved_rounds(tune):
    group = next(iter(tune.groups(Target("cuda", 90), tune.meta)))
    tiles, calls = [group.one.tiles, *tune.candidates(group.one)][:3], []

    def timed(launch):
        def seconds():
            calls.append(tiles.index(launch.tiles))
            return tiles.index(launch.tiles) + launch.samples / 1e6

        return seconds

    times = tune.measured(group, tiles, timed)
    for n, found in enumerate(times):
        assert np.array_equal(found, np.array([[n + x.samples / 1e6] * tune.ROUNDS for x in group.launches]))
    assert calls[:6] == [0, 0, 1, 1, 2, 2]
    assert calls[6:12] == [1, 1, 2, 2, 0, 0]


def test_what_is_stored_is_what_a_launch_takes(tune, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    import triton

    launch = next(iter(tune.groups(Target("cuda", 90), tune.meta))).one
    best = tune.candidates(launch)[0]
    where = {"architecture": "sm_90", "triton": triton.__version__}
    (path := tmp_path / "tiles.json").write_text("left alone if writing fails")
    old = [where | {"launch": launch.key}, where | {"launch": "not timed now"}]
    old += [{"launch": launch.key, "architecture": "sm_80", "triton": "1"}]
    schedule = {"sizes": {"BLOCK_M": 16}, "num_warps": 1, "num_stages": 1}
    new = tune.record(launch, best, tune.ratio([0.9], [1.0])) | where
    records = tune.merged([r | schedule for r in old], [new], "sm_90", {launch.key})
    assert [r["launch"] for r in records] == [launch.key, "not timed now", launch.key]
    tune.write(records, [path])
    monkeypatch.setattr(_triton, "files", lambda package: tmp_path)
    plain = Tiles(best.sizes, best.num_warps, best.num_stages)
    for architecture, expected in (("sm_90", plain), ("sm_80", None), ("cpu", None)):
        _triton.tuned.cache_clear()
        assert _triton.tuned(architecture).get(launch.key) == expected

    started = []
    monkeypatch.setattr(_triton, "start", lambda launch: started.append(launch.tiles))
    for architecture in ("sm_90", "sm_80"):
        _triton.tuned.cache_clear()
        monkeypatch.setattr(_triton.backends, "device_architecture", lambda device, a=architecture: a)
        _triton.run([launch], torch.device("cpu"))
    _triton.tuned.cache_clear()
    assert started == [plain, launch.tiles]


def test_a_run_stores_what_wins(tune, tmp_path, monkeypatch):
    """On the CPU, with a timer that likes tiles of 64 rows, and kernels that nothing starts."""
    pytest.importorskip("triton")

    def is_64(tiles):
        return tiles.sizes.get("BLOCK_M") == 64

    monkeypatch.setattr(tune, "NAMES", ("small",))
    monkeypatch.setattr(tune, "compiler", lambda: ThreadPoolExecutor(1))
    paths = [tmp_path / "tiles.json", tmp_path / "copy.json"]
    monkeypatch.setattr(tune, "STORED", paths[0])
    monkeypatch.setattr(tune, "works", lambda launch, tiles: True)
    monkeypatch.setattr(tune, "timer", lambda launch: lambda: 0.9 if is_64(launch.tiles) else 1.0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a stand-in")
    tune.tune(torch.device("cpu"), 600, paths)
    first, copy = (json.loads(path.read_text())["records"] for path in paths)
    assert first == copy
    groups = {group.one.key: group.one for group in tune.groups(Target("cuda", 80), tune.meta)}
    expected = {
        key
        for key, launch in groups.items()
        if not is_64(launch.tiles) and any(map(is_64, tune.candidates(launch)))
    }
    assert {record["launch"] for record in first} == expected
    assert all(record["sizes"]["BLOCK_M"] == 64 and record["device"] == "a stand-in" for record in first)
    assert expected

    tune.tune(torch.device("cpu"), 0, paths)  # no time: nothing is timed, what there was stays
    assert [json.loads(path.read_text())["records"] for path in paths] == [first, first]


@pytest.mark.parametrize(("value", "spills", "works"), [(1.0, 0, True), (1.1, 0, False), (1.0, 4, False)])
def test_a_candidate_works_if_it_gives_the_same_without_spills(tune, monkeypatch, value, spills, works):
    pytest.importorskip("triton")
    y, own, other = torch.empty(3, 3), Tiles({"BLOCK_M": 16}, 4, 1), Tiles({"BLOCK_M": 32}, 4, 1)
    launch = Launch("op", "kernel", {"BLOCK_M": 3}, (), {"y": y}, {}, own)

    def start(launch):
        y.fill_(1.0 if launch.tiles == own else value)
        return SimpleNamespace(n_spills=0 if launch.tiles == own else spills)

    monkeypatch.setattr(_triton, "start", start)
    assert tune.works(launch, other) == works

    def fail(launch):
        if launch.tiles == other:
            raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(_triton, "start", fail)
    assert not tune.works(launch, other)


def test_a_launch_without_a_winner_loses_its_record(tune):
    old = [{"launch": name, "architecture": "sm_90"} for name in ("a", "b")]
    assert tune.merged(old, [], "sm_90", {"a"}) == old[1:]
    assert tune.merged(old, [], "sm_80", {"a"}) == old


def test_results_are_close_or_not(tune):
    y = torch.linspace(-1, 1, 9)
    assert tune.close(y * (1 + 1e-6), y)
    assert not tune.close(y + 1e-3, y)
    assert not tune.close(torch.full_like(y, torch.nan), y)
    assert tune.close(y.bfloat16() * (1 + 2**-8), y.bfloat16())
    q = torch.arange(9, dtype=torch.int8)
    assert tune.close(q + 1, q)
    assert not tune.close(q + 2, q)


def test_a_key_is_sizes_dtypes_and_constants():
    arguments = {"x": torch.empty(3, 5), "y": None, "M": 3, "K": 5, "eps": 1e-6}
    launch = Launch("op", "kernel", {"BLOCK_M": 3}, ("K",), arguments, {"RELU": True}, Tiles({}, 4, 1))
    assert launch.key == "kernel K=5 x=float32 RELU=True"
