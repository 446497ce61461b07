"""The benchmark of queries: what it sends is answered, and an error is no operation."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.http_load import Load, load, request
from tests.query_benchmark import Mix, query, reads
from tests.unit.http_door import open_door


async def test_every_request_is_answered_or_ends_the_run(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        address = f"http://127.0.0.1:{door.port}"
        made = [
            request("POST", "/v1/collections", json.dumps(each).encode())
            for each in (
                {"name": "docs", "engine": "document"}, {"name": "sql", "engine": "relational"},
            )
        ]  # fmt: skip
        made.append(query("sql", "sql_execute", sql="CREATE TABLE t (id INTEGER PRIMARY KEY, n)"))
        keys = [request("PUT", f"/v1/kv/default/s/k{n}", b"v") for n in range(1_000)]
        for some in (made, keys):
            sent = iter(some)
            setup = await load(address, Load(lambda sent=sent: next(sent, None), 1, None))
            assert setup.answered == len(some)
        for make in (*reads().values(), Mix(100)):
            left = iter(range(20))
            chance = random.Random(1)
            work = Load(
                lambda make=make, left=left, chance=chance: (
                    make(chance) if next(left, None) is not None else None
                ),
                2,
                None,
            )
            measured = await load(address, work)
            assert measured.answered == 20
            assert measured.per_second > 0
        wrong = query("absent", "document_count")
        with pytest.raises(RuntimeError, match="COLLECTION_NOT_FOUND"):
            await load(address, Load(lambda: wrong, 1, 5.0))


def test_the_mix_repeats_what_is_popular_and_is_the_same_each_time() -> None:
    mix, again = Mix(0), Mix(0)
    drawn = Counter(mix(random.Random(seed)) for seed in range(2_000))
    assert drawn == Counter(again(random.Random(seed)) for seed in range(2_000))
    assert drawn.most_common(1)[0][1] > 50
    assert len(drawn) > 300
    assert not any(b"document_upsert" in each for each in drawn)
    half = Mix(500)
    writes = sum(b"document_upsert" in half(random.Random(seed)) for seed in range(50))
    assert 10 < writes < 40
