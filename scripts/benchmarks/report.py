"""What is printed, and the lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from scripts.benchmarks.measure import Footprint, Result
from scripts.benchmarks.systems import DOORS

HEADINGS = ("", "ops/s", "min–max", "ratio", "p50 ms", "p99 ms", "p99.9 ms", "CPU s/1k", "errors")


def case_table(results: Sequence[Result], reference: str) -> str:
    """One case. Ratios are of the rates, to the best door of the reference."""
    against = _reference(results, reference)
    rows = [
        (
            result.door,
            f"{result.ops_per_s:,.0f}",
            f"{result.ops_per_s_min:,.0f}–{result.ops_per_s_max:,.0f}",
            f"{result.ops_per_s / against.ops_per_s:.2f}" if against.ops_per_s else "–",
            f"{result.p50_ms:.2f}",
            f"{result.p99_ms:.2f}",
            f"{result.p999_ms:.2f}",
            f"{result.cpu_s_per_1k:.3f}",
            f"{result.errors}",
        )
        for result in results
    ]
    case = results[0].case
    lines = [
        f"{case.title}; {case.value_bytes}-byte values, {case.keys:,} keys "
        f"(ratio to {against.door}, medians of {results[0].repetitions})",
        *_aligned([HEADINGS, *rows]),
    ]
    lines += [
        f"  {result.door} failed with: {'; '.join(result.error_kinds) or 'no answer'}"
        for result in results
        if result.errors
    ]
    busiest = max(results, key=lambda result: result.generator_share)
    lines.append(f"  generator: at most {busiest.generator_share:.0%} of a core ({busiest.door})")
    return "\n".join(lines)


def _reference(results: Sequence[Result], reference: str) -> Result:
    """The best door whose name begins so; where none was measured, the first one."""
    named = [result for result in results if result.door.startswith(reference)]
    return max(named, key=lambda result: result.ops_per_s) if named else results[0]


def footprint_table(footprints: Sequence[Footprint]) -> str:
    heading = ("", "keys", "value B", "stored/s", "memory B/key", "disk B/key")
    rows = [
        (
            each.system,
            f"{each.keys:,}",
            f"{each.value_bytes}",
            f"{each.fill_ops_per_s:,.0f}",
            f"{each.resident_bytes / each.keys:,.0f}",
            f"{each.disk_bytes / each.keys:,.0f}",
        )
        for each in footprints
    ]
    title = "What the keys cost: growth of resident memory and of allocated disk, of one daemon"
    return "\n".join([title, *_aligned([heading, *rows])])


def size_table(writes: Sequence[Result]) -> str:
    heading = ("", "keys", "ops/s", "p50 ms", "p99 ms", "CPU s/1k", "errors")
    rows = [
        (
            each.door,
            f"{each.case.keys:,}",
            f"{each.ops_per_s:,.0f}",
            f"{each.p50_ms:.2f}",
            f"{each.p99_ms:.2f}",
            f"{each.cpu_s_per_1k:.3f}",
            f"{each.errors}",
        )
        for each in writes
    ]
    return "\n".join(["Writes, 64 clients, by size (medians)", *_aligned([heading, *rows])])


def json_line(result: Result) -> str:
    case = result.case
    return json.dumps(
        {
            "system": result.door,
            "case": case.name,
            "clients": case.clients,
            "pipeline": case.pipeline,
            "ops_per_s": round(result.ops_per_s, 1),
            "p50_ms": round(result.p50_ms, 3),
            "p99_ms": round(result.p99_ms, 3),
            "cpu_s_per_1k": round(result.cpu_s_per_1k, 4),
            "p999_ms": round(result.p999_ms, 3),
            "ops_per_s_min": round(result.ops_per_s_min, 1),
            "ops_per_s_max": round(result.ops_per_s_max, 1),
            "repetitions": result.repetitions,
            "value_bytes": case.value_bytes,
            "keys": case.keys,
            "batch": case.batch,
            "errors": result.errors,
            "generator_share": round(result.generator_share, 3),
        }
    )


def footprint_line(each: Footprint) -> str:
    return json.dumps(
        {
            "system": each.system,
            "case": "fill",
            "keys": each.keys,
            "value_bytes": each.value_bytes,
            "ops_per_s": round(each.fill_ops_per_s, 1),
            "resident_bytes_per_key": round(each.resident_bytes / each.keys, 1),
            "disk_bytes_per_key": round(each.disk_bytes / each.keys, 1),
        }
    )


def doors(names: Iterable[str]) -> list[str]:
    return [f"  {name}: {DOORS[name].note}" for name in names]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
