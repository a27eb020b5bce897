"""Work that several processes of this machine do together: started, watched, and stopped together."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, Literal, cast, get_args

import torch
from torch.multiprocessing.spawn import ProcessException

from splitveil import errors
from splitveil.errors import InputError, MissingExtraError, SplitveilError, TrainingError, UsageError
from splitveil.experiments.relay import Relay, Sender
from splitveil.training.observer import Observer
from splitveil.training.ranks import Ranks

__all__ = ["Accelerator", "as_accelerator", "check_devices", "spread"]

Accelerator = Literal["cpu", "gpu"]
Work = Callable[..., None]

_TIMEOUT_S = 600.0
_PATIENCE_S = 2.0  # a process that lost another waits so long: the one that failed first is to be named
_INTERRUPTED = 130
_LOST = ("closed by peer", "reset by peer", "Broken pipe")  # what gloo and NCCL say of the loss of another process


def as_accelerator(name: str | None) -> Accelerator | None:
    """The accelerator of this name.

    Raises:
        UsageError: there is none.
    """
    if name is not None and name not in get_args(Accelerator):
        raise UsageError(f"expected the accelerator cpu or gpu, got '{name}'")
    return cast(Accelerator | None, name)


def check_devices(devices: int, accelerator: Accelerator | None, device: str | None) -> str | None:
    """Whether so many devices can train; the device of a single process, None for the default.

    Raises:
        UsageError: fewer than one device, no such accelerator, or one device named where several are asked.
        InputError: there are not so many GPUs.
        MissingExtraError: several devices without Lightning Fabric.
    """
    if devices < 1:
        raise UsageError(f"expected at least one device, got {devices}: leave out --devices for one")
    as_accelerator(accelerator)
    if device is not None and (devices > 1 or accelerator is not None):
        raise UsageError(
            f"expected either device '{device}' or devices and an accelerator, got both: leave one of them out"
        )
    if devices > 1:
        _check_several(devices, accelerator)
    return {"cpu": "cpu", "gpu": "cuda", None: device}[accelerator]


def spread(
    work: Work,
    arguments: Sequence[Any],
    *,
    devices: int,
    accelerator: Accelerator | None = None,
    observer: Observer | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Run ``work(ranks, device, observer, *arguments)`` in one process per device, over torch.distributed.

    If one of them fails, the others are stopped and its error is raised here. The processes are started anew, so a
    script has to guard its entry with ``if __name__ == "__main__":``.

    Args:
        work: a function of a module; what it returns is dropped.
        arguments: that pickle; tensors are shared, not copied.
        devices: how many.
        accelerator: ``cpu`` or ``gpu``; GPUs by default where there are any.
        observer: hears what the first process's observer hears.
        timeout_s: how long a process may wait for the others.

    Raises:
        MissingExtraError: Lightning Fabric is not installed.
        InputError: there are not so many devices.
        TrainingError: a process died, or raised an error of no class of splitveil's.
    """
    _check_several(devices, accelerator)
    from splitveil.experiments.fabric import make_fabric

    fabric = make_fabric(devices, _kind(accelerator), timeout_s)
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(devices)]
    relay = Relay([receiver for receiver, _ in pipes], observer or Observer())
    before = set(multiprocessing.active_children())
    port = os.environ.get("MASTER_PORT")
    try:
        with relay:
            fabric.launch(_enter, [sender for _, sender in pipes], _Call(work, arguments))
    except ProcessException as failure:
        raise _explain(failure, relay.faults, devices) from None
    finally:
        _stop(child for child in multiprocessing.active_children() if child not in before)
        _restore("MASTER_PORT", port)
    relay.check()


def _check_several(devices: int, accelerator: str | None) -> None:
    if _kind(accelerator) == "gpu" and (found := torch.cuda.device_count()) < devices:
        raise InputError(f"expected {devices} GPUs, got {found} here: ask for fewer devices, or for --accelerator cpu")
    if find_spec("lightning_fabric") is None:
        raise MissingExtraError("lightning-fabric", "devices", f"training on {devices} devices")


def _kind(accelerator: str | None) -> str:
    return accelerator or ("gpu" if torch.cuda.is_available() else "cpu")


class _Call:
    """The work with its arguments, closed to Fabric, which takes collections and data classes apart."""

    def __init__(self, work: Work, arguments: Sequence[Any]) -> None:
        self._work, self._arguments = work, tuple(arguments)

    def __call__(self, ranks: Ranks, device: torch.device, observer: Observer) -> None:
        self._work(ranks, device, observer, *self._arguments)


def _enter(fabric: Any, senders: Sequence[Connection], call: _Call) -> None:
    """What each process runs."""
    sender = Sender(senders[fabric.global_rank])
    try:
        ranks = Ranks(fabric.global_rank, fabric.world_size)
        call(ranks, fabric.device, sender if ranks.leads else Observer())
    except SplitveilError as error:
        sender.fault(type(error).__name__, str(error))
        raise
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        time.sleep(_PATIENCE_S)
        sender.fault(type(error).__name__, str(error))
        raise
    torch.distributed.destroy_process_group()


def _explain(failure: Any, faults: dict[int, tuple[str, str]], devices: int) -> BaseException:
    """The error of the process that failed first."""
    rank, code = _culprit(failure.error_index, faults), getattr(failure, "exit_code", None)
    which = f"process {rank + 1} of {devices}"
    if code == _INTERRUPTED:
        return KeyboardInterrupt()
    if rank not in faults and code is None:
        return TrainingError(f"{which} failed before its work began: {str(failure).strip().splitlines()[-1]}")
    if rank not in faults:
        signal = getattr(failure, "signal_name", None)
        how = f"was killed ({signal})" if signal else f"ended with exit code {code}"
        return TrainingError(
            f"expected all {devices} processes to train to the end, but {which} {how}: the others were stopped, and "
            "the last checkpoint stands; free some memory if it ran out, guard a script's entry with  "
            'if __name__ == "__main__":  , and run the same again to go on'
        )
    name, text = faults[rank]
    known = getattr(errors, name, None)
    if known is None:
        return TrainingError(
            f"{which} stopped with {name}: {text or 'no message'}; the others were stopped, and the last checkpoint "
            "stands: run the same again to go on"
        )
    error: SplitveilError = known.__new__(known)  # some build their message from other arguments
    Exception.__init__(error, text)
    return error


def _culprit(rank: int, faults: dict[int, tuple[str, str]]) -> int:
    """Who failed first: one that only lost the connection to another is not to blame where another said why."""
    causes = [other for other, (_, text) in faults.items() if not any(sign in text for sign in _LOST)]
    return causes[0] if rank in faults and rank not in causes and causes else rank


def _stop(children: Any) -> None:
    """End processes that are still there."""
    for child in list(children):
        child.terminate()
        child.join(5)
        if child.is_alive():
            child.kill()
            child.join()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
