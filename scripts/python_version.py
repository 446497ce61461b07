"""Find a Python that is new enough. This file must parse on every Python 3."""

import os
import shutil
import sys


def require():
    """Return if this Python will do; start again with a newer one, or exit saying what lacks."""
    if sys.version_info >= (3, 11):  # noqa: UP036 (older ones run this file too)
        return
    for name in ("python3.14", "python3.13", "python3.12", "python3.11"):
        if shutil.which(name):
            os.execvp(name, [name, *sys.argv])
    sys.exit("hivemem needs Python 3.11 or newer; this is " + sys.version.split()[0])
