"""What must hold between settings: a pure walk that yields every violation.

Only `_check_files` touches the disk, and it only looks.
"""

from __future__ import annotations

import ipaddress
import os
import re
import uuid
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cluster.group_limits import GroupLimits
from node import private_file
from node.config_schema import (
    COMMAND_OVERHEAD_BYTES,
    MEMBERS_MAX,
    PARTITIONS_MAX,
    REPLICATION_FACTOR_MAX,
    NodeConfig,
    RedisSection,
    settings,
)

NODE_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME = re.compile(NODE_NAME_PATTERN)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}=[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ZERO_IS_OFF = (
    "storage.scrub_bytes_per_second_max", "storage.digest_interval_seconds",
    "optimizer.patterns_max", "optimizer.cache_bytes_max",
)  # fmt: skip
_LEVELS = ("debug", "info", "warning", "error")


class Finding(NamedTuple):
    """One violation: the fields it is about ("section.name"), and a sentence that names them."""

    fields: tuple[str, ...]
    message: str


def check(config: NodeConfig) -> Iterator[Finding]:
    """Yield every violation in `config`; nothing when it holds."""
    for checks in (
        _check_ranges,
        _check_identity,
        _check_members,
        _check_addresses,
        _check_doors,
        _check_partitions,
        _check_timing,
        _check_sizes,
        _check_files,
    ):
        yield from checks(config)


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine. A name other than localhost is not trusted to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_address(text: str) -> tuple[str, int]:
    """Split host:port or [v6]:port. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if parts.hostname is None or parts.port is None or parts.netloc != text:
        raise ValueError(f"{text!r} is not host:port")
    if parts.username is not None or not 1 <= parts.port <= 65535:
        raise ValueError(f"{text!r} is not host:port with a port from 1 to 65535")
    return parts.hostname, parts.port


def _check_ranges(config: NodeConfig) -> Iterator[Finding]:
    for setting in settings():
        value = getattr(getattr(config, setting.section), setting.name)
        key = f"{setting.section}.{setting.name}"
        if type(value) is not int or setting.section == "limits" or key == "cluster.partitions":
            continue
        if setting.note.unit == "TCP port" and not 1 <= value <= 65535:
            yield Finding((key,), f"{key}: {value} is not a port from 1 to 65535")
        elif not (lowest := 0 if key in _ZERO_IS_OFF else 1) <= value < 1 << 63:
            yield Finding((key,), f"{key}: {value} must be at least {lowest} {setting.note.unit}")
    if config.optimizer.recall_percent_min > 100:
        found = config.optimizer.recall_percent_min
        yield Finding(
            ("optimizer.recall_percent_min",),
            f"optimizer.recall_percent_min: {found} must be at most 100 %",
        )
    for message in config.limits.problems():  # each starts with the limit's name
        yield Finding((f"limits.{message.split()[0]}",), f"limits.{message}")
    if config.node.log_level not in _LEVELS:
        yield Finding(
            ("node.log_level",),
            f"node.log_level: {config.node.log_level!r} is none of {', '.join(_LEVELS)}",
        )


def _check_identity(config: NodeConfig) -> Iterator[Finding]:
    for key, text in (("node.id", config.node.id), ("cluster.id", config.cluster.id)):
        if not _is_uuid(text):
            yield Finding((key,), f"{key}: {text!r} is not a UUID in lower case with hyphens")
    if not _NAME.fullmatch(config.node.name):
        yield Finding(("node.name",), f"node.name: {config.node.name!r} {_NAME_RULE}")


def member_problem(field: str, text: str) -> str | None:
    """What is wrong with a member's id, name, peer or http; None if nothing is."""
    if field == "id":
        return None if _is_uuid(text) else "must be a UUID in lower case with hyphens"
    if field == "name":
        return None if _NAME.fullmatch(text) else _NAME_RULE
    if field == "http":
        return None if _is_base_url(text) else "must be like http://host:port"
    try:
        split_address(text)
    except ValueError:
        return "must be host:port"
    return None


_NAME_RULE = "must be 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"


def _check_members(config: NodeConfig) -> Iterator[Finding]:
    key = "cluster.members"
    members = config.cluster.members
    count_max = MEMBERS_MAX + config.cluster.join  # a full cluster, and the node that joins it
    if not 1 <= len(members) <= count_max:
        yield Finding((key,), f"{key}: {len(members)} members; must be 1 to {count_max}")
    for attribute in ("id", "name", "peer", "http"):
        values = [getattr(member, attribute) for member in members]
        for twice in sorted({value for value in values if values.count(value) > 1}):
            yield Finding((key,), f"{key}: two members have the {attribute} {twice!r}")
    for member in members:
        if not _is_uuid(member.id):
            yield Finding((key,), f"{key}: {member.id!r} is not a UUID in lower case with hyphens")
        if not _NAME.fullmatch(member.name):
            yield Finding((key,), f"{key}: the name {member.name!r} {_NAME_RULE}")
    if config.cluster.join and len(members) == 1:
        yield Finding((key, "cluster.join"), f"{key}: must also name a node of the cluster to join")
    own = [member for member in members if member.id == config.node.id]
    if members and not own:
        yield Finding(
            (key, "node.id"), f"{key}: node.id {config.node.id!r} is not among the members"
        )
    for member in own:
        if member.name != config.node.name:
            yield Finding(
                (key, "node.name"),
                f"{key}: this node is called {member.name!r} there, "
                f"but node.name is {config.node.name!r}",
            )


def labels_of(text: str | None) -> tuple[str, ...]:
    """The labels in `node.labels`, in order. Raises ValueError."""
    labels = tuple(each.strip() for each in text.split(",")) if text and text.strip() else ()
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is not name=value, of A-Z a-z 0-9 . _ -")
    names = [label.partition("=")[0] for label in labels]
    if len(set(names)) < len(names):
        raise ValueError("a name is given twice")
    return tuple(sorted(labels))


def _check_partitions(config: NodeConfig) -> Iterator[Finding]:
    key, count = "cluster.partitions", config.cluster.partitions
    if not 0 <= count <= PARTITIONS_MAX:
        yield Finding((key,), f"{key}: {count} must be 0 to {PARTITIONS_MAX}")
    key, factor = "cluster.replication_factor", config.cluster.replication_factor
    if factor > REPLICATION_FACTOR_MAX:
        yield Finding((key,), f"{key}: {factor} must be 1 to {REPLICATION_FACTOR_MAX}")
    try:
        labels_of(config.node.labels)
    except ValueError as error:
        yield Finding(("node.labels",), f"node.labels: {error}")


def _check_addresses(config: NodeConfig) -> Iterator[Finding]:
    doors = {
        "http": (config.http.host, config.http.port),
        "peer": (config.peer.host, config.peer.port),
    }
    if config.redis.enabled:
        doors["redis"] = (config.redis.host, config.redis.port)
    for section, (host, _) in doors.items():
        if not host or any(character.isspace() for character in host):
            yield Finding((f"{section}.host",), f"{section}.host: must be an address or a name")
    for first, second in combinations(doors, 2):
        if doors[first] == doors[second]:
            yield Finding(
                (f"{first}.port", f"{second}.port"),
                f"{second}.port: {doors[second][1]} is also {first}.port",
            )
    for member in config.cluster.members:
        try:
            split_address(member.peer)
        except ValueError as error:
            yield Finding(
                ("cluster.members",), f"cluster.members: peer of {member.name!r}: {error}"
            )
        if not _is_base_url(member.http):
            yield Finding(
                ("cluster.members",),
                f"cluster.members: http of {member.name!r}: {member.http!r} "
                "is not like http://host:port",
            )


def _check_doors(config: NodeConfig) -> Iterator[Finding]:
    """Nothing listens beyond loopback without authentication and encryption."""
    http, peer = config.http, config.peer
    needs = {
        "auth.tokens_file": config.auth.tokens_file,
        "http.tls_cert": http.tls_cert,
        "http.tls_key": http.tls_key,
    }
    yield from _check_door("http", http.host, needs)
    needs = {
        "peer.tls_cert": peer.tls_cert,
        "peer.tls_key": peer.tls_key,
        "peer.tls_ca": peer.tls_ca,
    }
    yield from _check_door("peer", peer.host, needs)
    given = [value is not None for value in needs.values()]
    if any(given) and not all(given):
        yield Finding(
            tuple(needs), "peer.tls_cert, peer.tls_key and peer.tls_ca: set all three, or none"
        )
    yield from _check_pair("http", http.tls_cert, http.tls_key)
    yield from _check_redis(config)
    scheme = "http" if http.tls_cert is None else "https"
    for member in config.cluster.members:
        if member.id == config.node.id and not member.http.startswith(f"{scheme}://"):
            yield Finding(
                ("cluster.members", "http.tls_cert"),
                f"cluster.members: this node's door speaks {scheme}, "
                f"but its member entry says {member.http!r}",
            )


def _check_redis(config: NodeConfig) -> Iterator[Finding]:
    """As for HTTP. A door that is switched off needs nothing."""
    redis = config.redis
    if not redis.enabled:
        return
    needs = {
        "auth.tokens_file": config.auth.tokens_file,
        "redis.tls_cert": redis.tls_cert,
        "redis.tls_key": redis.tls_key,
    }
    yield from _check_door("redis", redis.host, needs)
    yield from _check_pair("redis", redis.tls_cert, redis.tls_key)


def _check_pair(door: str, cert: Path | None, key: Path | None) -> Iterator[Finding]:
    if (cert is None) != (key is None):
        yield Finding(
            (f"{door}.tls_cert", f"{door}.tls_key"),
            f"{door}.tls_cert and {door}.tls_key: set both, or neither",
        )


def _check_door(door: str, host: str, needs: dict[str, Path | None]) -> Iterator[Finding]:
    missing = [key for key, value in needs.items() if value is None]
    if is_loopback(host) or not host or not missing:
        return
    yield Finding(
        (f"{door}.host", *missing),
        f"{door}.host: {host!r} is reachable from beyond this machine, so "
        f"{', '.join(needs)} must all be set; missing: {', '.join(missing)} "
        "(or use 127.0.0.1)",
    )


def _check_timing(config: NodeConfig) -> Iterator[Finding]:
    raft = config.raft
    if raft.election_min_ms <= 3 * raft.heartbeat_ms:
        yield Finding(
            ("raft.election_min_ms", "raft.heartbeat_ms"),
            f"raft.election_min_ms: {raft.election_min_ms} ms must be more than 3 x "
            f"raft.heartbeat_ms ({raft.heartbeat_ms} ms), so that a late heartbeat "
            "does not start an election",
        )
    if raft.election_max_ms <= raft.election_min_ms:
        yield Finding(
            ("raft.election_max_ms", "raft.election_min_ms"),
            f"raft.election_max_ms: {raft.election_max_ms} ms must be more than "
            f"raft.election_min_ms ({raft.election_min_ms} ms), so that waits differ",
        )


COMMAND_BYTES_MAX = GroupLimits().command_bytes_max


def _check_sizes(config: NodeConfig) -> Iterator[Finding]:
    """Every "at most" must fit into the bound around it: rows of (small, large, spare, why)."""
    spare = COMMAND_OVERHEAD_BYTES + config.limits.key_bytes_max
    rows = (
        ("limits.value_bytes_max", "limits.txn_bytes_max", spare, "a largest put fits a command"),
        ("limits.value_bytes_max", "limits.history_bytes_max", 0, "history holds a value"),
        ("limits.txn_bytes_max", "limits.watch_window_bytes_max", 0, "a watch sees each command"),
        ("limits.txn_bytes_max", "raft.proposals_bytes_max", 0, "a largest command is admitted"),
        ("raft.entry_bytes_max", "raft.proposals_bytes_max", 0, "a full entry is admitted"),
        ("raft.entry_commands_max", "raft.proposals_inflight_max", 0, "a full entry is admitted"),
        ("raft.entry_bytes_max", "storage.segment_bytes", spare, "an entry fits a segment"),
        ("limits.txn_bytes_max", "storage.segment_bytes", spare, "a command fits a segment"),
        ("raft.entry_bytes_max", "storage.log_cache_bytes", 0, "the newest entry stays cached"),
        ("limits.watch_window_bytes_max", "storage.map_bytes", 0, "the watch window fits the map"),
        ("limits.history_bytes_max", "storage.map_bytes", 0, "a key's history fits the map"),
        ("storage.segment_bytes", "storage.log_keep_bytes_max", 0, "whole segments are dropped"),
    )
    figures = config.figures()
    for name in ("limits.txn_bytes_max", "raft.entry_bytes_max"):
        if figures[name][0] > COMMAND_BYTES_MAX:
            yield Finding(
                (name,),
                f"{name}: {figures[name][0]} must be at most {COMMAND_BYTES_MAX}, so that an "
                "entry fits a log record and a frame between nodes",
            )
    for small, large, margin, why in rows:
        needed = figures[small][0] + margin
        if needed > figures[large][0]:
            yield Finding(
                (small, large),
                f"{large}: {figures[large][0]} must be at least {needed}, "
                f"with {small} at {figures[small][0]}, so that {why}",
            )


def _check_files(config: NodeConfig) -> Iterator[Finding]:
    """Secrets exist, are long enough, and are readable by nobody else."""
    yield from _check_private(
        "cluster.secret_file", config.cluster.secret_file, private_file.SECRET_BYTES_MIN
    )
    redis = config.redis if config.redis.enabled else RedisSection()
    for key, path in (
        ("auth.tokens_file", config.auth.tokens_file),
        ("http.tls_key", config.http.tls_key),
        ("redis.tls_key", redis.tls_key),
        ("peer.tls_key", config.peer.tls_key),
    ):
        if path is not None:
            yield from _check_private(key, path, 1)
    for key, path in (
        ("http.tls_cert", config.http.tls_cert),
        ("redis.tls_cert", redis.tls_cert),
        ("peer.tls_cert", config.peer.tls_cert),
        ("peer.tls_ca", config.peer.tls_ca),
    ):
        if path is not None and not os.access(path, os.R_OK):
            yield Finding((key,), f"{key}: {path} cannot be read")


def _check_private(key: str, path: Path, bytes_min: int) -> Iterator[Finding]:
    reason = private_file.problem(path, bytes_min)
    if reason is not None:
        yield Finding((key,), f"{key}: {reason}")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username) and parts.path in ("", "/")
    return parts.scheme in ("http", "https") and bool(host) and port is not None and plain
