"""Commands on the server, its data as a whole, and the cluster."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Final

from cluster.slots import SLOTS
from engines.read_requests import WALK_ITEMS_MAX
from node.clock import Clock
from node.node_info import version
from node.reads import LINEARIZABLE, Consistency, ReadOptions
from node.resp_actions import CommandError, integer
from node.resp_commands import COMMANDS
from node.resp_connection import Connection
from node.resp_controls import CONNECTION_COMMANDS, REDIS_VERSION, Spec, text
from node.resp_limits import RespLimits
from node.resp_names import slot_of
from node.resp_reply import Reply
from node.resp_scan import STEP_RECORDS_MAX, Cursors, Names, Place, names_of, pattern, walk
from node.resp_steps import Alone, Step
from node.service import Router, Service
from node.views import ClusterView, MemberView, NodeInfo

ASK_SECONDS: Final = 1.0  # for other nodes, when the cluster is described
SCAN_COUNT: Final = 10  # Redis's default
_STALE: Final = ReadOptions(Consistency.STALE)


@dataclass(slots=True)
class DoorFigures:
    """What the door counts, for INFO. `commands`: by name, those that this node knows."""

    connections: int = 0
    connections_total: int = 0
    connections_refused: int = 0
    commands: Counter[str] = field(default_factory=Counter)


class ServerCommands:
    """What they need of the node. Loop thread only."""

    def __init__(
        self,
        info: NodeInfo,
        service: Service,
        router: Router,
        limits: RespLimits,
        clock: Clock,
        figures: DoorFigures,
    ) -> None:
        """`figures`: of the door, for INFO; read each time."""
        self._info = info
        self._service = service
        self._router = router
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
            "info": Spec(self._info_text, -1, ("loading",)),
            "scan": Spec(self._scan, -2, ("readonly",)),
            "time": Spec(self._time, 1),
        }

    # --- Data ----------------------------------------------------------------------

    def _scan(self, connection: Connection, words: list[bytes]) -> Step:
        number = integer(words[1])
        place = self._cursors.get(number)
        if number != 0 and (place is None or place.namespace != connection.namespace):
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
        where = connection.namespace

        async def run() -> Reply:
            found = await self._names(
                connection, where, place, min(count, STEP_RECORDS_MAX), self._deadline()
            )
            names = [each for each in found.names if glob is None or glob.fullmatch(each)]
            cursor = 0 if found.place is None else self._cursors.put(found.place)
            return [str(cursor), names if strings else []]

        return Alone(run)

    def _dbsize(self, connection: Connection, words: list[bytes]) -> Step:
        where = connection.namespace

        async def run() -> Reply:
            deadline = self._deadline()
            total = 0
            place: Place | None = None
            while True:
                found = await self._names(connection, where, place, WALK_ITEMS_MAX, deadline)
                total += len(found.names)
                place = found.place
                if place is None:
                    return total

        return Alone(run)

    async def _names(
        self,
        connection: Connection,
        namespace: str,
        place: Place | None,
        count: int,
        deadline: float,
    ) -> Names:
        options = _STALE if connection.stale else LINEARIZABLE
        request = walk(namespace, place, count)
        page, _ = await self._router.read(request, options, deadline)
        now_ms = self._clock.now_ms()
        return await self._service.offload(lambda: names_of(page, namespace, now_ms), deadline)

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

    def _info_text(self, connection: Connection, words: list[bytes]) -> Step:
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
        return {
            "Server": {
                "redis_version": REDIS_VERSION,
                "redis_mode": "cluster",
                "hivemem_version": version(),
                "os": platform.system(),
                "process_id": os.getpid(),
                "run_id": status.id.replace("-", "").ljust(40, "0"),
                "uptime_in_seconds": int(status.uptime_seconds),
            },
            "Clients": {"connected_clients": figures.connections},
            "Memory": {"used_memory_rss": status.memory.rss_bytes},
            "Stats": {
                "total_connections_received": figures.connections_total,
                "rejected_connections": figures.connections_refused,
                "total_commands_processed": figures.commands.total(),
                "hivemem_keys": status.keys,  # of all namespaces
            },
            "Replication": {
                "role": "master" if status.role == "leader" else "slave",
                "master_repl_offset": status.commit_index,
                "slave_repl_offset": status.applied_index,
            },
            "Cluster": {"cluster_enabled": 1},
            "Commandstats": {
                f"cmdstat_{name}": f"calls={calls}" for name, calls in figures.commands.items()
            },
        }

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
                return _node_id(self._info.local_status().id)
            case b"SLOTS":
                return self._described(_slots)
            case b"SHARDS":
                return self._described(_shards)
            case b"NODES":
                own = self._info.local_status().id
                return self._described(lambda view: _nodes(view, own))
            case b"INFO":
                return self._described(_cluster_info)
            case _:
                raise CommandError(f"unknown subcommand '{text(words[1])}' of CLUSTER")

    def _described(self, describe: Callable[[ClusterView], Reply]) -> Alone:
        async def run() -> Reply:
            return describe(await self._info.cluster_status(ASK_SECONDS))

        return Alone(run)


def _node_id(node: str) -> str:
    """Redis's node ids have 40 hexadecimal digits."""
    return node.replace("-", "").ljust(40, "0")


def _addressed(view: ClusterView) -> list[tuple[MemberView, str, int]]:
    """Members that say where their Redis door is, the leader first."""
    found = []
    for member in view.nodes:
        host, colon, port = (member.redis or "").rpartition(":")
        if colon:
            found.append((member, host.strip("[]"), int(port)))
    return sorted(found, key=lambda each: each[0].id != view.leader)


def _slots(view: ClusterView) -> Reply:
    nodes = _addressed(view)
    if not nodes or nodes[0][0].id != view.leader:
        raise CommandError("no leader is known", "CLUSTERDOWN")
    return [[0, SLOTS - 1, *([host, port, _node_id(m.id)] for m, host, port in nodes)]]


def _shards(view: ClusterView) -> Reply:
    nodes: list[Reply] = [
        {
            "id": _node_id(member.id),
            "port": port,
            "ip": host,
            "endpoint": host,
            "role": "master" if member.id == view.leader else "replica",
            "replication-offset": member.applied_index,
            "health": "online" if member.healthy else "failed",
        }
        for member, host, port in _addressed(view)
    ]
    return [{"slots": [0, SLOTS - 1], "nodes": nodes}]


def _nodes(view: ClusterView, own: str) -> Reply:
    lines = []
    for member, host, port in _addressed(view):
        leads = member.id == view.leader
        flags = ("myself," if member.id == own else "") + ("master" if leads else "slave")
        leader = "-" if leads or view.leader is None else _node_id(view.leader)
        state = "connected" if member.healthy else "disconnected"
        slots = f" 0-{SLOTS - 1}" if leads else ""
        lines.append(
            f"{_node_id(member.id)} {host}:{port}@{port} {flags} {leader} 0 0 {view.term} "
            f"{state}{slots}\n"
        )
    return "".join(lines)


def _cluster_info(view: ClusterView) -> Reply:
    led = view.leader is not None
    figures = {
        "cluster_state": "ok" if led else "fail",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": SLOTS if led else 0,
        "cluster_slots_fail": 0 if led else SLOTS,
        "cluster_known_nodes": len(view.nodes),
        "cluster_size": 1,
        "cluster_current_epoch": view.term,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in figures.items())
