"""Peer addresses in the settings files of a plan's nodes."""

from __future__ import annotations

from collections.abc import Mapping

from node.local_plan import Plan


def readdress(plan: Plan, peers: Mapping[str, str]) -> None:
    """Let all nodes know each other by these peer addresses, instead of their own."""
    for node in plan.nodes:
        path = plan.config_path(node)
        text = path.read_text()
        for other in plan.nodes:
            text = text.replace(f'peer = "{other.peer}"', f'peer = "{peers[other.name]}"')
        path.write_text(text)
