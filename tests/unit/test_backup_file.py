"""A backup's format, and that damage anywhere in it is found and leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.partition_map import encode as encoded_map
from cluster.placement import NodeFacts, place
from engines.command import Configure, encode
from engines.interfaces import Limits
from engines.layout import seal
from engines.state_file import examine
from node import backup_file
from node.backup_format import (
    BLOCK_BYTES,
    END,
    MANIFEST,
    BackupError,
    DamagedBackup,
    GroupState,
    Manifest,
    announced,
    decode,
    header,
    padding,
    reserved,
)
from node.backup_format import encode as encoded
from node.system_state import NodeRecord, _put_command, map_command
from tests.unit.engine_state import Entry, State, checked_state

CREATED_MS = 1_770_000_000_123
CLUSTER = "5a1f0c1e-0000-4000-8000-000000000001"


def fill(state: State) -> None:
    """Something in every database."""
    for number in range(20):
        state.put(b"k%d" % number, b"v" * number, request_id=f"r{number}")
    state.put(b"k1", b"again")
    state.put(b"long" * 400, b"in a directory")
    state.put(b"ttl", b"v", ttl=60_000)
    state.delete(b"k2")


def copy_of(state: State, path: Path) -> Path:
    with path.open("wb") as file:
        state.machine.copy_to(file.fileno())
    return path


def described(path: Path, group: int) -> GroupState:
    facts = examine(path)
    data = path.read_bytes()
    return GroupState(
        group,
        ((0, 16383),),
        facts.index,
        facts.term,
        facts.revision,
        facts.keys,
        len(data),
        hashlib.sha256(data).hexdigest(),
        facts.content.hex(),
    )


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of two groups."""
    folder = tmp_path_factory.mktemp("backup")
    return write_backup(folder)


def write_backup(
    folder: Path, partitions: int = 1, *, mapped: bool = True, limits: Limits | None = None
) -> Path:
    """A backup of a cluster of three nodes, with two replicas of each partition."""
    states = []
    for group in range(partitions + 1):
        with checked_state(folder / f"state{group}") as state:
            fill(state)
            if partitions and not group and mapped:
                made = place([NodeFacts(f"old{n}") for n in (1, 2, 3)], partitions, 2)
                state.apply(map_command(encoded_map(made), 1, None))
                state.apply(_put_command(b"node/old1", NodeRecord(draining=True).encode(), 1, 0))
            if limits is not None:
                state.apply(Configure(limits))
            state.put(b"group", b"%d" % group)
            states.append((group, copy_of(state, folder / f"{group}.mdb")))
    target = folder / "b.hivemem"
    with backup_file.writing(target, CREATED_MS, len(states)) as writer:
        found = tuple(described(path, group) for group, path in states)
        for state_of, (_, path) in zip(found, states, strict=True):
            writer.add(state_of, path)
        writer.finish(Manifest(CLUSTER, CREATED_MS, "0.1.0", found))
    assert not list(folder.glob(".*")), "what it was written in is gone"
    return target


def read(data: bytes, folder: Path) -> Manifest:
    file = io.BytesIO(data)
    manifest = backup_file.read_manifest(file)
    for each in backup_file.extract(file, manifest, folder, lambda count: None):
        each.path.unlink()
    return manifest


def test_what_was_written_is_read(backup: Path, tmp_path: Path) -> None:
    manifest = read(backup.read_bytes(), tmp_path)
    assert (manifest.cluster_id, manifest.created_ms) == (CLUSTER, CREATED_MS)
    assert manifest.created_at == "2026-02-02T02:40:00.123Z"
    assert [state.group for state in manifest.groups] == [0, 1]
    assert manifest.file_size == backup.stat().st_size
    assert backup.stat().st_mode & 0o077 == 0, "it holds everything that the cluster holds"
    first, second = manifest.groups
    assert first.digest != second.digest
    assert (first.keys, second.keys) == (24, 22)


def test_the_states_come_out_byte_for_byte(backup: Path, tmp_path: Path) -> None:
    with backup.open("rb") as file:
        manifest = backup_file.read_manifest(file)
        extracted = list(backup_file.extract(file, manifest, tmp_path, lambda count: None))
    for state, path, _ in extracted:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == state.sha256


