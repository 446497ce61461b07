"""The rule that says where the cluster is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.client import connect
from node.discovery import ENDPOINT_DEFAULT, data_dir, find
from node.errors import BadRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    local_cluster(tmp_path / "data")
    return tmp_path / "data"


def local_cluster(folder: Path, **more: object) -> None:
    folder.mkdir()
    nodes = [{"name": f"n{i}", "http": f"http://127.0.0.1:{9000 + i}"} for i in (1, 2)]
    (folder / "cluster.json").write_text(json.dumps({"nodes": nodes, **more}))


LOCAL = ("http://127.0.0.1:9001", "http://127.0.0.1:9002")


def test_each_source_beats_the_next(folder: Path, tmp_path: Path):
    environ = {"HIVEMEM_ENDPOINTS": "e:1, e:2,", "HIVEMEM_DATA_DIR": str(folder)}
    nowhere = {"XDG_DATA_HOME": str(tmp_path / "empty")}
    assert find(["f:1"], environ=environ).endpoints == ("http://f:1",)
    assert find(environ=environ).endpoints == ("http://e:1", "http://e:2")
    assert find(environ={"HIVEMEM_DATA_DIR": str(folder)}).endpoints == LOCAL
    assert find(environ=nowhere).endpoints == (ENDPOINT_DEFAULT,)
    # A flag says what is meant now.
    assert find(data_dir=folder, environ=environ).endpoints == LOCAL


def test_the_data_folder_rule(tmp_path: Path):
    both = {"HIVEMEM_DATA_DIR": "/d", "XDG_DATA_HOME": "/x"}
    assert data_dir(tmp_path, both) == tmp_path
    assert data_dir(None, both) == Path("/d")
    assert data_dir(None, {"XDG_DATA_HOME": "/x"}) == Path("/x/hivemem")
    assert data_dir(None, {}) == Path("~/.local/share/hivemem").expanduser()


def test_a_named_folder_without_a_cluster_is_an_error(tmp_path: Path):
    with pytest.raises(BadRequest, match="hivemem up"):
        find(data_dir=tmp_path, environ={})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nodes": []}', '{"nodes": [{}]}', "\0"])
def test_a_damaged_cluster_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(BadRequest, match=r"cluster\.json"):
        find(data_dir=tmp_path, environ={})


def test_tokens(tmp_path: Path, folder: Path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    environ = {"HIVEMEM_TOKEN": "from-env", "HIVEMEM_DATA_DIR": str(folder)}
    assert find(token_file=file, environ=environ).token == "from-file"
    assert find(environ=environ).token == "from-env"
    assert find(data_dir=folder, environ={}).token is None
    file.write_text("")
    with pytest.raises(BadRequest):
        find(["f:1"], token_file=file, environ={})
    with pytest.raises(BadRequest):
        find(["f:1"], token_file=tmp_path / "none", environ={})


def test_the_local_clusters_token_goes_to_the_local_cluster_only(tmp_path: Path):
    folder = tmp_path / "with-token"
    local_cluster(folder, token_file="token")
    (folder / "token").write_text("secret")
    environ = {"HIVEMEM_DATA_DIR": str(folder)}
    assert find(environ=environ).token == "secret"
    assert find(["elsewhere:1"], environ=environ).token is None


def test_the_nodes_of_a_folder_have_to_be_of_its_cluster(tmp_path: Path):
    folder = tmp_path / "named"
    local_cluster(folder, cluster_id="c7")
    environ = {"HIVEMEM_DATA_DIR": str(folder)}
    assert find(environ=environ).cluster_id == "c7"
    assert find(["elsewhere:1"], environ=environ).cluster_id is None
    assert find(environ={**environ, "HIVEMEM_ENDPOINTS": "elsewhere:1"}).cluster_id is None


async def test_connect_applies_the_rule(folder: Path):
    async with connect(data_dir=folder) as client:
        assert client.endpoints == LOCAL
