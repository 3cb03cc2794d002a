import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxkernels.quantization import LayerScheme, Scheme
from wxkernels.quantization.scheme import asked, hidden_code, hidden_scale_fp8


def scheme(**changes):
    layers = {
        "pos_embed": LayerScheme("int8", error=1e-4, size_before=400, size_after=110),
        "blocks.0.filter": LayerScheme("fp32", error=0.0, size_before=80, size_after=80),
        "blocks.0.mlp": LayerScheme("int8", 0.5, 0.013, -90, 2e-3, 400, 110),
        "blocks.1.mlp": LayerScheme("bf16", error=1e-3, size_before=400, size_after=200),
    }
    parts = {"precision": "int8", "layers": layers, "budget": 0.02, "error": 0.01}
    sizes = {"size_before": 2000, "size_after": 500, "calibration": {"data": "2018.h5", "states": 4}}
    return Scheme(**parts | sizes | changes)


def test_json_and_back():
    assert Scheme.from_dict(json.loads(json.dumps(scheme().to_dict()))) == scheme()
    unmeasured = Scheme("bf16", {"head": LayerScheme("bf16")})
    assert Scheme.from_dict(json.loads(json.dumps(unmeasured.to_dict()))) == unmeasured


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d | {"precision": "int4"}, "precision: expected one of fp32, bf16, int8, fp8, got 'int4'"),
        (lambda d: d | {"error": "small"}, "error: expected a finite number, got 'small'"),
        (lambda d: d | {"budget": float("nan")}, "budget: expected a finite number, got nan"),
        (
            lambda d: d | {"layers": d["layers"] | {"head": d["layers"]["pos_embed"] | {"precision": 8}}},
            "got 8",
        ),
        (
            lambda d: d | {"layers": {"mlp": d["layers"]["blocks.0.mlp"] | {"hidden_scale": -1.0}}},
            "hidden_scale: expected > 0, got -1.0",
        ),
        (
            lambda d: d | {"layers": {"mlp": d["layers"]["blocks.0.mlp"] | {"hidden_offset": -128}}},
            "hidden_offset: expected -127 to 127, got -128",
        ),
        (lambda d: {k: v for k, v in d.items() if k != "layers"}, "layers"),
        (lambda d: d | {"layers": {"mlp": {}}}, "precision"),
        (lambda d: d | {"layers": 3}, "int"),
    ],
)
def test_a_damaged_dict_is_refused(spoil, message):
    with pytest.raises((ValueError, KeyError, TypeError), match=message):
        Scheme.from_dict(spoil(scheme().to_dict()))


def test_what_was_kept_finer():
    assert scheme().kept == {"blocks.0.filter": "fp32", "blocks.1.mlp": "bf16"}
    assert scheme().saved == 0.75
    assert asked("blocks.2.mlp", "int8") == asked("pos_embed", "int8") == "int8"
    assert asked("head", "int8") == asked("blocks.2.filter", "int8") == "bf16"
    assert asked("head", "fp32") == "fp32"
    assert asked("blocks.2.mlp", "fp8") == "fp8"
    assert asked("pos_embed", "fp8") == "int8"
    assert asked("head", "fp8") == "bf16"
    assert scheme(precision="fp8").kept == {
        "blocks.0.filter": "fp32",
        "blocks.0.mlp": "int8",
        "blocks.1.mlp": "bf16",
    }


def test_the_digest_is_of_the_choices():
    digest = scheme().digest()
    assert len(digest) == 16
    assert scheme(error=0.5, budget=None, calibration={}).digest() == digest
    for name, layer in scheme().layers.items():
        other = LayerScheme("bf16" if layer.precision == "fp32" else "fp32", layer.smooth, layer.hidden_scale)
        assert scheme(layers=scheme().layers | {name: other}).digest() != digest
    for changes in ({"hidden_scale": 0.014}, {"hidden_offset": -91}):
        changed = replace(scheme().layers["blocks.0.mlp"], **changes)
        assert scheme(layers=scheme().layers | {"blocks.0.mlp": changed}).digest() != digest


@given(st.floats(0, 1e6, allow_subnormal=False))
def test_the_hidden_scale_of_e4m3_leaves_room(largest):
    scale = hidden_scale_fp8(largest)
    assert scale > 0
    assert largest / scale <= 113


@given(least=st.floats(-1e6, 0, allow_subnormal=False), largest=st.floats(0, 1e6, allow_subnormal=False))
def test_the_hidden_code_reaches_both_ends(least, largest):
    """To half a step, and with all its 255 steps: the ends are 254 apart."""
    scale, offset = hidden_code(least, largest)
    assert scale > 0
    assert -127 <= offset <= 127
    for end in (least, 0.0, largest):
        assert abs(scale * (min(max(round(end / scale) + offset, -127), 127) - offset) - end) <= 1.01 * scale
    if largest > least:
        assert 254 * scale == pytest.approx(largest - least)
