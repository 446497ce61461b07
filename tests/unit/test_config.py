"""Settings: layers, refusals, relations, and what must match between nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest

from engines.interfaces import Limits
from node.config import load, validate
from node.config_checks import is_loopback, split_address
from node.config_schema import (
    LIMIT_NOTES,
    AuthSection,
    ClusterSection,
    HttpSection,
    Member,
    NodeConfig,
    NodeSection,
    PeerSection,
    RaftSection,
    RedisSection,
    settings,
)
from node.errors import ConfigError

IDS = [f"00000000-0000-4000-8000-00000000000{i}" for i in range(4)]
CLUSTER = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return private(tmp_path / "secret", b"x" * 32)


def private(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def config_with(secret: Path, **sections: object) -> NodeConfig:
    members = tuple(
        Member(IDS[i], f"node{i}", f"127.0.0.1:{7421 + i}", f"http://127.0.0.1:{7411 + i}")
        for i in range(3)
    )
    base = NodeConfig(
        node=NodeSection(IDS[0], "node0", secret.parent / "data"),
        cluster=ClusterSection(CLUSTER, secret, members),
    )
    return replace(base, **sections)  # type: ignore[arg-type]


def problems(config: NodeConfig) -> list[str]:
    try:
        validate(config)
    except ConfigError as error:
        return list(error.problems)
    return []


def toml(tmp_path: Path, extra: str = "", node: str = "", members: str | None = None) -> Path:
    """A complete file for one node; `extra` is appended, `node` goes into [node]."""
    private(tmp_path / "secret", b"x" * 32)
    default_members = f"""
    [[cluster.members]]
    id = "{IDS[0]}"
    name = "node0"
    peer = "127.0.0.1:7421"
    http = "http://127.0.0.1:7411"
    """
    path = tmp_path / "node.toml"
    path.write_text(
        f"""
        [node]
        id = "{IDS[0]}"
        name = "node0"
        data_dir = "data"
        {node}
        [cluster]
        id = "{CLUSTER}"
        secret_file = "secret"
        {default_members if members is None else members}
        {extra}
        """
    )
    return path


def load_problems(
    path: Path, flags: list[str] | None = None, environ: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, flags or [], environ or {})
    return list(caught.value.problems)


# Layers


def test_defaults_hold_and_are_loopback(secret: Path) -> None:
    config = config_with(secret)
    assert problems(config) == []
    assert is_loopback(config.http.host)
    assert is_loopback(config.peer.host)
    assert is_loopback(config.redis.host)
    assert (config.redis.enabled, config.redis.port) == (True, 7431)


def test_file_environment_flag_each_win_over_the_former(tmp_path: Path) -> None:
    path = toml(tmp_path, extra="[raft]\nheartbeat_ms = 50\nelection_min_ms = 600")
    assert load(path, environ={}).raft == RaftSection(heartbeat_ms=50, election_min_ms=600)
    environ = {"HIVEMEM_RAFT_HEARTBEAT_MS": "60", "HIVEMEM_RAFT_ELECTION_MIN_MS": "700"}
    assert load(path, environ=environ).raft.heartbeat_ms == 60
    flagged = load(path, ["raft.heartbeat_ms=70"], environ)
    assert (flagged.raft.heartbeat_ms, flagged.raft.election_min_ms) == (70, 700)


def test_the_redis_door_is_set_like_everything_else(tmp_path: Path) -> None:
    path = toml(tmp_path, extra='[redis]\nport = 1000\ntls_cert = "cert"\ntls_key = "key"')
    private(tmp_path / "cert", b"c")
    private(tmp_path / "key", b"k")
    files = {"tls_cert": tmp_path / "cert", "tls_key": tmp_path / "key"}
    assert load(path, environ={}).redis == RedisSection(port=1000, **files)
    environ = {"HIVEMEM_REDIS_PORT": "2000", "HIVEMEM_REDIS_HOST": "::1"}
    assert load(path, environ=environ).redis == RedisSection(host="::1", port=2000, **files)
    off = load(path, ["redis.port=3000"], {**environ, "HIVEMEM_REDIS_ENABLED": "false"})
    assert (off.redis.enabled, off.redis.port) == (False, 3000)


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    config = load(toml(tmp_path), environ={})
    assert config.node.data_dir == tmp_path / "data"
    assert config.cluster.secret_file == tmp_path / "secret"


def test_members_may_come_as_json(tmp_path: Path) -> None:
    member = Member(IDS[0], "node0", "[::1]:7421", "http://[::1]:7411")
    text = json.dumps([{item.name: getattr(member, item.name) for item in fields(Member)}])
    config = load(toml(tmp_path), environ={"HIVEMEM_CLUSTER_MEMBERS": text})
    assert config.cluster.members == (member,)
    assert config.member() == member


def test_variables_of_clients_are_not_settings(tmp_path: Path) -> None:
    environ = {"HIVEMEM_ENDPOINTS": "http://elsewhere", "HIVEMEM_TOKEN": "t", "PATH": "/bin"}
    assert load(toml(tmp_path), environ=environ).http == HttpSection()


# Refusals


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("[raftt]\nheartbeat_ms = 1", "raftt: unknown section"),
        ("[raft]\nheartbeats_ms = 100", "raft.heartbeats_ms: unknown key"),
        ("[raft]\nheartbeat_ms = '100'", "raft.heartbeat_ms: must be an integer"),
        ("[raft]\nheartbeat_ms = true", "raft.heartbeat_ms: must be an integer"),
        ("[raft]\nheartbeat_ms = 100.0", "raft.heartbeat_ms: must be an integer"),
        ("[raft]\nheartbeat_ms = 0", "raft.heartbeat_ms: 0 must be at least 1 ms"),
        ("[storage]\nmap_bytes = 9223372036854775808", "storage.map_bytes: 9223372036854775808"),
        ("[limits]\nhistory_versions_max = 0", "limits.history_versions_max is 0"),
        ("[limits]\nhistory_versions_max = 9999", "limits.history_versions_max is 9999"),
        ("[http]\nhost = 1", "http.host: must be a string"),
        ("[http]\nhost = ''", "http.host: must be an address"),
        ("[http]\nport = 70000", "http.port: 70000 is not a port"),
        ("[http]\nport = 7421", "peer.port: 7421 is also http.port"),
        ("[http]\nport = 7431", "redis.port: 7431 is also http.port"),
        ("[peer]\nport = 7431", "redis.port: 7431 is also peer.port"),
        ("[redis]\nport = 70000", "redis.port: 70000 is not a port"),
        ("[redis]\nhost = ''", "redis.host: must be an address"),
        ("[redis]\nenabled = 1", "redis.enabled: must be true or false"),
        ("[redis]\ntls_ca = 'x'", "redis.tls_ca: unknown key"),
        ("[auth]\ntokens_file = ''", "auth.tokens_file: must be a path"),
    ],
)
def test_a_bad_value_is_refused_by_name(tmp_path: Path, extra: str, named: str) -> None:
    (found,) = load_problems(toml(tmp_path, extra=extra))
    assert found.startswith(named)


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = toml(tmp_path)
    path.write_text("raft = 1\n" + path.read_text())
    assert load_problems(path) == ["raft: must be a table [raft]"]


def test_every_problem_of_every_layer_is_reported_at_once(tmp_path: Path) -> None:
    path = toml(
        tmp_path, extra="[raft]\nheartbeat_ms = 400\n[bogus]\nx = 1", node="log_level = 'x'"
    )
    found = load_problems(path, ["http.port=abc", "nonsense"], {"HIVEMEM_STORAGE_MAP_BITES": "1"})
    text = "\n".join(found)
    for part in (
        "raft.election_min_ms",
        "bogus",
        "node.log_level",
        "http.port",
        "nonsense",
        "HIVEMEM_STORAGE_MAP_BITES",
    ):
        assert part in text
    assert len(found) == 6


def test_what_is_missing_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("")
    assert sorted(line.partition(":")[0] for line in load_problems(path)) == [
        "cluster.id",
        "cluster.members",
        "cluster.secret_file",
        "node.data_dir",
        "node.id",
        "node.name",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in load_problems(tmp_path / "absent.toml")[0]
    path = tmp_path / "bad.toml"
    path.write_text("[node\n")
    assert "not a TOML file" in load_problems(path)[0]
    path.write_bytes(b"\xff\xfe")
    assert "not a TOML file" in load_problems(path)[0]


@pytest.mark.parametrize(
    "members",
    [
        "members = 1",
        "members = [1]",
        "members = [{id = 'a'}]",
        "members = [{id = 'a', name = 'b', peer = 'c', http = 1}]",
        "members = [{id = 'a', name = 'b', peer = 'c', http = 'd', extra = 'e'}]",
    ],
)
def test_members_of_a_wrong_shape_are_refused_whole(tmp_path: Path, members: str) -> None:
    (found,) = load_problems(toml(tmp_path, members=members))
    assert found.startswith("cluster.members: ")


# Relations


def members_of(secret: Path, **changes: str) -> ClusterSection:
    """The usual three, the last of them changed."""
    cluster = config_with(secret).cluster
    return replace(cluster, members=(*cluster.members[:2], replace(cluster.members[2], **changes)))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"id": IDS[1]}, "two members have the id"),
        ({"name": "node1"}, "two members have the name"),
        ({"peer": "127.0.0.1:7422"}, "two members have the peer"),
        ({"http": "http://127.0.0.1:7412"}, "two members have the http"),
        ({"id": "not-a-uuid"}, "not a UUID"),
        ({"id": "AAAAAAAA-0000-4000-8000-000000000000"}, "not a UUID"),
        ({"name": "a/b"}, "the name 'a/b'"),
        ({"peer": "127.0.0.1"}, "not host:port"),
        ({"peer": "127.0.0.1:0"}, "not host:port"),
        ({"peer": "127.0.0.1:99999"}, "peer of"),
        ({"peer": "user@127.0.0.1:1"}, "not host:port"),
        ({"http": "127.0.0.1:7413"}, "not like http://"),
        ({"http": "ftp://127.0.0.1:7413"}, "not like http://"),
        ({"http": "http://127.0.0.1"}, "not like http://"),
        ({"http": "http://127.0.0.1:7413/path"}, "not like http://"),
    ],
)
def test_members_must_be_distinct_and_well_formed(
    secret: Path, changes: dict[str, str], part: str
) -> None:
    found = problems(config_with(secret, cluster=members_of(secret, **changes)))
    assert any(part in line and line.startswith("cluster.members") for line in found), found


def test_a_node_must_be_among_its_members_under_its_name(secret: Path) -> None:
    config = config_with(secret)
    stranger = replace(config, node=replace(config.node, id=IDS[3]))
    assert any("not among the members" in line for line in problems(stranger))
    renamed = replace(config, node=replace(config.node, name="other"))
    assert any("this node is called 'node0' there" in line for line in problems(renamed))


def test_the_number_of_members_is_bounded(secret: Path) -> None:
    cluster = config_with(secret).cluster
    assert any(
        "0 members" in line
        for line in problems(config_with(secret, cluster=replace(cluster, members=())))
    )


@pytest.mark.parametrize(
    ("raft", "named"),
    [
        (RaftSection(heartbeat_ms=167), "raft.election_min_ms"),
        (RaftSection(election_min_ms=300), "raft.election_min_ms"),
        (RaftSection(election_max_ms=500), "raft.election_max_ms"),
        (RaftSection(proposals_inflight_max=1000), "raft.proposals_inflight_max"),
        (RaftSection(proposals_bytes_max=1 << 20), "raft.proposals_bytes_max"),
        (RaftSection(entry_bytes_max=32 << 20), "storage.log_cache_bytes"),
    ],
)
def test_timing_and_sizes_must_fit_each_other(secret: Path, raft: RaftSection, named: str) -> None:
    found = problems(config_with(secret, raft=raft))
    assert found
    assert all(line.startswith(named) for line in found), found


def test_values_must_fit_commands_history_and_segments(secret: Path) -> None:
    limits = Limits(value_bytes_max=64 << 20)
    named = {line.partition(":")[0] for line in problems(config_with(secret, limits=limits))}
    assert named == {"limits.txn_bytes_max", "limits.history_bytes_max"}


# Doors


def test_nothing_but_loopback_counts_as_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org", "", "127.0.0.1.example.org"):
        assert not is_loopback(host), host


def test_http_beyond_loopback_needs_tokens_and_tls(secret: Path, tmp_path: Path) -> None:
    (found,) = problems(config_with(secret, http=HttpSection(host="0.0.0.0")))
    assert found.startswith("http.host:")
    for key in ("auth.tokens_file", "http.tls_cert", "http.tls_key"):
        assert key in found
    tokens = private(tmp_path / "tokens", b"t")
    pem = private(tmp_path / "key", b"k")
    half = HttpSection(host="0.0.0.0", tls_cert=pem, tls_key=pem)
    config = config_with(secret, http=half)
    assert any("missing: auth.tokens_file" in line for line in problems(config))
    own = replace(config.cluster.members[0], http="https://127.0.0.1:7411")
    cluster = replace(config.cluster, members=(own, *config.cluster.members[1:]))
    assert problems(replace(config, auth=AuthSection(tokens), cluster=cluster)) == []


def test_a_door_with_tls_is_announced_as_https(secret: Path, tmp_path: Path) -> None:
    key = private(tmp_path / "key", b"k")
    (found,) = problems(config_with(secret, http=HttpSection(tls_cert=key, tls_key=key)))
    assert "speaks https" in found


def test_peers_beyond_loopback_need_mutual_tls(secret: Path, tmp_path: Path) -> None:
    (found,) = problems(config_with(secret, peer=PeerSection(host="::")))
    assert found.startswith("peer.host:")
    assert "missing: peer.tls_cert, peer.tls_key, peer.tls_ca" in found
    key = private(tmp_path / "key", b"k")
    whole = PeerSection(host="::", tls_cert=key, tls_key=key, tls_ca=key)
    assert problems(config_with(secret, peer=whole)) == []


def test_redis_beyond_loopback_needs_tokens_and_tls(secret: Path, tmp_path: Path) -> None:
    (found,) = problems(config_with(secret, redis=RedisSection(host="0.0.0.0")))
    assert found.startswith("redis.host:")
    assert "missing: auth.tokens_file, redis.tls_cert, redis.tls_key" in found
    pem, tokens = private(tmp_path / "key", b"k"), private(tmp_path / "tokens", b"t")
    open_ = RedisSection(host="0.0.0.0", tls_cert=pem, tls_key=pem)
    (found,) = problems(config_with(secret, redis=open_))
    assert "missing: auth.tokens_file" in found
    assert problems(config_with(secret, redis=open_, auth=AuthSection(tokens))) == []
    inside = RedisSection(tls_cert=pem, tls_key=pem)
    assert problems(config_with(secret, redis=inside)) == [], "loopback may have TLS, too"


def test_the_files_of_the_redis_door_are_looked_at(secret: Path, tmp_path: Path) -> None:
    key = private(tmp_path / "key", b"k", 0o640)
    found = problems(config_with(secret, redis=RedisSection(tls_cert=tmp_path / "no", tls_key=key)))
    assert [line.partition(":")[0] for line in found] == ["redis.tls_key", "redis.tls_cert"]
    assert "chmod 600" in found[0]
    assert "cannot be read" in found[1]


def test_a_redis_door_that_is_switched_off_needs_nothing(secret: Path, tmp_path: Path) -> None:
    redis = RedisSection(enabled=False, host="0.0.0.0", port=7411, tls_key=tmp_path / "absent")
    config = config_with(secret, redis=redis)
    assert problems(config) == []
    wrong = replace(redis, enabled=True, host="127.0.0.1")
    named = [line.partition(":")[0] for line in problems(replace(config, redis=wrong))]
    assert named == ["redis.port", "redis.tls_cert and redis.tls_key", "redis.tls_key"]


def test_half_of_a_tls_setting_is_refused(secret: Path, tmp_path: Path) -> None:
    key = private(tmp_path / "key", b"k")
    assert any(
        "set both, or neither" in line
        for line in problems(config_with(secret, http=HttpSection(tls_key=key)))
    )
    assert any(
        "set all three, or none" in line
        for line in problems(config_with(secret, peer=PeerSection(tls_cert=key, tls_key=key)))
    )


@pytest.mark.parametrize(
    ("content", "mode", "part"),
    [
        (b"x" * 31, 0o600, "holds 31 bytes; must be at least 32"),
        (b"x" * 32, 0o640, "mode 0640, so others may use it; run: chmod 600"),
        (b"x" * 32, 0o604, "mode 0604"),
    ],
)
def test_the_secret_must_be_long_and_private(
    secret: Path, content: bytes, mode: int, part: str
) -> None:
    private(secret, content, mode)
    (found,) = problems(config_with(secret))
    assert found.startswith("cluster.secret_file:")
    assert part in found


def test_an_absent_or_odd_secret_is_named(secret: Path) -> None:
    secret.unlink()
    assert "No such file" in problems(config_with(secret))[0]
    secret.mkdir(mode=0o700)
    assert "is not a file" in problems(config_with(secret))[0]


@pytest.mark.parametrize("text", ["host:1", "[::1]:65535", "127.0.0.1:7421"])
def test_addresses_split(text: str) -> None:
    host, port = split_address(text)
    assert f"{host}:{port}" == text.replace("[", "").replace("]", "")


# What must match on all nodes


def test_nodes_of_one_cluster_have_one_digest(secret: Path) -> None:
    config = config_with(secret)
    other = replace(
        config,
        node=NodeSection(IDS[1], "node1", Path("elsewhere")),
        http=HttpSection(port=1),
        redis=RedisSection(enabled=False, port=2),
        raft=replace(config.raft, proposals_inflight_max=9999),
        cluster=replace(config.cluster, members=config.cluster.members[:1], join=True),
    )
    assert other.replicated_digest() == config.replicated_digest()
    assert len(config.replicated_digest()) == 32


def test_each_shared_setting_changes_the_digest(secret: Path) -> None:
    config = config_with(secret)
    digests = {config.replicated_digest()}
    changes: list[NodeConfig] = [
        replace(config, cluster=replace(config.cluster, id=IDS[0])),
    ]
    for section in ("raft", "limits"):
        shared = [item for item in settings() if item.section == section and item.note.shared]
        assert shared
        for item in shared:
            old = getattr(config, section)
            new = replace(old, **{item.name: getattr(old, item.name) + 1})
            changes.append(replace(config, **{section: new}))
    for changed in changes:
        digests.add(changed.replicated_digest())
    assert len(digests) == len(changes) + 1


def test_first_voters_agree_on_who_they_are(secret: Path) -> None:
    config = config_with(secret)
    cluster = config.cluster
    moved = tuple(replace(member, peer="127.0.0.1:1") for member in cluster.members[::-1])
    same = replace(config, cluster=replace(cluster, members=moved))
    assert same.bootstrap_digest() == config.bootstrap_digest()
    assert len(config.bootstrap_digest()) == 32
    fewer = replace(config, cluster=replace(cluster, members=cluster.members[:2]))
    assert fewer.bootstrap_digest() != config.bootstrap_digest()
    joining = replace(config, cluster=replace(cluster, join=True))
    assert joining.bootstrap_digest() == b"-"


def test_a_node_that_joins_names_another(secret: Path) -> None:
    cluster = replace(config_with(secret).cluster, join=True)
    assert problems(config_with(secret, cluster=cluster)) == []
    alone = replace(cluster, members=cluster.members[:1])
    (found,) = problems(config_with(secret, cluster=alone))
    assert "name a node of the cluster to join" in found


@pytest.mark.parametrize(("text", "joins"), [("true", True), ("false", False)])
def test_a_flag_is_true_or_false(tmp_path: Path, text: str, joins: bool) -> None:
    members = json.dumps(
        [
            {"id": IDS[i], "name": f"node{i}", "peer": f"h:{i + 1}", "http": f"http://h:{i + 1}"}
            for i in range(2)
        ]
    )
    path = toml(tmp_path)
    environ = {"HIVEMEM_CLUSTER_MEMBERS": members}
    assert load(path, [f"cluster.join={text}"], environ).cluster.join is joins
    (found,) = load_problems(path, flags=["cluster.join=1"])
    assert found.startswith("cluster.join: must be true or false")


def test_every_limit_has_a_unit_and_a_reason() -> None:
    assert set(LIMIT_NOTES) == {item.name for item in fields(Limits)}
    for setting in settings():
        assert setting.note.reason, setting
        assert setting.note.unit or setting.type == "str", setting


def test_figures_hold_every_number_with_its_unit(secret: Path) -> None:
    figures = config_with(secret).figures()
    assert figures["raft.heartbeat_ms"] == (100, "ms")
    assert figures["limits.value_bytes_max"] == (8 << 20, "bytes")
    assert len(figures) == sum(1 for item in settings() if item.type == "int")
