"""The ports of a local cluster's nodes: which go together, which are free, which to take."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Sequence, Set
from typing import NamedTuple

from node.clock import Clock
from node.config_schema import PEER_PORT_OFFSET, REDIS_PORT_OFFSET
from node.errors import LaunchError

HOST = "127.0.0.1"
PORT_MAX = 65_535
# Ports for when the usual ones are taken: above those of registered services, below the
# range from which Linux and macOS draw ports of outgoing connections (32768 and 49152 up).
SPARE_PORTS = range(20_000, 32_000)


class Ports(NamedTuple):
    """One node's doors; 0: none was chosen yet."""

    http: int
    peer: int
    redis: int


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    if not 1 <= port <= PORT_MAX:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a former run that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def row(base: int, count: int) -> list[Ports]:
    """The ports of `count` nodes in a row: HTTP from `base`, the others a fixed way above.

    Raises LaunchError where they would not fit.
    """
    if not 1 <= base <= PORT_MAX + 1 - REDIS_PORT_OFFSET - count:
        raise LaunchError(f"--port {base}: the ports from there do not fit below 65536")
    return [
        Ports(http, http + PEER_PORT_OFFSET, http + REDIS_PORT_OFFSET)
        for http in range(base, base + count)
    ]


def following(others: Sequence[Ports], clock: Clock, *, spare: bool) -> Ports:
    """Ports for one more node: next to the others' where they are free, else spare ones.

    `spare`: spare ones in any case. Raises LaunchError.
    """
    taken = set(itertools.chain.from_iterable(others))
    found = Ports(*(max(ports) + 1 for ports in zip(*others, strict=True)))
    if spare or not taken.isdisjoint(found) or not all(map(port_is_free, found)):
        (found,) = spare_ports(1, clock, taken)
    return found


def kept(planned: Sequence[Ports], clock: Clock) -> list[Ports] | None:
    """These ports, if they are free; None if one for HTTP or peers is not.

    A Redis port that is taken is replaced alone: other addresses do not move for its sake.
    """
    if not all(port_is_free(ports.http) and port_is_free(ports.peer) for ports in planned):
        return None
    taken = set(itertools.chain.from_iterable(planned))
    lost = [ports for ports in planned if not port_is_free(ports.redis)]
    others = dict(zip(lost, _spare(len(lost), clock, taken), strict=True))
    return [ports._replace(redis=others.get(ports, ports.redis)) for ports in planned]


def spare_ports(count: int, clock: Clock, taken: Set[int] = frozenset()) -> list[Ports]:
    """Free ports for `count` nodes, none of them in `taken`. Raises LaunchError."""
    found = _spare(len(Ports._fields) * count, clock, taken)
    return [Ports(*found[i::count]) for i in range(count)]


def _spare(count: int, clock: Clock, taken: Set[int]) -> list[int]:
    # From a random place, so that clusters starting at the same moment seldom meet.
    start = clock.random().randrange(len(SPARE_PORTS))
    places = itertools.chain(SPARE_PORTS[start:], SPARE_PORTS[:start])
    free = (port for port in places if port not in taken and port_is_free(port))
    found = list(itertools.islice(free, count))
    if len(found) < count:
        raise LaunchError(f"fewer than {count} free ports on {HOST}")
    return found


def completed(planned: Sequence[Ports]) -> list[Ports]:
    """The same ports with a Redis port for every node that has none.

    Plans were written before nodes had that door. Nothing is probed: reading a plan twice
    gives the same answer, which holds once the plan is written again.
    """
    taken = set(itertools.chain.from_iterable(planned))
    whole: list[Ports] = []
    for ports in planned:
        if not ports.redis:
            ports = ports._replace(redis=_derived(ports.http, taken))
            taken.add(ports.redis)
        whole.append(ports)
    return whole


def _derived(http: int, taken: Set[int]) -> int:
    wanted = itertools.chain((http + REDIS_PORT_OFFSET,), SPARE_PORTS)
    return next(port for port in wanted if port <= PORT_MAX and port not in taken)
