"""Where the cluster is: one rule for the CLI, the MCP server and scripts.

Data folder of a local cluster: --data-dir, else HIVEMEM_DATA_DIR, else a fixed folder of
the user's (never the working folder: what was stored must be found from everywhere).
Endpoints: --endpoints, else HIVEMEM_ENDPOINTS, else the nodes of the cluster in the data
folder, else the default address. Token: --token-file, else HIVEMEM_TOKEN, else the one that
the local cluster's file names, which is sent to that cluster's addresses only. Nodes that were
found in the data folder have to be of the cluster that it holds, whatever listens there now.
Certificates to trust: --ca-file, else HIVEMEM_CA_FILE, else the system's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.environment import environment
from node.errors import BadRequest
from node.topology import normalised

ENDPOINT_DEFAULT = "http://127.0.0.1:7411"


@dataclass(frozen=True, slots=True)
class Attachment:
    """How to reach a cluster, and where that was found: for messages."""

    endpoints: tuple[str, ...]
    token: str | None
    ca_file: str | None
    source: str
    cluster_id: str | None = None  # of the local cluster that was found: nodes have to be of it


def add_endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --endpoints, --data-dir, --token-file and --ca-file."""
    parser.add_argument(
        "--endpoints", metavar="URL[,URL…]", help="nodes to ask (default: the local cluster's)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of a local cluster")
    parser.add_argument("--token-file", type=Path, metavar="F", help="file with a bearer token")
    parser.add_argument(
        "--ca-file", type=Path, metavar="F", help="PEM certificates to trust for https"
    )


def from_options(options: argparse.Namespace) -> Attachment:
    """`find` with the flags of `add_endpoint_arguments`. Raises: BadRequest."""
    named = None if options.endpoints is None else _split(options.endpoints)
    return find(
        named,
        data_dir=options.data_dir,
        token_file=options.token_file,
        ca_file=options.ca_file,
    )


def find(
    endpoints: Sequence[str] | None = None,
    *,
    data_dir: Path | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Attachment:
    """Apply the rule above; what is given is a flag. Raises: BadRequest.

    A --data-dir that is given beats HIVEMEM_ENDPOINTS: a flag says what is meant now.
    """
    if environ is None:
        environ = environment()
    folder, source = _folder(data_dir, environ), "--endpoints"
    local_token = cluster_id = None
    if not endpoints and data_dir is None and environ.get("HIVEMEM_ENDPOINTS"):
        endpoints, source = _split(environ["HIVEMEM_ENDPOINTS"]), "HIVEMEM_ENDPOINTS"
    if not endpoints:
        found = _local_cluster(folder)
        if found is None and data_dir is not None:
            raise BadRequest(
                f"there is no cluster in {folder}; start one: hivemem up --data-dir {folder}",
                field="data_dir",
            )
        endpoints, local_token, cluster_id = found or ((ENDPOINT_DEFAULT,), None, None)
        source = f"{folder / 'cluster.json'}" if found else "the default"
    return Attachment(
        endpoints=tuple(dict.fromkeys(normalised(each) for each in endpoints)),
        token=_token(token_file, environ, local_token),
        ca_file=_ca_file(ca_file, environ),
        source=source,
        cluster_id=cluster_id,
    )


def data_dir(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder of the local cluster, by the rule above."""
    return _folder(flag, environ)


def _folder(flag: Path | None, environ: Mapping[str, str]) -> Path:
    if flag is not None:
        return flag.expanduser().absolute()
    named = environ.get("HIVEMEM_DATA_DIR")
    if named:
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME")
    root = Path(base) if base else Path("~/.local/share").expanduser()
    return root / "hivemem"


def _split(text: str) -> tuple[str, ...]:
    found = tuple(item.strip() for item in text.split(",") if item.strip())
    if not found:
        raise BadRequest("endpoints: names no address", field="endpoints")
    return found


def _token(flag: Path | None, environ: Mapping[str, str], local_token: Path | None) -> str | None:
    file = flag
    if file is None and environ.get("HIVEMEM_TOKEN"):
        return environ["HIVEMEM_TOKEN"]
    file = file or local_token
    if file is None:
        return None
    try:
        token = file.expanduser().read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
        raise BadRequest(f"{file} cannot be read: {reason}", field="token_file") from error
    if not token:
        raise BadRequest(f"{file} is empty; it must hold a bearer token", field="token_file")
    return token


def _ca_file(flag: Path | None, environ: Mapping[str, str]) -> str | None:
    named = flag or environ.get("HIVEMEM_CA_FILE")
    return None if not named else str(Path(named).expanduser())


def _local_cluster(folder: Path) -> tuple[tuple[str, ...], Path | None, str | None] | None:
    """Addresses, token file and id of the cluster in a folder; None if there is none."""
    file = folder / "cluster.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        addresses = tuple(str(node["http"]) for node in fields["nodes"])
        token_file, cluster_id = fields.get("token_file"), fields.get("cluster_id")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"{file} cannot be used: {error!r}", field="data_dir") from error
    if not addresses:
        raise BadRequest(f"{file} cannot be used: it lists no nodes", field="data_dir")
    token = None if token_file is None else folder / str(token_file)
    return addresses, token, None if cluster_id is None else str(cluster_id)
