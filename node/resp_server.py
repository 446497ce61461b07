"""Commands on the server, its data as a whole, and the cluster."""

from __future__ import annotations

import asyncio
import os
import platform
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Final, NamedTuple

from engines.read_requests import WALK_ITEMS_MAX
from node.clock import Clock
from node.node_info import version
from node.reads import LINEARIZABLE, STALE
from node.replica import SYSTEM_GROUP
from node.resp_actions import CommandError, integer
from node.resp_cluster import (
    Overview,
    Picture,
    Pictures,
    describe_nodes,
    describe_shards,
    describe_slots,
    describe_state,
    redis_id,
)
from node.resp_commands import COMMANDS
from node.resp_connection import Connection
from node.resp_controls import CONNECTION_COMMANDS, REDIS_VERSION, Spec, text
from node.resp_limits import RespLimits
from node.resp_lookups import WayTo
from node.resp_names import slot_of
from node.resp_reply import Reply
from node.resp_scan import STEP_RECORDS_MAX, Cursors, Names, Place, names_of, pattern, walk
from node.resp_steps import Alone, Step
from node.service import Service
from node.views import NodeInfo, StatusView

SCAN_COUNT: Final = 10  # Redis's default


@dataclass(slots=True)
class DoorFigures:
    """What the door counts, for INFO. `commands`: by name, those that this node knows."""

    connections: int = 0
    connections_total: int = 0
    connections_refused: int = 0
    commands: Counter[str] = field(default_factory=Counter)


class _Held(NamedTuple):
    """What this node holds of the data."""

    replicas: int
    led: int
    keys: int | None
    commit_index: int
    applied_index: int


