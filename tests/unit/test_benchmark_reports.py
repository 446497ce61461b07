"""What the benchmarks make of their samples: medians, tables, lines of JSON, plots."""

from __future__ import annotations

import json
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from scripts.benchmarks import cases, plots, report, svg
from scripts.benchmarks.generator import Outcome
from scripts.benchmarks.measure import Footprint, Result, Sample, median
from scripts.benchmarks.systems import DOORS

SVG = "{http://www.w3.org/2000/svg}"


def sample(ops: float, p99_ms: float, cpu: float, errors: int = 0) -> Sample:
    outcome = Outcome(
        operations=round(ops),
        seconds=1.0,
        ops_per_s=ops,
        p50_ms=1.0,
        p99_ms=p99_ms,
        p999_ms=p99_ms * 2,
        mean_ms=1.0,
        max_ms=p99_ms * 3,
        sent=round(ops) + errors,
        answered=round(ops),
        errors=errors,
        unanswered=0,
        batch=1,
        generator_cpu_s=0.1,
        generator_wall_s=1.0,
        error_kinds={"-TRYAGAIN": errors} if errors else {},
    )
    return Sample(outcome, cpu)


def result(door: str, ops: float, clients: int = 64, errors: int = 0) -> Result:
    return median(cases.write(clients), door, [sample(ops, 9.0, 0.2, errors)])


def test_each_figure_is_the_median_of_the_repetitions() -> None:
    samples = [sample(100, 7.0, 0.3), sample(300, 5.0, 0.1, errors=2), sample(200, 9.0, 0.2)]
    found = median(cases.write(64), "etcd-grpc", samples)
    assert (found.ops_per_s, found.ops_per_s_min, found.ops_per_s_max) == (200, 100, 300)
    assert (found.p99_ms, found.cpu_s_per_1k) == (7.0, 0.2)
    assert (found.errors, found.error_kinds) == (2, ("-TRYAGAIN",))


def test_ratios_are_to_the_best_door_of_the_reference() -> None:
    results = [
        result("hivemem-redis", 900),
        result("etcd-grpc", 400),
        result("etcd-grpc-16", 600, errors=1),
    ]
    text = report.case_table(results, "etcd-grpc")
    assert "ratio to etcd-grpc-16" in text
    first, second = (line.split() for line in text.splitlines()[2:4])
    assert (first[0], first[3]) == ("hivemem-redis", "1.50")
    assert second[3] == "0.67"
    assert "etcd-grpc-16 failed with: -TRYAGAIN" in text
    assert "ratio to hivemem-redis" in report.case_table(results[:1], "etcd-grpc")


def test_a_line_of_json_has_what_was_promised() -> None:
    found = json.loads(report.json_line(result("etcd-http", 400)))
    assert {
        "system": "etcd-http",
        "case": "write",
        "clients": 64,
        "pipeline": 1,
        "ops_per_s": 400,
        "p50_ms": 1.0,
        "p99_ms": 9.0,
        "cpu_s_per_1k": 0.2,
    }.items() <= found.items()


@pytest.mark.parametrize("listed", [cases.quick(), cases.full()], ids=["quick", "full"])
def test_every_case_fits_its_doors(listed: list[cases.Case]) -> None:
    assert len({(case.name, case.clients, case.pipeline) for case in listed}) == len(listed)
    for case in listed:
        for name in case.doors:
            door = DOORS[name]
            load = case.load(door, 1, warmup=1, seconds=1, seed=1)
            if door.streams == 1 and not case.pipeline > 1:
                assert (load.connections, load.depth) == (case.clients, 1)
            assert load.connections * load.depth == case.clients * case.pipeline
            if name == "redis":
                assert case.stale, "its reads are not linearizable, nor its writes replicated"


def test_plots_can_be_read(tmp_path: Path) -> None:
    results = [
        result(door, 100 * clients, clients)
        for door in ("hivemem-redis", "etcd-grpc")
        for clients in cases.CLIENTS
    ]
    footprints = [Footprint("etcd", keys, 100, 1.0, keys * 300.0, keys * 500.0) for keys in (1, 9)]
    files = plots.draw(tmp_path, results, footprints)
    assert len(files) == 3
    for file in files:
        tree = xml.parse(file).getroot()
        words = [text.text or "" for text in tree.iter(f"{SVG}text")]
        assert {"etcd-grpc", "etcd"} & set(words)
        assert any("operations/s" in each or "MiB" in each for each in words), "a unit"
        _, _, width, height = map(float, tree.attrib["viewBox"].split())
        for line in tree.iter(f"{SVG}polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
    assert plots.draw(tmp_path / "none", [], []) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.3, "0.3"), (12_000, "12 k"), (1_500_000, "1.5 M")]
)
def test_numbers_beside_an_axis_are_short(value: float, text: str) -> None:
    assert svg.short(value) == text
