"""`hivemem`: the command line, top to bottom.

Commands live in node/cli_*.py; each sets `run`, a function from options to exit status.
Every error becomes one line that says what happened and what to do, and an exit status.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence

from node import cli_cluster, cli_data, cli_mcp, cli_measure, cli_transfer, console
from node.cli_options import (
    EXIT_CODES,
    EXIT_CONFLICT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    UsageError,
)
from node.errors import (
    Conflict,
    DeadlineExceeded,
    HivememError,
    NotFound,
    StartupError,
    Unavailable,
)

_ADVICE = {
    "UNREACHABLE": "start a cluster with `hivemem up`, or name its nodes with --endpoints",
    "QUORUM_NOT_REACHED": "`hivemem status` shows which nodes are missing",
    "OVERLOADED": "try again in a moment",
    "STOPPING": "try again: another node takes over",
    "DEADLINE_EXCEEDED": "try again, or allow more with --timeout-ms",
    "OUTCOME_UNKNOWN": "look before you repeat it",
    "VERSION_CONFLICT": "read it again, then write over the version that you read",
    "REQUEST_ID_REUSED": "use another --request-id",
    "UNAUTHENTICATED": "give a token with --token-file or HIVEMEM_TOKEN",
    "COMPACTED": "start again from what is there now",
    "INTERNAL": "the node's log says why",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hivemem",
        description="Shared, durable memory for fleets of AI agents.",
        epilog=EXIT_CODES,
    )
    version = importlib.metadata.version("hivemem")
    parser.add_argument("--version", action="version", version=f"hivemem {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cli_cluster.add_commands(commands)
    cli_data.add_commands(commands)
    cli_transfer.add_commands(commands)
    cli_measure.add_commands(commands)
    cli_mcp.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    options = build_parser().parse_args(arguments)
    as_json = getattr(options, "output", "table") == "json"
    try:
        return int(options.run(options))
    except HivememError as error:
        _report(error, as_json=as_json)
        return _status_of(error)
    except UsageError as error:
        console.say(f"hivemem {options.command}: {error}; see hivemem {options.command} --help")
        return EXIT_USAGE
    except StartupError as error:
        console.say(f"hivemem: {error}")
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        console.say(f"hivemem: {error.filename or 'input or output'}: {error.strerror or error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _status_of(error: HivememError) -> int:
    match error:
        case NotFound():
            return EXIT_NOT_FOUND
        case Conflict():
            return EXIT_CONFLICT
        case Unavailable() | DeadlineExceeded():
            return EXIT_UNAVAILABLE
        case _:
            return EXIT_FAILED


def _report(error: HivememError, *, as_json: bool) -> None:
    if as_json:
        fields = {
            "code": error.code,
            "message": error.message,
            "definite": error.definite,
            "leader": error.leader,
            "field": error.field,
            "version": error.version,
        }
        console.say(json.dumps({"error": fields}))
        return
    advice = _ADVICE.get(error.code if error.definite else "OUTCOME_UNKNOWN")
    # The client's own words may say the same already.
    more = f"; {advice}" if advice and "request_id" not in error.message else ""
    console.say(f"hivemem: {console.printable(error.message)} [{error.code}]{more}")


if __name__ == "__main__":
    sys.exit(main())
