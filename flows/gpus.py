"""GPU slots: a strict global concurrency limit counts the devices of a worker, locks on its machine say which ones a stage has.

A machine without a GPU counts as one device, which stages take that need all of them: they come one after another there.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

LOCKS_VARIABLE = "HANDNET_GPU_LOCKS"  # the folder of the locks, the same for all who share the devices: shells, services, users
LOCKS = Path("/tmp/handnet-gpus")  # not tempfile's, which each of them may have of its own
SLOTS_VARIABLE = "HANDNET_GPU_SLOTS"  # the limit's name; by default that of this machine
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
LOOK_EVERY_S = 0.5
# without the driver's device (the second is that of Windows' Linux) there is no GPU, and torch need not be asked
DRIVERS = ("/dev/nvidiactl", "/dev/dxg")

Need = int | Literal["all"]


def slots_name() -> str:
    """The concurrency limit that this worker's stages take their GPUs from."""
    return os.environ.get(SLOTS_VARIABLE) or f"gpus-{socket.gethostname()}"


def devices() -> list[str]:
    """The ids of the GPUs that processes started here may use; none without CUDA."""
    if not any(Path(name).exists() for name in DRIVERS):
        return []
    import torch  # takes seconds, and only stages that train or predict ask for it

    count = torch.cuda.device_count()
    visible = [name.strip() for name in os.environ.get(VISIBLE_VARIABLE, "").split(",") if name.strip()]
    return (visible or [str(number) for number in range(count)])[:count]


def num_slots() -> int:
    """How many slots this machine has."""
    return max(1, len(devices()))


def num_needed(need: Need, available: int) -> int:
    """The slots that a stage takes of `available` ones. ValueError for a need that cannot be met, or is none."""
    if need == "all":
        return available
    if isinstance(need, bool) or not isinstance(need, int) or need < 0:
        raise ValueError(f"dvc.yaml: meta.gpus: expected a number from 0 on, or all, got {need!r}")
    if need > available:
        raise ValueError(f"dvc.yaml: meta.gpus: expected at most the {available} device(s) of this machine, got {need}")
    return need


@contextmanager
def reserved(need: Need) -> Iterator[dict[str, str]]:
    """Hold a stage's GPUs; gives the environment that shows its process no others.

    The limit `slots_name()` must exist (`python -m flows.deploy` makes it): ConcurrencySlotAcquisitionError otherwise. ValueError if it
    has fewer slots than the stage needs, which it would wait for in vain.
    """
    if need == 0:
        yield {}
        return
    from prefect.concurrency.sync import concurrency

    here = devices()
    if not here and need != "all":
        yield {}  # what runs on any processor waits for none; only stages that take the whole machine come one after another
        return
    count = num_needed(need, max(1, len(here)))
    _check(count)
    # a server that is away for a while ends no training: on this machine the locks keep others off
    with concurrency(slots_name(), occupy=count, strict=True, raise_on_lease_renewal_failure=False):
        if not here:
            yield {}
            return
        with claimed(here, count) as ids:
            yield {VISIBLE_VARIABLE: ",".join(ids)}


def _check(count: int) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        limit = client.read_global_concurrency_limit_by_name(slots_name()).limit
        if limit < count:
            raise ValueError(f"GPU slots {slots_name()}: the stage needs {count}, got {limit}; `python -m flows.deploy` makes them anew")


@contextmanager
def claimed(ids: list[str], count: int) -> Iterator[list[str]]:
    """Hold `count` of the devices `ids` of this machine by locks that end with their process; waits until so many are free."""
    folder = _locks_folder()
    while True:
        with ExitStack() as locks:
            held: list[str] = []
            for name in ids:
                if len(held) < count and _lock(locks, folder / f"{name.replace('/', '_')}.lock"):
                    held.append(name)
            if len(held) == count:
                yield held
                return
        time.sleep(LOOK_EVERY_S)


def _locks_folder() -> Path:
    """Where everybody may make locks and nobody remove another's. ValueError where that cannot be."""
    folder = Path(os.environ.get(LOCKS_VARIABLE) or LOCKS)
    try:
        if not folder.is_dir():
            own = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            own.chmod(0o1777)
            try:
                own.rename(folder)  # it is never there with other rights
            except OSError:
                own.rmdir()
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise ValueError(f"{LOCKS_VARIABLE}: expected a folder, or a place for one, got {folder}: {error.strerror}") from None
    return folder


def _lock(locks: ExitStack, path: Path) -> bool:
    """Whether the file was free; it is this process's until `locks` closes, or the process ends. ValueError if it cannot be locked."""
    try:
        if not path.exists():
            _make_readable(path)
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)  # to read: the file may be another user's
    except OSError as error:
        wanted = f"expected a lock file that this user may make and read ({LOCKS_VARIABLE})"
        raise ValueError(f"{path}: {wanted}, got: {error.strerror}") from None
    locks.callback(os.close, number)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_readable(path: Path) -> None:
    number, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        os.fchmod(number, 0o644)
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.close(number)
        os.unlink(name)
