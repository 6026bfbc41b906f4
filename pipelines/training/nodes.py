"""Several machines train one model: each runs the stage's plain command, and the environment says where they meet.

HANDNET_NODES: how many there are. HANDNET_NODE_RANK: which one this is, from 0. HANDNET_RENDEZVOUS: HOST:PORT of node 0.
"""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass

from pipelines.training.settings import whole_number

NODES_VARIABLE, RANK_VARIABLE, RENDEZVOUS_VARIABLE = "HANDNET_NODES", "HANDNET_NODE_RANK", "HANDNET_RENDEZVOUS"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):(\d{1,5})")
LOOK_EVERY_S = 1.0
CONNECT_S = 5.0


@dataclass(frozen=True)
class Nodes:
    """The machines of a run; `address` is where node 0 listens, and empty where there is only one."""

    count: int = 1
    rank: int = 0
    address: str = ""


def nodes() -> Nodes:
    """What the environment says. ValueError naming the variable that is missing or wrong."""
    count = whole_number(NODES_VARIABLE, os.environ.get(NODES_VARIABLE) or "1", 1)
    if count == 1:
        return Nodes()
    for name in (RANK_VARIABLE, RENDEZVOUS_VARIABLE):
        if not os.environ.get(name):
            raise ValueError(f"{name}: expected beside {NODES_VARIABLE}={count}, got nothing")
    rank = whole_number(RANK_VARIABLE, os.environ[RANK_VARIABLE], 0)
    if rank >= count:
        raise ValueError(f"{RANK_VARIABLE}: expected a number below {NODES_VARIABLE}={count}, got {rank}")
    address = os.environ[RENDEZVOUS_VARIABLE]
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError(f"{RENDEZVOUS_VARIABLE}: expected HOST:PORT of node 0, got {address!r}")
    return Nodes(count, rank, address)


def wait_for_first(here: Nodes, patience_s: float) -> None:
    """Return once node 0 listens, which it does when its stage begins. TimeoutError after `patience_s` seconds.

    Signals are answered meanwhile: a node that waits in vain is simply stopped.
    """
    host, _, port = here.address.rpartition(":")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{RENDEZVOUS_VARIABLE}: node 0 does not listen at {here.address}: {error}") from None
        time.sleep(LOOK_EVERY_S)
