"""`python -m node --config FILE`: one daemon in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import sys

import uvloop

from node.config import add_config_arguments, load
from node.daemon import run
from node.errors import StartupError
from node.logs import configure_logging


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a clean stop, 1 when the node could not start or had to stop."""
    parser = argparse.ArgumentParser(prog="python -m node", description="Run one hivemem node.")
    add_config_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        config = load(options.config, options.set)
        configure_logging(config.node)
        uvloop.run(run(config))
    except StartupError as error:
        logging.getLogger("hivemem").critical("%s", error)
        return 1
    except Exception:
        logging.getLogger("hivemem").critical("the node stopped", exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
