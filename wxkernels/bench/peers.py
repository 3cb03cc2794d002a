"""Ways that people run a whole PyTorch network today, each in its strongest form that we found.

A peer takes a network, which it may change, and an example input, and returns the call that is measured.
"""

import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wxkernels.bench.case import absent, compiled
from wxkernels.bench.convolution import mend
from wxkernels.bench.engine import Call

Build = Callable[[nn.Module, Tensor], Call]


@dataclass(frozen=True)
class Peer:
    """`precision` is that of the products of linear layers; `needs` the modules that must be installed."""

    make: Build
    precision: Literal["fp32", "bf16", "int8"]
    kind: Literal["pytorch", "peer"] = "peer"
    needs: Sequence[str] = ()
    only: Literal["cpu", "cuda"] | None = None
    fix: str = "pip install -c constraints.txt '.[bench]'"

    def build(self, network: nn.Module, x: Tensor) -> Call:
        if self.precision != "fp32" and x.device.type == "cpu":
            mend(network, x)
        return self.make(network, x)

    def reason(self, device: torch.device) -> str | None:
        """Why it does not run here; None where it does."""
        if self.only and device.type != self.only:
            return "it runs on the CPU" if self.only == "cpu" else "it runs on GPUs"
        return absent(*self.needs, fix=self.fix)


def _eager(network: nn.Module, x: Tensor, *, bf16: bool) -> Call:
    return _autocast(network, x.device, bf16)


def _compiled(network: nn.Module, x: Tensor, *, bf16: bool, **options: Any) -> Call:
    """torch.compile with settings of inductor; `freezing` needs them to hold while it traces the network."""
    call = _autocast(compiled(network), x.device, bf16)
    return _with(lambda: torch._inductor.config.patch(**options), call)


def _torchao(network: nn.Module, x: Tensor) -> Call:
    """int8 weights, int8 rows quantised on the fly, compiled with the rest in bfloat16."""
    with _quiet():
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(network, Int8DynamicActivationInt8WeightConfig())
    return _compiled(network, x, bf16=True, freezing=True)


def _pt2e(network: nn.Module, x: Tensor) -> Call:
    """The linear layers by PyTorch's X86 quantizer, dynamic: oneDNN's int8 layers once compiled."""
    with _quiet(), torch.no_grad():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        config = x86.get_default_x86_inductor_quantization_config(is_dynamic=True)
        quantizer.set_module_type_qconfig(nn.Linear, config)
        prepared = prepare_pt2e(torch.export.export(network, (x,)).module(), quantizer)
        prepared(x)
        network = convert_pt2e(prepared)
    return _compiled(network, x, bf16=True, freezing=True)


def _onnxruntime(network: nn.Module, x: Tensor, *, int8: bool) -> Call:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "network.onnx"
        program = torch.onnx.export(network, (x,), dynamo=True, opset_version=20, verbose=False)
        assert program is not None
        program.save(path)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            whole, path = path, path.with_name("int8.onnx")
            quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would spin on while the next variant is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda tensors: torch.from_numpy(session.run(None, {name: tensors[0].numpy()})[0])


def _openvino(network: nn.Module, x: Tensor, *, precision: str, int8: bool = False) -> Call:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # a benchmark reports nothing
    with _quiet():
        import openvino
        from openvino.frontend.pytorch import ConversionExtension

        shrink = ConversionExtension("aten::softshrink", _softshrink)
        model = openvino.convert_model(network, example_input=x, extension=shrink)
        if int8:
            import nncf

            transformer = nncf.ModelType.TRANSFORMER
            model = nncf.quantize(model, nncf.Dataset([x]), model_type=transformer, subset_size=1)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.compile_model(model, "CPU", settings)
    return lambda tensors: torch.from_numpy(compiled(tensors[0].numpy())[0])


def _tensorrt(network: nn.Module, x: Tensor, **options: Any) -> Call:
    """As torch_tensorrt 2.14 has it; what it does not convert PyTorch runs. Not tried, for want of a GPU."""
    with _quiet():
        import torch_tensorrt

        engine = torch_tensorrt.compile(network, ir="dynamo", inputs=[x], min_block_size=1, **options)
    return lambda tensors: engine(*tensors)


def _softshrink(context: Any) -> list[Any]:
    """The one operation of the network that OpenVINO does not convert: x - clamp(x, -lambda, lambda)."""
    from openvino import opset14

    x, threshold = context.get_input(0), float(context.get_values_from_const_input(1))
    return [opset14.subtract(x, opset14.clamp(x, -threshold, threshold)).output(0)]


def _autocast(network: Callable[..., Any], device: torch.device, bf16: bool) -> Call:
    def run(tensors: Sequence[Tensor]) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            return network(*tensors)

    return run


def _with(context: Callable[[], AbstractContextManager[Any]], call: Call) -> Call:
    def run(tensors: Sequence[Tensor]) -> Any:
        with context():
            return call(tensors)

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars and the warnings of a conversion out of the table."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_AUTOTUNE: dict[str, Any] = {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_TENSORRT_BF16: dict[str, Any] = {
    "enable_autocast": True,
    "autocast_low_precision_type": torch.bfloat16,
}
_TENSORRT: dict[str, Any] = {
    "needs": ("torch_tensorrt",),
    "only": "cuda",
    "fix": "pip install torch-tensorrt",
}

PEERS = {
    "eager": Peer(partial(_eager, bf16=False), "fp32", "pytorch"),
    "eager-bf16": Peer(partial(_eager, bf16=True), "bf16", "pytorch"),
    "compiled": Peer(partial(_compiled, bf16=False), "fp32", "pytorch"),
    "compiled-freezing": Peer(partial(_compiled, bf16=False, freezing=True), "fp32", "pytorch"),
    "compiled-bf16": Peer(partial(_compiled, bf16=True), "bf16", "pytorch"),
    "compiled-bf16-freezing": Peer(partial(_compiled, bf16=True, freezing=True), "bf16", "pytorch"),
    "compiled-bf16-autotune": Peer(partial(_compiled, bf16=True, **_AUTOTUNE), "bf16", "pytorch"),
    "torchao-int8": Peer(_torchao, "int8", needs=("torchao",)),
    "pt2e-int8": Peer(_pt2e, "int8", needs=("torchao",), only="cpu"),
    "onnxruntime": Peer(partial(_onnxruntime, int8=False), "fp32", needs=_ONNX, only="cpu"),
    "onnxruntime-int8": Peer(partial(_onnxruntime, int8=True), "int8", needs=_ONNX, only="cpu"),
    "openvino": Peer(partial(_openvino, precision="f32"), "fp32", needs=("openvino",), only="cpu"),
    "openvino-bf16": Peer(partial(_openvino, precision="bf16"), "bf16", needs=("openvino",), only="cpu"),
    "openvino-int8": Peer(
        partial(_openvino, precision="bf16", int8=True), "int8", needs=("openvino", "nncf"), only="cpu"
    ),
    "tensorrt": Peer(_tensorrt, "fp32", **_TENSORRT),
    "tensorrt-bf16": Peer(partial(_tensorrt, **_TENSORRT_BF16), "bf16", **_TENSORRT),
}
