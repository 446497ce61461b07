"""The data folder: whose it is, who uses it, and when its live state may be trusted."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.datadir import DataDir, explain, owner_pid, write_durably
from node.errors import ConfigError, DataDirError, DataDirInUse
from node.private_file import create_secret, read_secret

NODE = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"
CLUSTER = "11111111-1111-4111-8111-111111111111"

NOBODY = 65534  # uid of the user that owns nothing, on Linux


class CountingClock:
    """Ids 1, 2, 3…; a time that stands still."""

    def __init__(self) -> None:
        self.ids = 0

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic(self) -> float:
        return 0.0

    def new_id(self) -> str:
        self.ids += 1
        return f"incarnation-{self.ids}"

    def random(self) -> random.Random:
        return random.Random(0)

    def boot_id(self) -> str:
        return "boot-1"


CLOCK = CountingClock()


def open_dir(
    root: Path, node_id: str = NODE, cluster_id: str = CLUSTER, name: str = "n"
) -> DataDir:
    return DataDir.open(root, node_id=node_id, cluster_id=cluster_id, name=name, clock=CLOCK)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    folder = open_dir(tmp_path / "data")
    yield folder
    folder.close()


def live_file(data: DataDir, group: int = 0) -> Path:
    path = data.live_path(group) / "data.mdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"state")
    return path


# Identity


def test_a_new_folder_gets_an_identity_that_lasts(tmp_path: Path) -> None:
    first = open_dir(tmp_path / "deep" / "data")
    identity = first.identity
    first.close()
    assert (identity.node_id, identity.cluster_id) == (NODE, CLUSTER)
    assert identity.created_at == "2023-11-14T22:13:20.000+00:00"
    again = open_dir(tmp_path / "deep" / "data")
    assert again.identity == identity
    again.close()
    fields = json.loads((tmp_path / "deep" / "data" / "identity.json").read_text())
    assert fields["incarnation"] == identity.incarnation


def test_a_wiped_folder_gets_another_incarnation(tmp_path: Path) -> None:
    first = open_dir(tmp_path / "a")
    second = open_dir(tmp_path / "b")
    assert first.identity.incarnation != second.identity.incarnation
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("node_id", "cluster_id", "what"), [(OTHER, CLUSTER, "node"), (NODE, OTHER, "cluster")]
)
def test_a_folder_of_another_node_or_cluster_is_refused(
    tmp_path: Path, node_id: str, cluster_id: str, what: str
) -> None:
    open_dir(tmp_path).close()
    before = (tmp_path / "identity.json").read_bytes()
    with pytest.raises(DataDirError, match=f"belongs to {what} .*configuration says {what}"):
        open_dir(tmp_path, node_id, cluster_id)
    assert (tmp_path / "identity.json").read_bytes() == before
    open_dir(tmp_path).close()  # the refusal left no lock behind


def test_a_new_name_is_taken_over(tmp_path: Path) -> None:
    open_dir(tmp_path, name="old").close()
    open_dir(tmp_path, name="new").close()
    assert json.loads((tmp_path / "identity.json").read_text())["name"] == "new"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": 1, "node_id": "x"}'])
def test_a_damaged_identity_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(DataDirError, match=r"identity\.json is"):
        open_dir(tmp_path)
    assert (tmp_path / "identity.json").read_bytes() == content


def test_data_without_an_identity_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups" / "0" / "log").mkdir(parents=True)
    with pytest.raises(DataDirError, match=r"groups but no identity\.json"):
        open_dir(tmp_path)


def test_incarnations_of_peers_are_remembered(tmp_path: Path) -> None:
    first = open_dir(tmp_path)
    first.remember_incarnation(OTHER, "a")
    first.remember_incarnation(OTHER, "b")
    first.close()
    again = open_dir(tmp_path)
    assert again.identity.known_incarnations == {OTHER: "b"}
    written = (tmp_path / "identity.json").stat().st_mtime_ns
    again.remember_incarnation(OTHER, "b")
    assert (tmp_path / "identity.json").stat().st_mtime_ns == written
    again.close()


def test_an_interrupted_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def power_loss(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "power loss")

    monkeypatch.setattr(os, "replace", power_loss)
    with pytest.raises(OSError, match="power loss"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"


# Lock


def test_a_second_opener_learns_who_has_the_folder(data: DataDir) -> None:
    with pytest.raises(DataDirInUse, match=f"in use by pid {os.getpid()}") as caught:
        open_dir(data.root)
    assert caught.value.pid == os.getpid()
    assert owner_pid(data.root) == os.getpid()


def test_a_closed_folder_is_free(data: DataDir) -> None:
    data.close()
    data.close()
    assert owner_pid(data.root) is None
    open_dir(data.root).close()


def test_the_pid_of_a_dead_owner_is_not_believed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from node.clock import SystemClock\n"
        "from node.datadir import DataDir\n"
        f"held = DataDir.open(Path(sys.argv[1]), node_id={NODE!r}, cluster_id={CLUSTER!r},"
        " name='n', clock=SystemClock())\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert owner_pid(tmp_path) == child.pid
        child.kill()
    assert (tmp_path / "lock").read_text() == f"{child.pid}\n"
    assert owner_pid(tmp_path) is None
    open_dir(tmp_path).close()


def test_a_folder_that_is_not_there_has_no_owner(tmp_path: Path) -> None:
    assert owner_pid(tmp_path / "absent") is None


# Folders that cannot be used


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirError, match="a part of the path is a file"):
        open_dir(tmp_path / "file" / "data")
    with pytest.raises(DataDirError, match="it is a file, not a folder"):
        open_dir(tmp_path / "file")


def test_an_unwritable_folder_is_refused() -> None:
    # Not below tmp_path, which only its owner may enter: root has to become somebody else.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(DataDirError, match="may not write there"):
                open_dir(Path(folder) / "data")
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.EROFS, "read-only disk"),
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "may not write"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_reason_is_said_in_words(number: int, part: str) -> None:
    text = explain(Path("/d"), OSError(number, os.strerror(number)))
    assert text.startswith("data folder /d cannot be used: ")
    assert part in text


def test_a_disk_that_turns_read_only_is_noticed_at_the_start(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.close()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataDirError, match="read-only disk"):
        open_dir(data.root)


# Trust in live/


def test_a_new_folder_has_nothing_to_distrust(data: DataDir) -> None:
    assert data.live_is_trustworthy("boot-1")
    assert not data.prepare_live("boot-1")


def test_live_state_of_unknown_origin_is_discarded(data: DataDir) -> None:
    path = live_file(data)
    assert not data.live_is_trustworthy("boot-1")
    assert data.prepare_live("boot-1")
    assert not path.parent.exists()


def test_a_process_crash_keeps_live(data: DataDir) -> None:
    data.prepare_live("boot-1")
    path = live_file(data)
    assert not data.prepare_live("boot-1")
    assert path.exists()


def test_a_machine_crash_discards_live_of_every_group_and_nothing_else(data: DataDir) -> None:
    data.prepare_live("boot-1")
    paths = [live_file(data, group) for group in (0, 7)]
    log = data.log_path(0) / "1.seg"
    snapshot = data.snapshots_path(0) / "5" / "state.mdb"
    for kept in (log, snapshot):
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"truth")
    assert data.prepare_live("boot-2")
    assert not any(path.exists() for path in paths)
    assert log.exists()
    assert snapshot.exists()


def test_a_clean_stop_survives_a_reboot_once(data: DataDir) -> None:
    data.prepare_live("boot-1")
    path = live_file(data)
    data.mark_clean()
    assert not data.prepare_live("boot-2")
    assert path.exists()
    # The clean mark must not outlive the run that follows it.
    assert not data.live_is_trustworthy("boot-3")


def test_a_discard_that_was_interrupted_is_repeated(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.prepare_live("boot-1")
    paths = [live_file(data, group) for group in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda folder: (_ for _ in ()).throw(OSError(errno.EIO)))
        with pytest.raises(DataDirError):
            data.prepare_live("boot-2")
    assert data.prepare_live("boot-2")
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"boot_id": "boot-1"}', b'{"clean": "yes"}'])
def test_a_damaged_marker_vouches_for_nothing(data: DataDir, content: bytes) -> None:
    live_file(data)
    (data.root / "boot.json").write_bytes(content)
    assert not data.live_is_trustworthy("boot-1")


def test_an_unknown_boot_is_never_the_same_boot(data: DataDir) -> None:
    data.mark_running("")
    live_file(data)
    assert not data.live_is_trustworthy("")


# Figures and secrets


def test_usage_counts_what_is_allocated(data: DataDir) -> None:
    for path, size in ((data.log_path(0), 100_000), (data.live_path(3), 50_000)):
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"x" * size)
    with (data.live_path(3) / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    usage = data.usage()
    assert 100_000 <= usage.log_bytes < 200_000
    assert 50_000 <= usage.live_bytes < 150_000
    assert usage.snapshot_bytes == 0
    assert usage.free_bytes > 0


def test_a_secret_is_private_random_and_never_overwritten(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    create_secret(one)
    create_secret(two)
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert len(read_secret(one)) >= 32
    assert read_secret(one) != read_secret(two)
    with pytest.raises(FileExistsError):
        create_secret(one)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_secret(tmp_path / "secret")
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(tmp_path / "secret")


def test_white_space_does_not_make_a_secret_long(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x" * 20 + b"\n" * 20)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds 20 bytes"):
        read_secret(path)


@pytest.mark.parametrize("ends", [b"\n\x00", b" \xff", b"\x0b\x80"])
def test_a_secret_of_random_bytes_is_taken_whole(tmp_path: Path, ends: bytes) -> None:
    """As `head -c 32 /dev/urandom` makes it, whatever its first and last bytes are."""
    secret = ends[:1] + ends[1:] * 30 + ends[:1]
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_bytes(secret)
    assert read_secret(path) == secret


def test_white_space_around_a_secret_of_text_is_not_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_bytes(b" " + b"0123456789abcdef" * 2 + b"\r\n")
    assert read_secret(path) == b"0123456789abcdef" * 2
    path.write_bytes(b"\n" * 40)
    with pytest.raises(ConfigError):
        read_secret(path)
