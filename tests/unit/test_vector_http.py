"""Vectors through the HTTP door: the examples of the engine's document, as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.unit.http_door import open_door

DOCUMENT = Path(__file__).parents[2] / "docs" / "engines" / "vector.md"


def examples() -> list[tuple[str, Any]]:
    """(path, body) of each curl."""
    found = re.findall(r"curl -s 127.0.0.1:7411(\S+) -d '(.*?)'", DOCUMENT.read_text(), re.DOTALL)
    return [(path, json.loads(body)) for path, body in found]


async def test_the_documents_examples(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        answers = []
        for path, body in examples():
            reply = await door.request("POST", path, json.dumps(body).encode())
            assert reply.status in (200, 201), reply.body
            answers.append(reply.json())
        inserted, found, deleted = (answer["result"] for answer in answers[1:])
        assert inserted == {"ids": ["a", "b"], "inserted": 2, "replaced": 0}
        assert [match["id"] for match in found["matches"]] == ["a"]
        assert found["matches"][0]["metadata"] == {"lang": "en"}
        assert deleted == {"deleted": 1, "next_cursor": None}


async def test_a_refusal_names_the_place(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        (path, create), (queries, insert), *_ = examples()
        await door.request("POST", path, json.dumps(create).encode())
        insert["parameters"]["documents"][1]["vector"] = [1, 2]
        reply = await door.request("POST", queries, json.dumps(insert).encode())
        assert (reply.status, reply.code) == (400, "INVALID_ARGUMENT")
        assert reply.json()["error"]["field"] == "parameters.documents[1].vector"
        count = {"operation": "vector_count", "collection": insert["collection"]}
        reply = await door.request("POST", queries, json.dumps(count).encode())
        assert reply.json()["result"] == {"count": 0}
