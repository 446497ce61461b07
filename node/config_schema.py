"""Every setting of a node: its type, unit, default and reason.

Two trees share the sections. Settings marked `shared` must be equal on all nodes of a
cluster (`NodeConfig.replicated_digest` is compared when peers connect); the others are
local to one node. Loading and checking live in node/config.py; docs/configuration.md
shows the same table to operators, and a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path

from engines.interfaces import Limits

MIB = 1 << 20
GIB = 1 << 30

PARTITIONS_MAX = 256  # of one cluster; each costs every replica heartbeats, files and memory
REPLICATION_FACTOR_DEFAULT = 3
REPLICATION_FACTOR_MAX = 7  # replicas of one partition
MEMBERS_MAX = 9  # first voters of one cluster; each write waits for a majority of them
COMMAND_OVERHEAD_BYTES = 64 * 1024  # bytes; names, framing and checksums around a value
PEER_PORT_OFFSET = 10  # ports between a local node's HTTP door and its peer door
REDIS_PORT_OFFSET = 20  # ports between a local node's HTTP door and its Redis door
HTTP_PORT = 7411  # TCP port; the first HTTP door of a local cluster
PEER_PORT = HTTP_PORT + PEER_PORT_OFFSET
REDIS_PORT = HTTP_PORT + REDIS_PORT_OFFSET


@dataclass(frozen=True, slots=True)
class Note:
    """What a setting means: unit ("" for none), reason, and whether all nodes must agree."""

    unit: str
    reason: str
    shared: bool = False


def _note(unit: str, reason: str, *, shared: bool = False) -> dict[str, Note]:
    return {"note": Note(unit, reason, shared)}


@dataclass(frozen=True, slots=True)
class Member:
    """One node as the file names it. `peer` is host:port; `http` is a URL without a path."""

    id: str
    name: str
    peer: str
    http: str


@dataclass(frozen=True, slots=True)
class NodeSection:
    id: str = field(metadata=_note("UUID", "Names this node for ever; addresses may change."))
    name: str = field(metadata=_note("", "What people call the node in tables and logs."))
    data_dir: Path = field(
        metadata=_note("path", "Holds identity, log and state; one node per folder.")
    )
    log_file: Path | None = field(
        default=None,
        metadata=_note("path", "Where log lines go; absent: standard error, for a supervisor."),
    )
    log_bytes_max: int = field(
        default=16 * MIB,
        metadata=_note("bytes", "Rotate `log_file` here; one older file is kept."),
    )
    labels: str | None = field(
        default=None,
        metadata=_note(
            "name=value, …",
            "Where the node stands (rack=a, zone=b): a partition's replicas are spread over them.",
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_note("", "One of debug, info, warning, error; debug logs every request."),
    )


@dataclass(frozen=True, slots=True)
class HttpSection:
    host: str = field(
        default="127.0.0.1",
        metadata=_note("address", "Loopback, because nothing else is safe without tokens and TLS."),
    )
    port: int = field(
        default=HTTP_PORT, metadata=_note("TCP port", "An unassigned port; nodes count up from it.")
    )
    tls_cert: Path | None = field(
        default=None, metadata=_note("path", "PEM chain; with `tls_key` the door speaks HTTPS.")
    )
    tls_key: Path | None = field(
        default=None, metadata=_note("path", "PEM private key; others must not be able to read it.")
    )


@dataclass(frozen=True, slots=True)
class RedisSection:
    enabled: bool = field(
        default=True,
        metadata=_note("true/false", "Redis clients work as they are; an idle door is one socket."),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=_note("address", "Loopback, because nothing else is safe without tokens and TLS."),
    )
    port: int = field(
        default=REDIS_PORT,
        metadata=_note("TCP port", "Twenty above HTTP; not Redis's own, which may be in use."),
    )
    tls_cert: Path | None = field(
        default=None, metadata=_note("path", "PEM chain; with `tls_key` the door speaks TLS only.")
    )
    tls_key: Path | None = field(
        default=None, metadata=_note("path", "PEM private key; others must not be able to read it.")
    )


@dataclass(frozen=True, slots=True)
class PeerSection:
    host: str = field(
        default="127.0.0.1",
        metadata=_note("address", "Loopback, because peers beyond it need mutual TLS."),
    )
    port: int = field(
        default=PEER_PORT, metadata=_note("TCP port", "Ten above HTTP, so that nine nodes fit.")
    )
    tls_cert: Path | None = field(
        default=None, metadata=_note("path", "PEM chain this node shows to its peers.")
    )
    tls_key: Path | None = field(
        default=None, metadata=_note("path", "PEM private key; others must not be able to read it.")
    )
    tls_ca: Path | None = field(
        default=None,
        metadata=_note("path", "PEM authorities that peers' certificates must chain to."),
    )


@dataclass(frozen=True, slots=True)
class ClusterSection:
    id: str = field(metadata=_note("UUID", "Keeps nodes of different clusters apart.", shared=True))
    secret_file: Path = field(
        metadata=_note(
            "path", "At least 32 random bytes, mode 0600; peers prove that they know them."
        )
    )
    members: tuple[Member, ...] = field(
        metadata=_note(
            "list of {id, name, peer, http}",
            "The first voters, used until the log says who is a member; with `join`: this node, "
            "and where to find the cluster.",
        )
    )
    join: bool = field(
        default=False,
        metadata=_note(
            "true/false", "Start without a vote, and wait to be added to a cluster that exists."
        ),
    )
    partitions: int = field(
        default=0,
        metadata=_note(
            "partitions",
            "Shares of the data, each led by one of `replication_factor` nodes; 0: one group on "
            "every node, the fastest for up to three. Fixed at the first start.",
            shared=True,
        ),
    )
    replication_factor: int = field(
        default=REPLICATION_FACTOR_DEFAULT,
        metadata=_note(
            "replicas",
            "Nodes that hold a partition; a majority of them has to answer. Even numbers add cost "
            "and no safety. Only with `partitions`.",
            shared=True,
        ),
    )


@dataclass(frozen=True, slots=True)
class RaftSection:
    heartbeat_ms: int = field(
        default=100,
        metadata=_note(
            "ms", "Idle leaders speak this often; less costs CPU on idle nodes.", shared=True
        ),
    )
    election_min_ms: int = field(
        default=500,
        metadata=_note(
            "ms",
            "A follower waits at least this long for its leader; five heartbeats ride out a pause.",
            shared=True,
        ),
    )
    election_max_ms: int = field(
        default=1000,
        metadata=_note(
            "ms",
            "Waits are spread up to here, so that candidates seldom collide; bounds failover.",
            shared=True,
        ),
    )
    entry_bytes_max: int = field(
        default=MIB,
        metadata=_note(
            "bytes",
            "A batch stops growing here: one entry stays quick to send and to fsync. "
            "A single larger command is an entry of its own.",
            shared=True,
        ),
    )
    entry_commands_max: int = field(
        default=1024,
        metadata=_note(
            "commands", "Bounds how long applying one entry holds the event loop.", shared=True
        ),
    )
    proposals_inflight_max: int = field(
        default=4096,
        metadata=_note("commands", "Proposals beyond it are refused as OVERLOADED, not queued."),
    )
    proposals_bytes_max: int = field(
        default=128 * MIB,
        metadata=_note("bytes", "Memory that waiting proposals may hold before OVERLOADED."),
    )


@dataclass(frozen=True, slots=True)
class AuthSection:
    tokens_file: Path | None = field(
        default=None,
        metadata=_note(
            "path", "Bearer tokens, mode 0600; absent: no authentication, loopback only."
        ),
    )


@dataclass(frozen=True, slots=True)
class StorageSection:
    segment_bytes: int = field(
        default=64 * MIB,
        metadata=_note("bytes", "Log files are cut here; whole files are deleted after snapshots."),
    )
    map_bytes: int = field(
        default=64 * GIB,
        metadata=_note(
            "bytes",
            "Address space of the state's LMDB map: bounds data on disk. While a node runs its "
            "file seems as long; what it takes is what `du` says.",
        ),
    )
    log_cache_bytes: int = field(
        default=16 * MIB,
        metadata=_note(
            "bytes",
            "Newest log entries kept in memory; all groups together, at least 1 MiB each.",
        ),
    )
    free_bytes_min: int = field(
        default=128 * MIB,
        metadata=_note(
            "bytes",
            "Below it this node takes no new entries: a full disk would end it, and reading, "
            "snapshots and recovery need room too.",
        ),
    )
    snapshot_entries: int = field(
        default=100_000,
        metadata=_note(
            "entries", "A snapshot is due after so many: bounds what a restart has to replay."
        ),
    )
    snapshot_log_bytes: int = field(
        default=64 * MIB,
        metadata=_note(
            "bytes",
            "A snapshot is due once the log grew by this, or by the size of the last snapshot if "
            "that is more: copying costs at most as much as was written.",
        ),
    )
    log_keep_entries: int = field(
        default=10_000,
        metadata=_note(
            "entries", "Kept below a snapshot, so that a node that was away briefly needs none."
        ),
    )
    log_keep_bytes_max: int = field(
        default=512 * MIB,
        metadata=_note(
            "bytes", "After a snapshot the log is cut to this, whatever a laggard still lacks."
        ),
    )
    snapshot_bytes_per_second_max: int = field(
        default=128 * MIB,
        metadata=_note(
            "bytes/s",
            "The state is copied into a snapshot no faster while the node serves: half of what an "
            "ordinary disk does, so that the log's fsyncs do not wait.",
        ),
    )
    scrub_bytes_per_second_max: int = field(
        default=256 * 1024,
        metadata=_note(
            "bytes/s",
            "Everything kept is read again this fast, to find damage that no read meets: a percent "
            "of a core, a gigabyte in an hour and a bit. 0: never.",
        ),
    )
    scrub_interval_seconds: int = field(
        default=86_400,
        metadata=_note("s", "A pass of the scrub begins at most this often; ended ones rest."),
    )
    digest_interval_seconds: int = field(
        default=60,
        metadata=_note(
            "s",
            "A leader has the replicas compare their digests this often while something is "
            "written: one command of the log and one call per replica. 0: only when asked.",
        ),
    )


@dataclass(frozen=True, slots=True)
class OptimizerSection:
    patterns_max: int = field(
        default=1_000,
        metadata=_note(
            "patterns",
            "Kinds of queries that this node watches and tries other ways for; 2 KiB each, 7 with "
            "a trial. 0: the optimizer is off, and the engines' rules decide.",
        ),
    )
    cache_bytes_max: int = field(
        default=32 * MIB,
        metadata=_note(
            "bytes",
            "Answers of queries kept until what they were computed from changes; of each group. "
            "0: none.",
        ),
    )
    recall_percent_min: int = field(
        default=95,
        metadata=_note(
            "%",
            "Approximate searches widen until a sample of them finds this much of what exact ones "
            "find. 1: never.",
        ),
    )


_NO_NOTE = Note("", "", shared=True)  # a test finds whatever lacks one

LIMIT_NOTES: dict[str, Note] = {
    name: Note(unit, reason, shared=True)
    for name, unit, reason in (
        ("namespace_bytes_max", "bytes", "Namespaces are short names in paths and in every key."),
        ("session_bytes_max", "bytes", "Room for a path-like or hashed session name."),
        ("key_bytes_max", "bytes", "A page; long enough for URLs and file paths."),
        ("value_bytes_max", "bytes", "Larger values would stall the log for everyone."),
        ("content_type_bytes_max", "bytes", "Longer than any registered media type."),
        ("request_id_bytes_max", "bytes", "Room for a UUID with a prefix."),
        ("txn_ops_max", "operations", "Bounds apply time; for compares and for each branch."),
        ("txn_bytes_max", "bytes", "One encoded command: a largest value, twice over."),
        ("history_versions_max", "versions", "Kept per key, the newest included."),
        ("history_bytes_max", "bytes", "Kept per key; the newest version is always kept."),
        ("watch_window_changes_max", "changes", "How far back a watch may resume."),
        ("watch_window_bytes_max", "bytes", "Disk that the resumable changes may hold."),
        ("request_ids_max", "ids", "Remembered per group, so that retries apply once."),
        ("ttl_ms_max", "ms", "Ten years; more is a mistaken unit."),
        ("request_bytes_max", "bytes", "Disk that the results remembered for them may hold."),
        ("expire_batch_max", "records", "Bounds the apply time of one expiry command."),
    )
}


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """All settings of one node, loaded and checked by `node.config.load`."""

    node: NodeSection
    cluster: ClusterSection
    http: HttpSection = HttpSection()
    redis: RedisSection = RedisSection()
    peer: PeerSection = PeerSection()
    raft: RaftSection = RaftSection()
    limits: Limits = field(default_factory=Limits)
    auth: AuthSection = AuthSection()
    storage: StorageSection = StorageSection()
    optimizer: OptimizerSection = OptimizerSection()

    def replicated_digest(self) -> bytes:
        """SHA-256 (32 bytes) over what every node of the cluster must hold alike.

        Covers the cluster's id and each setting marked `shared`. Peers refuse each other when
        it differs. Members, addresses and paths are not in it: they change while nodes run.
        """
        alike: dict[str, object] = {
            f"{setting.section}.{setting.name}": getattr(
                getattr(self, setting.section), setting.name
            )
            for setting in settings()
            if setting.note.shared
        }
        return hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).digest()

    def bootstrap_digest(self) -> bytes:
        """SHA-256 (32 bytes) over the ids of the first voters; b"-" for a node that joins.

        Nodes whose logs hold no configuration yet must agree on it: two different sets of
        first voters could elect a leader each.
        """
        if self.cluster.join:
            return b"-"
        ids = sorted(member.id for member in self.cluster.members)
        return hashlib.sha256(json.dumps(ids).encode()).digest()

    def figures(self) -> dict[str, tuple[int, str]]:
        """Every numeric setting in force: `section.name` → (value, unit)."""
        found: dict[str, tuple[int, str]] = {}
        for setting in settings():
            value = getattr(getattr(self, setting.section), setting.name)
            if isinstance(value, int) and not isinstance(value, bool):
                found[f"{setting.section}.{setting.name}"] = (value, setting.note.unit)
        return found

    def member(self) -> Member:
        """This node's own entry in the file's member list."""
        return next(member for member in self.cluster.members if member.id == self.node.id)


SECTIONS: Mapping[str, type] = {
    "node": NodeSection,
    "http": HttpSection,
    "redis": RedisSection,
    "peer": PeerSection,
    "cluster": ClusterSection,
    "raft": RaftSection,
    "limits": Limits,
    "auth": AuthSection,
    "storage": StorageSection,
    "optimizer": OptimizerSection,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of one section. `type` is its annotation's text; `default` None: see `required`."""

    section: str
    name: str
    type: str
    default: object
    required: bool
    note: Note

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"HIVEMEM_{self.section}_{self.name}".upper()


def settings() -> Iterator[Setting]:
    """Every setting, section by section, in the order in which they are documented."""
    for section, kind in SECTIONS.items():
        for item in dataclasses.fields(kind):
            required = item.default is MISSING
            note = item.metadata.get("note") or LIMIT_NOTES.get(item.name, _NO_NOTE)
            yield Setting(
                section,
                item.name,
                str(item.type),
                None if required else item.default,
                required,
                note,
            )
