"""What a node sets of its process: the only user of os.environ, and of Python's collector.

Apart from the settings, because clients need no more.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType


def environment() -> Mapping[str, str]:
    """A read-only copy of the process's environment."""
    return MappingProxyType(dict(os.environ))


def use_utc() -> None:
    """Make UTC the local time of this process, for good: what SQL says of local time goes into
    the state, which must not depend on where a machine stands."""
    os.environ["TZ"] = "UTC0"
    time.tzset()


def one_thread_a_computation() -> None:
    """Let numpy's linear algebra use the thread that asks for it, unless the environment says
    otherwise; before numpy is imported. Its own threads look for work in a loop, which takes a
    core from the other requests: 5 % of the time of a node that answers vector searches."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def uncollected() -> Iterator[None]:
    """For importing what a node is made of: all of it stays, and looking at it for what could
    go takes a twelfth of a start."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def settle_memory() -> None:
    """Take what a node is made of, once it has started, out of what Python's collector looks at.

    The whole heap is looked at again and again otherwise: 38 ms each time, in which nothing is
    answered, and 4 % of a busy leader's time (docs/benchmarks.md). What is made later is still
    looked at: a full cache of answers takes some 20 ms.
    """
    gc.collect()
    gc.freeze()
