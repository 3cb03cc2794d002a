"""Checkpoint files, read without executing anything that they hold."""

import hashlib
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from wxkernels.errors import UserError

#: Where training scripts put the weights inside a checkpoint.
STATE_KEYS = ("model_state", "state_dict", "model_state_dict")
#: What DistributedDataParallel and torch.compile put before every key.
PREFIXES = ("module.", "_orig_mod.")
#: Keys without meaning for inference: NVlabs' loaders skip `ged`, modulus tracked its device in a buffer.
IGNORED = ("ged", "device_buffer")
#: Packages whose objects lie beside the weights in real checkpoints (a learning rate read by ruamel.yaml,
#: parsed arguments, NumPy scalars). Each becomes an inert stand-in: none of their code is imported or run.
STAND_INS = ("ruamel", "argparse", "numpy", "omegaconf", "pathlib", "_codecs")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds: named tensors on the CPU, and metadata where the format has some."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, Any]  # safetensors: its string table; .mdlus: the constructor's arguments
    sha256: str


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file; formats and errors are those of `read`."""
    return read(path).state


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint: safetensors, a PyTorch pickle (zip or older), a physicsnemo .mdlus (zip or tar).

    Weights are looked for under `model_state`, `state_dict` and at the top; the prefixes `module.` and
    `_orig_mod.` and the keys `ged` and `device_buffer` are dropped. Nothing in the file is executed.
    Raises UserError, one line with the file's name, for a file that is absent, truncated, of another kind,
    without weights, or that would run code.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give the checkpoint file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a checkpoint")
    with path.open("rb") as file:
        head = file.read(512)
        digest = hashlib.file_digest(_rewound(file), "sha256").hexdigest()
    metadata: dict[str, Any] = {}
    if not head:
        raise UserError(f"{path}: is empty; copy or download it again")
    if _is_safetensors(head, path):
        content, metadata = _read_safetensors(path)
    elif head.startswith(b"PK"):
        content, metadata = _read_zip(path)
    elif head[257:262] == b"ustar":
        content, metadata = _read_tar(path)
    elif head.startswith(b"\x80"):
        content = _load(path, path, mmap=False)
    else:
        raise UserError(_foreign(path, head))
    return Checkpoint(path, _weights(content, path), metadata, digest)


def _rewound(file: IO[bytes]) -> Any:
    file.seek(0)
    return file


def _is_safetensors(head: bytes, path: Path) -> bool:
    return head[8:9] == b"{" or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is no whole safetensors file ({error}); copy or download it again"
        ) from None


def _read_zip(path: Path) -> tuple[Any, dict[str, Any]]:
    """A zip is what torch.save writes, or a physicsnemo archive that holds such a zip as model.pt."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "model.pt" in names:
                args = archive.read("args.json") if "args.json" in names else b"{}"
                with archive.open("model.pt") as member:
                    return _load(io.BytesIO(member.read()), path, mmap=False), _arguments(args, path)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{path}: is truncated or damaged ({error}); copy or download it again") from None
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(
            f"{path}: is a zip file without weights; give a PyTorch checkpoint or a .mdlus archive"
        )
    return _load(path, path, mmap=True), {}


def _read_tar(path: Path) -> tuple[Any, dict[str, Any]]:
    """The older physicsnemo archive: model.pt and args.json in a tar. Read in place, never unpacked."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
            if "model.pt" not in members:
                raise UserError(
                    f"{path}: is a tar file without model.pt; give a .mdlus archive, or load this "
                    "file with the PyTorch that wrote it and save it anew"
                )
            model = archive.extractfile(members["model.pt"])
            args = archive.extractfile(members["args.json"]) if "args.json" in members else None
            assert model is not None  # it is a regular file
            metadata = _arguments(args.read(), path) if args else {}
            return _load(io.BytesIO(model.read()), path, mmap=False), metadata
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: is truncated or damaged ({error}); copy or download it again") from None


def _arguments(text: bytes, path: Path) -> dict[str, Any]:
    """The constructor's arguments in args.json; the class that it names is not imported."""
    try:
        arguments = json.loads(text).get("__args__", {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: args.json is no JSON object ({error}); save the archive again") from None
    return arguments if isinstance(arguments, dict) else {}


def _load(file: Path | IO[bytes], path: Path, *, mmap: bool) -> Any:
    """torch.load with weights_only, with a stand-in for each harmless class that it does not know."""
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(stand_ins.values())):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
            name = _refused(error)
            if name is None:
                raise UserError(
                    f"{path}: is truncated, damaged or no checkpoint ({_reason(error)}); download it again"
                ) from None
            if name.split(".")[0] not in STAND_INS or name in stand_ins:
                raise UserError(
                    f"{path}: holds the Python object {name}, which is no weight; nothing in it was "
                    "executed: do not use this file, or have its author save the state dict alone"
                ) from None
            stand_ins[name] = _stand_in(name)
            if not isinstance(file, Path):
                file.seek(0)


def _refused(error: Exception) -> str | None:
    """The global that the restricted unpickler would not take, from its message."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found.group(1) if found else None


def _reason(error: Exception) -> str:
    """The cause in one line, without torch's advice to switch its protection off."""
    text = str(error).split("WeightsUnpickler error: ")[-1].strip()
    return text.split("\n")[0][:160] or type(error).__name__


def _stand_in(name: str) -> type:
    """A class with the name of another that keeps nothing of what it is given."""

    def new(cls: type, *arguments: Any, **options: Any) -> Any:
        return object.__new__(cls)

    module, _, qualname = name.rpartition(".")
    body = {"__module__": module, "__new__": new, "__init__": _ignore, "__setstate__": _ignore}
    return type(qualname, (), body)


def _ignore(self: Any, *arguments: Any, **options: Any) -> None:
    pass


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: expected a dict of weights, got {type(content).__name__}; save a state dict"
        )
    found = next((key for key in STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    state = content[found] if found else content
    if not state:
        raise UserError(f"{path}: holds no weights; save the network's state dict")
    for key, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            where = f"'{key}' of '{found}'" if found else f"'{key}'"
            raise UserError(
                f"{path}: key {where}: expected a tensor, got {type(value).__name__}; save the state "
                f"dict alone, or under one of {', '.join(STATE_KEYS)}"
            )
    state = dict(state)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value for key, value in state.items() if key.split(".")[-1] not in IGNORED}


def _foreign(path: Path, head: bytes) -> str:
    kinds = {
        b"\x89HDF": "an HDF5 file",
        b"\x93NUMPY": "a NumPy array",
        b"\x1f\x8b": "gzip-compressed: unpack it first",
        b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    }
    for magic, kind in kinds.items():
        if head.startswith(magic):
            return f"{path}: is no checkpoint but {kind}; give a PyTorch, .mdlus or safetensors file"
    if head.lstrip()[:1] == b"<":
        return f"{path}: is a web page, not a checkpoint; download the file again, signed in if the site asks"
    kind = "text" if head.isascii() and b"\0" not in head else "of an unknown kind"
    return f"{path}: is {kind}; give a PyTorch, .mdlus or safetensors checkpoint"
