"""What is shown of patterns, trials and widths: JSON objects. Unknown figures are null."""

from __future__ import annotations

from typing import Any

from node.patterns import Pattern
from node.search_width import Width
from node.trials import Trial, Verdict

Json = dict[str, Any]


def pattern_view(pattern: Pattern) -> Json:
    """Under the optimizer's lock."""
    key, histogram = pattern.key, pattern.histogram
    return {
        "namespace": key.namespace,
        "collection": key.collection,
        "operation": key.operation,
        "shape": key.shape,
        "executions": pattern.executions,
        "cache_hits": pattern.hits,
        "computed": pattern.computed,
        "failures": pattern.failures,
        "latency_ms": {
            "mean": _ms(pattern.mean_seconds),
            "p50": _ms(histogram.percentile(0.5)),
            "p99": _ms(histogram.percentile(0.99)),
        },
        "total_seconds": pattern.seconds,
        "examined": pattern.examined,
        "returned": pattern.returned,
        "indexes": dict(pattern.indexes),
        "last_used_ms": pattern.last_used_ms or None,
        "trials": [trial_view(trial) for trial in pattern.trials.values()],
        "width": None if pattern.width is None else width_view(pattern.width),
    }


def trial_view(trial: Trial) -> Json:
    return {
        "point": trial.point,
        "state": trial.state.value,
        "control": trial.control,
        "alternatives": list(trial.others),
        "candidate": trial.candidate,
        "adopted": trial.adopted,
        "executions": trial.executions,
        "samples": {"control": trial.samples[0], "candidate": trial.samples[1]},
        "history": [_verdict_view(verdict) for verdict in trial.history],
    }


def width_view(width: Width) -> Json | None:
    """None while no search of the pattern was approximate."""
    if not width.samples and not width.doublings:
        return None
    return {
        "doublings": width.doublings,
        "recall": width.recall,
        "recall_min": width.target,
        "samples": width.samples,
        "exact_seconds": width.exact_seconds,
        "search_seconds": width.search_seconds,
        "history": [step._asdict() for step in width.history],
    }


def _verdict_view(verdict: Verdict) -> Json:
    return {
        "candidate": verdict.candidate,
        "outcome": verdict.outcome,
        "control_ms": _ms(verdict.control_seconds),
        "candidate_ms": _ms(verdict.candidate_seconds),
        "samples": {"control": verdict.samples[0], "candidate": verdict.samples[1]},
        "z": verdict.z,
        "executions": verdict.executions,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