class ServerCommands:
    """What they need of the node. Loop thread only."""

    def __init__(
        self,
        info: NodeInfo,
        partitions: int,
        overview: Overview,
        service: Service,
        way_to: WayTo,
        limits: RespLimits,
        clock: Clock,
        figures: DoorFigures,
    ) -> None:
        """`figures`: of the door, for INFO; read each time."""
        self._info = info
        self._partitions = partitions
        self._overview = overview
        self._pictures = Pictures(info, partitions, overview, clock)
        self._offload = service.offload
        self._way_to = way_to
        self._limits = limits
        self._clock = clock
        self._figures = figures
        self._cursors = Cursors(limits.scan_cursors_max, Random(clock.random().getrandbits(64)))

    def specs(self) -> dict[str, Spec]:
        return {
            **CONNECTION_COMMANDS,
            "cluster": Spec(self._cluster, -2, ()),
            "command": Spec(self._command, -1, ("loading",)),
            "config": Spec(self._config, -2, ("admin",)),
            "dbsize": Spec(self._dbsize, 1, ("readonly",)),
            "info": Spec(self._server_info, -1, ("loading",)),
            "scan": Spec(self._scan, -2, ("readonly",)),
            "time": Spec(self._time, 1),
        }

    # --- Data ----------------------------------------------------------------------

    def _scan(self, connection: Connection, words: list[bytes]) -> Step:
        number = integer(words[1])
        first = Place(connection.namespace, self._data_groups()[0])
        place = self._cursors.get(number) if number else first
        if place is None or place.namespace != connection.namespace:
            raise CommandError("this cursor is not known here any more: begin again with 0")
        glob, count, strings = None, SCAN_COUNT, True
        options = iter(words[2:])
        for word in options:
            option, value = word.upper(), next(options, None)
            if value is None:
                raise CommandError("syntax error")
            if option == b"MATCH":
                glob = pattern(value)
            elif option == b"COUNT":
                count = integer(value)
            elif option == b"TYPE":
                strings = value.lower() == b"string"
            else:
                raise CommandError("syntax error")
        if count < 1:
            raise CommandError("syntax error")
        begin = place

        async def run() -> Reply:
            found = await self._names(
                connection, begin, min(count, STEP_RECORDS_MAX), self._deadline()
            )
            names = [each for each in found.names if glob is None or glob.fullmatch(each)]
            following = found.place
            if following is None and begin.group != self._data_groups()[-1]:
                following = Place(begin.namespace, begin.group + 1)
            cursor = 0 if following is None else self._cursors.put(following)
            return [str(cursor), names if strings else []]

        return Alone(run)

    def _dbsize(self, connection: Connection, words: list[bytes]) -> Step:
        where = connection.namespace

        async def run() -> Reply:
            deadline = self._deadline()
            counts = (
                self._count(connection, Place(where, group), deadline)
                for group in self._data_groups()
            )
            return sum(await asyncio.gather(*counts))

        return Alone(run)

    async def _count(self, connection: Connection, place: Place, deadline: float) -> int:
        """The names of one group."""
        total = 0
        following: Place | None = place
        while following is not None:
            found = await self._names(connection, following, WALK_ITEMS_MAX, deadline)
            total += len(found.names)
            following = found.place
        return total

    async def _names(
        self, connection: Connection, place: Place, count: int, deadline: float
    ) -> Names:
        options = STALE if connection.stale else LINEARIZABLE
        page, _ = await self._way_to(place.group).read(walk(place, count), options, deadline)
        now_ms = self._clock.now_ms()
        return await self._offload(lambda: names_of(page, place, now_ms), deadline)

    def _data_groups(self) -> range:
        return range(1, self._partitions + 1) if self._partitions else range(1)

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._limits.command_timeout_ms / 1000

    # --- Server --------------------------------------------------------------------

    def _time(self, connection: Connection, words: list[bytes]) -> Step:
        seconds, rest = divmod(self._clock.now_ms(), 1000)
        return [str(seconds), str(rest * 1000)]

    def _config(self, connection: Connection, words: list[bytes]) -> Step:
        if words[1].upper() == b"GET":
            return {}  # Redis's parameters; those of this node are in /v1/status
        raise CommandError("settings are in the node's file; CONFIG can only GET")

    def _server_info(self, connection: Connection, words: list[bytes]) -> Step:
        async def run() -> Reply:
            return self._info_text(words)

        return Alone(run)  # so it shows what the commands before it did

    def _info_text(self, words: list[bytes]) -> str:
        wanted = {text(word).lower() for word in words[1:]}
        everything = not wanted or bool(wanted & {"all", "default", "everything"})
        lines = []
        for section, figures in self._sections().items():
            if everything or section.lower() in wanted:
                lines.append(f"# {section}")
                lines += [f"{name}:{is_}" for name, is_ in figures.items() if is_ is not None]
                lines.append("")
        return "\r\n".join(lines) + "\r\n" if lines else ""

    def _sections(self) -> dict[str, dict[str, object]]:
        """A figure that is not known is None, and not shown."""
        status, figures = self._info.local_status(), self._figures
        held = self._held(status)
        return {
            "Server": {
                "redis_version": REDIS_VERSION,
                "redis_mode": "cluster",
                "hivemem_version": version(),
                "os": platform.system(),
                "process_id": os.getpid(),
                "run_id": redis_id(status.id),
                "uptime_in_seconds": int(status.uptime_seconds),
            },
            "Clients": {"connected_clients": figures.connections},
            "Memory": {"used_memory_rss": status.memory.rss_bytes},
            "Stats": {
                "total_connections_received": figures.connections_total,
                "rejected_connections": figures.connections_refused,
                "total_commands_processed": figures.commands.total(),
                "hivemem_keys": held.keys,  # of all namespaces, on this node
            },
            "Replication": {
                "role": "master" if held.led else "slave",
                "master_repl_offset": held.commit_index,
                "slave_repl_offset": held.applied_index,
            },
            "Cluster": {
                "cluster_enabled": 1,
                "hivemem_partitions": self._partitions or None,
                "hivemem_partitions_held": held.replicas if self._partitions else None,
                "hivemem_partitions_led": held.led if self._partitions else None,
            },
            "Commandstats": {
                f"cmdstat_{name}": f"calls={calls}" for name, calls in figures.commands.items()
            },
        }

    def _held(self, status: StatusView) -> _Held:
        """Of several groups the sums: what is behind of them is behind of the whole."""
        if not self._partitions:
            led = int(status.role == "leader")
            return _Held(1, led, status.keys, status.commit_index, status.applied_index)
        # The system group's records are nobody's keys.
        data = [each for each in self._overview.own() if each.group != SYSTEM_GROUP]
        keys = [each.keys for each in data]  # None: its state is damaged, and being rebuilt
        return _Held(
            len(data),
            sum(each.role == "leader" for each in data),
            None if None in keys else sum(each or 0 for each in keys),
            sum(each.commit_index for each in data),
            sum(each.applied_index for each in data),
        )

    # --- COMMAND -------------------------------------------------------------------

    def _command(self, connection: Connection, words: list[bytes]) -> Step:
        about = self._described_commands()
        match words[1].upper() if len(words) > 1 else b"":
            case b"":
                return list(about.values())
            case b"COUNT":
                return len(about)
            case b"LIST":
                return list(about)
            case b"INFO":
                names = [text(word).lower() for word in words[2:]] or list(about)
                return [about.get(name) for name in names]
            case b"DOCS":
                return {}
            case _:
                raise CommandError(f"unknown subcommand '{text(words[1])}' of COMMAND")

    def _described_commands(self) -> dict[str, Reply]:
        """name → [name, arity, flags, first key, last key, step, …] as COMMAND gives it."""
        found: dict[str, Reply] = {
            name: [name, spec.arity, list(spec.flags), 1, spec.last_key, spec.step, [], [], [], []]
            for name, spec in COMMANDS.items()
        }
        for name, control in self.specs().items():
            keys = (control.first_key, control.last_key, control.step)
            found[name] = [name, control.arity, list(control.flags), *keys, [], [], [], []]
        return found

    # --- CLUSTER -------------------------------------------------------------------

    def _cluster(self, connection: Connection, words: list[bytes]) -> Step:
        match words[1].upper():
            case b"KEYSLOT" if len(words) == 3:
                return slot_of(words[2])
            case b"MYID":
                return redis_id(self._info.local_status().id)
            case b"SLOTS":
                return self._described(describe_slots)
            case b"SHARDS":
                return self._described(describe_shards)
            case b"NODES":
                own = self._info.local_status().id
                return self._described(lambda picture: describe_nodes(picture, own))
            case b"INFO":
                return self._described(describe_state)
            case _:
                raise CommandError(f"unknown subcommand '{text(words[1])}' of CLUSTER")

    def _described(self, describe: Callable[[Picture], Reply]) -> Alone:
        async def run() -> Reply:
            return describe(await self._pictures.get())

        return Alone(run)
