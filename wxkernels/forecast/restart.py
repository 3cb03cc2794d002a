"""The restart file: what a run needs to go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wxkernels.errors import UserError

FORMAT = "wxkernels restart 1"
SHARE = 0.05  # of a run's time may go into restart files
GUESSED_SPEED = 200e6  # bytes/s to disk, until a file was timed


class RestartFile:
    """Tensors and notes of a run in progress, replaced whole as often as SHARE of the run's time allows.

    identity: what makes the run this run, JSON values by name. A safetensors file.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self._partial = path.with_name(path.name + ".partial")
        self._began = time.monotonic()
        self._spent = 0.0
        self._cost: float | None = None  # s of the latest file

    def due(self, size: int) -> bool:
        """Whether one more file, of `size` bytes, is within the share."""
        cost = size / GUESSED_SPEED if self._cost is None else self._cost
        return self._spent + cost <= SHARE * (time.monotonic() - self._began)

    def save(self, tensors: dict[str, Tensor], notes: dict[str, Any], flush: Callable[[], None]) -> None:
        """Write the file whole or not at all, once `flush` has written what the run need not make again.

        UserError: it cannot be written; the one before stays.
        """
        began = time.monotonic()
        flush()
        text = json.dumps({"identity": self.identity, "notes": notes})
        try:
            save_file(tensors, self._partial, metadata={"format": FORMAT, "run": text})
            _sync(self._partial)
            os.replace(self._partial, self.path)
            _sync(self.path.parent)
        except (SafetensorError, OSError) as error:
            self._partial.unlink(missing_ok=True)
            raise UserError(
                f"cannot write {self.path} ({error}): free space there or choose another"
            ) from None
        self._cost = time.monotonic() - began
        self._spent += self._cost

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and notes of the latest `save`; None where there is no file.

        UserError: it cannot be read, or another run wrote it. More steps than that run's are welcome.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UserError(
                        f"{self.path} is not a restart file of this version: run without resuming"
                    )
                run = json.loads(metadata["run"])
                refuse_other(f"{self.path} is the restart file", run["identity"], self.identity)
                return {name: file.get_tensor(name) for name in file.keys()}, run["notes"]  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise UserError(f"cannot read {self.path} ({error}): run without resuming") from None

    def remove(self) -> None:
        """Remove the file, and what a kill may have left of one."""
        self.path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)


def refuse_other(what: str, written: dict[str, Any], identity: dict[str, Any]) -> None:
    """UserError, which begins with `what`, where it was written by a run of another identity."""
    for key, now in identity.items():
        then = written.get(key)
        if then != now and not (key == "steps" and then is not None and then < now):
            raise UserError(
                f"{what} of another run: its {key} is {then}, now {now}; "
                "give the same again, or run without resuming"
            )


def _sync(path: Path) -> None:
    """Have the disk hold a file, or the entries of a folder, before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