def test_any_tar_unpacks_it(backup: Path) -> None:
    with tarfile.open(backup) as archive:
        assert archive.getnames() == [MANIFEST, "groups/0/state.mdb", "groups/1/state.mdb"]
        member = archive.extractfile(MANIFEST)
        assert member is not None
        shown = json.loads(member.read())
        assert (shown["kind"], shown["format"], shown["partitions"]) == ("hivemem backup", 1, 1)
        state = archive.extractfile("groups/1/state.mdb")
        assert state is not None
        assert hashlib.sha256(state.read()).hexdigest() == shown["groups"][1]["sha256"]


def places(manifest: Manifest) -> Iterator[tuple[str, int, int]]:
    """(section, first byte, bytes) of everything in the file."""
    offset = 0
    yield "manifest's header", 0, BLOCK_BYTES
    offset += BLOCK_BYTES
    size = reserved(len(manifest.groups))
    yield "manifest", offset, size
    offset += size
    for state in manifest.groups:
        yield f"header of {state.group}", offset, BLOCK_BYTES
        offset += BLOCK_BYTES
        yield f"state {state.group}", offset, state.size
        offset += state.size
        if padding(state.size):
            yield f"padding of {state.group}", offset, padding(state.size)
        offset += padding(state.size)
    yield "end", offset, len(END)
    assert offset + len(END) == manifest.file_size


def refused(data: bytes, folder: Path) -> bool:
    try:
        read(data, folder)
    except DamagedBackup:
        return True
    return False


def test_a_flipped_bit_is_found_wherever_it_is(backup: Path, tmp_path: Path) -> None:
    data = backup.read_bytes()
    manifest = read(data, tmp_path)
    for section, first, size in places(manifest):
        step = max(1, size // 40) | 1  # odd, so that it meets each place in a word
        for offset in (*range(first, first + size, step), first + size - 1):
            damaged = bytearray(data)
            damaged[offset] ^= 1 << offset % 8
            folder = tmp_path / "out"
            folder.mkdir(exist_ok=True)
            assert refused(bytes(damaged), folder), f"byte {offset} in {section}"
            for path in folder.iterdir():
                path.unlink()


def test_every_bit_of_the_manifest_counts(backup: Path) -> None:
    """White space too: there is one way to write it."""
    data = backup.read_bytes()[BLOCK_BYTES : BLOCK_BYTES + reserved(2)]
    assert decode(data).cluster_id == CLUSTER
    for offset in range(0, len(data), 7):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[offset] ^= 1 << bit
            with pytest.raises(DamagedBackup):
                decode(bytes(damaged))


def test_a_file_that_ends_too_early_or_too_late_is_refused(backup: Path, tmp_path: Path) -> None:
    data = backup.read_bytes()
    manifest = read(data, tmp_path)
    cuts = {0, 1, len(data) - 1}
    for _, first, size in places(manifest):
        cuts |= {first, first + size // 2, first + size - 1}
    for cut in sorted(cuts):
        folder = tmp_path / str(cut)
        folder.mkdir()
        with pytest.raises(DamagedBackup, match=r"ends too early|not a hivemem backup"):
            read(data[:cut], folder)
    with pytest.raises(DamagedBackup, match="follows the end"):
        read(data + b"\0", tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\0" * 2048, b"x" * 4096])
def test_what_is_no_backup_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedBackup):
        read(data, tmp_path)


def test_another_tar_is_no_backup() -> None:
    with pytest.raises(DamagedBackup, match="does not begin with manifest"):
        announced(header("other.json", 100, CREATED_MS))
    with pytest.raises(DamagedBackup, match="does not begin with manifest"):
        announced(header(MANIFEST, 1 << 40, CREATED_MS))


def test_a_later_format_is_refused_by_its_number(backup: Path) -> None:
    data = backup.read_bytes()[BLOCK_BYTES : BLOCK_BYTES + reserved(2)]
    with pytest.raises(DamagedBackup, match="format 2; this build knows 1"):
        decode(data.replace(b'"format": 1', b'"format": 2'))


def test_a_state_is_compared_with_what_the_manifest_says(backup: Path, tmp_path: Path) -> None:
    """A whole file of one cluster's state and another's figures is no backup either."""
    with checked_state(tmp_path / "state") as state:
        fill(state)
        path = copy_of(state, tmp_path / "copy.mdb")
    truth = described(path, 0)
    for wrong in (
        replace(truth, index=truth.index + 1),
        replace(truth, term=truth.term + 1),
        replace(truth, revision=truth.revision + 1),
        replace(truth, keys=truth.keys + 1),
        replace(truth, digest="0" * 64),
    ):
        with pytest.raises(DamagedBackup, match="the manifest says"):
            backup_file.compare(wrong, examine(path))


def test_a_state_whose_records_are_rotten_is_refused_under_a_good_sha256(tmp_path: Path) -> None:
    with checked_state(tmp_path / "state") as state:
        fill(state)
        path = copy_of(state, tmp_path / "copy.mdb")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"again")] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedBackup, match="checksum mismatch"):
        backup_file.facts_of(path, "group 0")


