"""`hivemem doctor` looks, `hivemem repair` acts: on a cluster, or on a stopped node's folder.

Exit status of both: 0, everything is sound (or was made good); 1, something is damaged (or could
not be made good); the others as for every command.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from node import console
from node.cli_options import EXIT_CODES, EXIT_DONE, EXIT_FAILED, UsageError, add_client_command
from node.clock import SystemClock
from node.errors import HivememError

if TYPE_CHECKING:
    from node.client import HivememClient
    from node.examination import Finding, Mended

COMPARE_MS_MIN = 10_000  # an entry is committed, and applied by every replica
_EXIT = "Exit status: 0 sound, or made good; 1 damaged, or not made good. "


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    doctor = add_client_command(
        subparsers, "doctor", "see whether what a cluster, or a stopped node, holds is sound", _look
    )
    repair = add_client_command(
        subparsers, "repair", "make good what is damaged on a node", _reseed
    )
    repair.add_argument("node", nargs="?", metavar="NODE", help="name or id of a running node")
    repair.add_argument(
        "--group", type=int, metavar="N", help="only this group (0 or a partition's number)"
    )
    repair.add_argument(
        "--reseed",
        action="store_true",
        help="with --node-dir: set log, snapshots and state aside, whole; the node comes back as "
        "one that lost its disk",
    )
    for command in (doctor, repair):
        command.epilog = _EXIT + EXIT_CODES
        command.add_argument(
            "--node-dir",
            type=Path,
            metavar="DIR",
            help="instead of a running cluster: the data folder of a node that is stopped",
        )
        online = command.get_default("run")
        offline = _examine if command is doctor else _mend
        command.set_defaults(run=_either(online, offline))


def _either(online: Any, offline: Any) -> Any:
    def run(options: argparse.Namespace) -> int:
        return int((online if options.node_dir is None else offline)(options))

    return run


# --- A stopped node --------------------------------------------------------------------------


def _examine(options: argparse.Namespace) -> int:
    from node.examination import examine

    findings = examine(options.node_dir)
    _show_findings(findings, options)
    return EXIT_DONE if all(each.ok for each in findings) else EXIT_FAILED


def _mend(options: argparse.Namespace) -> int:
    from node.examination import examine, mend, set_all_aside

    if options.node is not None or options.group is not None:
        raise UsageError("NODE and --group are for a running cluster, not for --node-dir")
    root = options.node_dir
    findings = examine(root)
    if options.reseed:
        aside = set_all_aside(root)
        fields = {"findings": [asdict(each) for each in findings], "aside": str(aside)}
        text = f"everything is set aside in {aside}; start the node: the cluster readmits it"
        _tell(options, fields, text)
        return EXIT_DONE
    mended = mend(root, findings, SystemClock())
    if options.output == "json":
        console.write_json(
            {
                "findings": [asdict(each) for each in findings],
                "mended": [asdict(each) for each in mended],
            }
        )
    else:
        _show_findings(findings, options)
        _show_mended(mended)
    return EXIT_DONE if all(each.done for each in mended) else EXIT_FAILED


def _show_findings(findings: Sequence[Finding], options: argparse.Namespace) -> None:
    if options.output == "json":
        console.write_json({"findings": [asdict(each) for each in findings]})
        return
    console.table(
        ("part", "group", "", "path", "what was found"),
        [
            (
                each.part,
                "-" if each.group is None else str(each.group),
                "ok" if each.ok else "DAMAGED",
                each.path,
                each.message,
            )
            for each in findings
        ],
    )


def _show_mended(mended: Sequence[Mended]) -> None:
    for each in mended:
        console.write(f"{each.part} {each.path}: {each.message}\n")
    if not mended:
        console.write("nothing is damaged, and nothing was done\n")


def _tell(options: argparse.Namespace, fields: Mapping[str, object], text: str) -> None:
    if options.output == "json":
        console.write_json(fields)
    else:
        console.write(f"{text}\n")


# --- A running cluster -----------------------------------------------------------------------


async def _look(client: HivememClient, options: argparse.Namespace) -> int:
    """Every node's own account, and a comparison of all groups now."""
    view = await client.cluster()
    timeout_ms = max(options.timeout_ms, COMPARE_MS_MIN)
    nodes = [cast("Mapping[str, Any]", each) for each in view["nodes"]]
    accounts = await asyncio.gather(*(_account(client, each, timeout_ms) for each in nodes))
    names = {str(each["id"]): str(each["name"]) for each in nodes}
    comparisons = [found for account in accounts for found in account["comparisons"]]
    problems = [text for account in accounts for text in account["problems"]]
    problems += [text for each in comparisons if (text := _problem(each, names))]
    if options.output == "json":
        console.write_json({"nodes": accounts, "problems": problems})
    else:
        _show_cluster(accounts, comparisons, names)
        for text in problems:
            console.write(f"{text}\n")
        if not problems:
            console.write("everything that was looked at is sound\n")
    return EXIT_FAILED if problems else EXIT_DONE


