"""Where the cluster is: one rule for the CLI, the MCP server and scripts.

Data folder of a local cluster: --data-dir, else HIVEMEM_DATA_DIR, else a fixed folder of
the user's (never the working folder: what was stored must be found from everywhere).
Endpoints: --endpoints, else HIVEMEM_ENDPOINTS, else the nodes of the cluster in the data
folder, else the default address. Token: --token-file, else HIVEMEM_TOKEN, else none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from node.errors import BadRequest

ENDPOINT_DEFAULT = "http://127.0.0.1:7411"


def add_endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --endpoints, --data-dir, --token-file and --ca-file."""
    parser.add_argument(
        "--endpoints", metavar="URL[,URL…]", help="nodes to ask (default: the local cluster's)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of a local cluster")
    parser.add_argument("--token-file", type=Path, metavar="F", help="file with a bearer token")
    parser.add_argument("--ca-file", metavar="F", help="PEM authorities to trust for https")


def data_dir(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder of the local cluster, by the rule above."""
    if flag is not None:
        return flag.expanduser().absolute()
    named = environ.get("HIVEMEM_DATA_DIR")
    if named:
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME")
    root = Path(base) if base else Path("~/.local/share").expanduser()
    return root / "hivemem"


def endpoints(options: argparse.Namespace, environ: Mapping[str, str]) -> list[str]:
    """Addresses of nodes, by the rule above. Raises BadRequest for what is no address."""
    named = options.endpoints or environ.get("HIVEMEM_ENDPOINTS")
    if named:
        found = [item.strip().rstrip("/") for item in named.split(",") if item.strip()]
        for item in found:
            if not item.startswith(("http://", "https://")):
                raise BadRequest(f"{item} is no URL such as {ENDPOINT_DEFAULT}", field="endpoints")
        return found
    return _of_local_cluster(data_dir(options.data_dir, environ)) or [ENDPOINT_DEFAULT]


def token(options: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The bearer token, by the rule above. Raises BadRequest for an unreadable file."""
    if options.token_file is None:
        return environ.get("HIVEMEM_TOKEN") or None
    try:
        return str(options.token_file.read_text().strip())
    except OSError as error:
        message = f"{options.token_file} cannot be read: {error.strerror}"
        raise BadRequest(message, field="token_file") from error


def _of_local_cluster(folder: Path) -> list[str]:
    try:
        nodes = json.loads((folder / "cluster.json").read_text())["nodes"]
        return [node["http"] for node in nodes]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{folder / 'cluster.json'} cannot be used: {error}"
        raise BadRequest(message, field="data_dir") from error
