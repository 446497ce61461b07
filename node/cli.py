"""`hivemem`: the command line, top to bottom.

Commands live in node/cli_*.py; each sets `run`, a function from options to exit status.
Every error becomes one line that says what happened and what to do, and an exit status.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from node import console
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
    OutOfSpace,
    StartupError,
    Unavailable,
)

# A command's module is imported when the command is asked for, all of them for --help:
# what `get` needs is loaded in half the time.
MODULES = {
    "node.cli_cluster": ("up", "down", "start"),
    "node.cli_data": ("get", "put", "rm", "ls", "history", "watch"),
    "node.cli_forget": ("forget",),
    "node.cli_collections": ("collection", "query"),
    "node.cli_transfer": ("import", "export"),
    "node.cli_measure": ("status", "bench"),
    "node.cli_member": ("member", "transfer-leadership", "recover"),
    "node.cli_partitions": ("partitions",),
    "node.cli_optimizer": ("optimizer",),
    "node.cli_mcp": ("mcp",),
    "node.cli_snapshot": ("snapshot",),
    "node.cli_doctor": ("doctor", "repair"),
}

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
    "COLLECTION_NOT_FOUND": "`hivemem collection list` shows what there is",
    "COLLECTION_EXISTS": "choose another name, or drop it first",
    "MEMBER_NOT_FOUND": "`hivemem member list` shows who is one",
    "DISK_FULL": "make room on the leader's disk, or have another lead: transfer-leadership",
    "COMPACTED": "start again from what is there now",
    "INTERNAL": "the node's log says why",
}


class _Version(argparse.Action):
    """Prints the installed version, which takes longer to find out than most commands run."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        import importlib.metadata

        console.write(f"hivemem {importlib.metadata.version('hivemem')}")
        parser.exit()


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or one that knows no others than those beside `command`."""
    parser = argparse.ArgumentParser(
        prog="hivemem",
        description="Shared, durable memory for fleets of AI agents.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = [name for name, contains in MODULES.items() if command in contains]
    for name in chosen or MODULES:
        importlib.import_module(name).add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser(given[0] if given else None).parse_args(given)
    try:
        return int(options.run(options))
    except HivememError as error:
        _report(error, options)
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
        case Unavailable() | DeadlineExceeded() | OutOfSpace():
            return EXIT_UNAVAILABLE
        case _:
            return EXIT_FAILED


def _report(error: HivememError, options: argparse.Namespace) -> None:
    if getattr(options, "output", "table") == "json":
        names = ("code", "message", "definite", "leader", "field", "version", "request_id")
        console.say_json({"error": {name: getattr(error, name) for name in names}})
        return
    message = error.message
    if error.code == "KEY_NOT_FOUND" and hasattr(options, "path"):
        message = f"{message}: {options.path}"
    advice = _ADVICE.get(error.code if error.definite else "OUTCOME_UNKNOWN")
    # The error's own words may give it already.
    more = f"; {advice}" if advice and "request" not in message else ""
    console.say(f"hivemem: {console.printable(message)} [{error.code}]{more}")


if __name__ == "__main__":
    sys.exit(main())