async def _account(
    client: HivememClient, node: Mapping[str, Any], timeout_ms: int
) -> dict[str, Any]:
    name, endpoint = str(node["name"]), str(node["http"])
    found: dict[str, Any] = {"id": node["id"], "name": name, "http": endpoint}
    found |= {"integrity": [], "comparisons": [], "problems": []}
    try:
        status = cast("Mapping[str, Any]", await client.status(endpoint))
        found["integrity"] = status["integrity"]
        found["comparisons"] = await client.compare_digests(endpoint, timeout_ms=timeout_ms)
    except HivememError as error:
        found["problems"].append(f"{name} does not answer: {error.message}")
        return found
    for each in found["integrity"]:
        where = f"{name}, group {each['group']}"
        if each["state"] != "serving":
            found["problems"].append(f"{where}: {each['state']}: {each['reason']}")
        scrub = each["scrub"]
        if scrub and scrub["errors"]:
            found["problems"].append(f"{where}: the scrub found {scrub['last_error']}")
    return found


def _problem(compared: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """What is wrong with a comparison; None if nothing is."""
    where = f"group {compared['group']}"
    if compared["error"] is not None:
        return f"{where}: not compared: {compared['error']}"
    if compared["differ"]:
        odd = ", ".join(names.get(node, node) for node in compared["odd"]) or "nobody knows which"
        return f"{where}: {compared['message']} (odd: {odd})"
    return None


def _show_cluster(
    accounts: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
) -> None:
    rows = []
    for account in accounts:
        for each in account["integrity"]:
            scrub = each["scrub"] or {}
            rows.append(
                (
                    account["name"],
                    str(each["group"]),
                    each["state"],
                    str(sum(each["quarantines"].values())),
                    str(scrub.get("passes", "-")),
                    str(scrub.get("errors", "-")),
                )
            )
    console.table(("node", "group", "state", "quarantines", "scrubs", "found"), rows)
    if comparisons:
        console.table(
            ("group", "entry", "digest", "agreed", "odd", "silent"),
            [_compared_row(each, names) for each in comparisons if each["error"] is None],
        )


def _compared_row(compared: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, ...]:
    groups = (compared["agreed"], compared["odd"], compared["silent"])
    shown = (", ".join(names.get(node, node) for node in nodes) or "-" for nodes in groups)
    return (
        str(compared["group"]), str(compared["index"]), (compared["digest"] or "-")[:16], *shown
    )  # fmt: skip


async def _reseed(client: HivememClient, options: argparse.Namespace) -> int:
    """Compare, which has odd replicas rebuilt; then rebuild the node that is named."""
    if options.reseed:
        raise UsageError("--reseed is for --node-dir")
    if options.node is None:
        return await _look(client, options)
    view = await client.cluster()
    matching = [each for each in view["nodes"] if options.node in (each["name"], each["id"])]
    if not matching:
        raise UsageError(f"no node is called {options.node!r}")
    node = str(matching[0]["id"])
    groups = await client.reseed_member(node, group=options.group)
    text = ", ".join(map(str, groups))
    _tell(
        options,
        {"node": node, "groups": list(groups)},
        f"{options.node} drops its state of group {text} and takes the leader's; "
        "`hivemem doctor` says when it serves again",
    )
    return EXIT_DONE
