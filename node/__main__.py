"""`python -m node --config FILE`: one daemon in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import uvloop

from cluster.errors import Removed
from node.config import add_config_arguments, load
from node.environment import one_thread_a_computation, uncollected, use_utc
from node.errors import StartupError
from node.logs import configure_logging
from node.machine_code import outdated
from node.upkeep import is_out_of_space, wait_for_room


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a clean stop, 1 when the node could not start or had to stop.

    A node that was removed from its cluster has done what it was asked to: it ends with 0, so
    that a supervisor which restarts failures leaves it alone. A disk that ran full is no
    defect of the node: it waits for room and starts again, since nobody may be watching.
    """
    parser = argparse.ArgumentParser(prog="python -m node", description="Run one hivemem node.")
    add_config_arguments(parser)
    options = parser.parse_args(arguments)
    newer = outdated(Path(__file__).parent.parent)
    if newer is not None:
        logging.getLogger("hivemem").critical(
            "%s is newer than the machine code: say scripts/compile again, or --remove", newer
        )
        return 1
    use_utc()
    one_thread_a_computation()
    with uncollected():
        from node.daemon import run

    try:
        config = load(options.config, options.set)
        configure_logging(config.node)
        uvloop.run(run(config))
    except StartupError as error:
        logging.getLogger("hivemem").critical("%s", error)
        return 1
    except Removed:
        return 0
    except Exception as error:
        logging.getLogger("hivemem").critical("the node stopped", exc_info=True)
        if not is_out_of_space(error):
            return 1
        wait_for_room(config.node.data_dir, config.storage.free_bytes_min)
        # A new process: after a failed write nothing in memory is to be relied on.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