def test_a_state_of_another_version_is_not_called_damaged(tmp_path: Path) -> None:
    with checked_state(tmp_path / "state") as state:
        fill(state)
        store = state.store
        with store.write() as txn:
            txn.put(b"format", seal(b"format", b"hivemem state 0"), db=store.databases.meta)
        path = copy_of(state, tmp_path / "copy.mdb")
    with pytest.raises(BackupError, match=r"another version.*hivemem state 0") as refused:
        backup_file.facts_of(path, "group 0")
    assert not isinstance(refused.value, DamagedBackup)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.write_bytes(b"the one before")
    with pytest.raises(RuntimeError, match="half way"), backup_file.writing(target, 0, 1):
        raise RuntimeError("half way")
    with (
        pytest.raises(BackupError, match="was not written: No space left"),
        backup_file.writing(target, 0, 1),
    ):
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert target.read_bytes() == b"the one before"
    with (
        pytest.raises(BackupError, match="cannot be written"),
        backup_file.writing(tmp_path / "absent" / "b", 0, 1),
    ):
        pass


# --- The digest of the content ---------------------------------------------------------


def content(state: State, path: Path) -> bytes:
    found = examine(copy_of(state, path)).content
    path.unlink()
    return found


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    """How entries were batched, empty entries, terms and limits are not in it."""
    digests = []
    for number in range(2):
        with checked_state(tmp_path / f"state{number}") as state:
            fill(state)
            if number:
                index = state.machine.applied_index
                state.machine.apply([Entry(index + 5, 9, [])])
                limits = replace(state.limits, request_ids_max=77)
                state.machine.apply([Entry(index + 6, 9, [encode(Configure(limits))])])
            digests.append(content(state, tmp_path / "copy.mdb"))
    assert digests[0] == digests[1]


def test_every_change_of_the_content_changes_the_digest(tmp_path: Path) -> None:
    with checked_state(tmp_path / "state") as state:
        fill(state)
        seen = {content(state, tmp_path / "copy.mdb")}
        for change in (
            lambda: state.put(b"k1", b"again"),  # the same value: another version
            lambda: state.delete(b"k3"),
            lambda: state.put(b"k4", b"v", ttl=1),
            lambda: state.put(b"k5", b"v", if_version=99, request_id="refused"),
        ):
            change()
            found = content(state, tmp_path / "copy.mdb")
            assert found not in seen
            seen.add(found)


def test_looking_at_a_file_does_not_change_it(tmp_path: Path) -> None:
    with checked_state(tmp_path / "state") as state:
        fill(state)
        path = copy_of(state, tmp_path / "copy.mdb")
    before = path.read_bytes()
    path.chmod(0o400)
    examine(path)
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"copy.mdb", "state"}


def test_a_padded_manifest_has_room_for_the_largest_figures() -> None:
    state = GroupState(1023, ((0, 16383),), 2**63, 2**63, 2**63, 2**63, 2**63, "f" * 64, "f" * 64)
    states = tuple(replace(state, group=number) for number in range(257))
    manifest = Manifest(CLUSTER, CREATED_MS, "10.20.30.dev40+local", states)
    assert decode(encoded(manifest)) == manifest
