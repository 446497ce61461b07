"""Fixtures of the cluster tests; daemons' logs are shown with a failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from tests.cluster.harness import LocalCluster, running_cluster

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real daemons."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LocalCluster]:
    """Three nodes with a leader. Parametrize indirectly with a dict of settings."""
    settings: dict[str, str] = getattr(request, "param", {})
    async with running_cluster(tmp_path, settings=settings) as running:
        yield running
        if request.node.stash.get(_FAILED, False):
            print(running.log_tails())
