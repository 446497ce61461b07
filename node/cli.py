"""`hivemem`: the command line. Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found,
4 conflict, 5 unavailable, 130 interrupted."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

from node import cli_cluster, cli_data, cli_mcp
from node.errors import Conflict, HivememError, NotFound, StartupError, Unavailable

EXIT_FAILED, EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 1, 3, 4, 5, 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hivemem", description="Shared, durable memory for fleets of AI agents."
    )
    version = importlib.metadata.version("hivemem")
    parser.add_argument("--version", action="version", version=f"hivemem {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cli_cluster.add_commands(commands)
    cli_data.add_commands(commands)
    cli_mcp.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error is one line that says what happened and what to do."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except NotFound as error:
        return _fail(error, EXIT_NOT_FOUND)
    except Conflict as error:
        return _fail(error, EXIT_CONFLICT)
    except Unavailable as error:
        return _fail(error, EXIT_UNAVAILABLE, _advice(error))
    except (HivememError, StartupError) as error:
        return _fail(error, EXIT_FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; there is nobody to tell
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _advice(error: Unavailable) -> str:
    if not error.definite:
        return " The write may have been applied; look before you repeat it."
    return " Is the cluster running? `hivemem status` shows it, `hivemem up` starts a local one."


def _fail(error: Exception, status: int, advice: str = "") -> int:
    code = f" [{error.code}]" if isinstance(error, HivememError) else ""
    sys.stderr.write(f"hivemem: {error}{code}.{advice}\n".replace("..", "."))
    return status


if __name__ == "__main__":
    sys.exit(main())
