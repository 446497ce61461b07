"""Loading and checking a node's settings: default < TOML < environment < flag.

`load` is the only way to a `NodeConfig` in a daemon; it refuses unknown keys and reports
every problem it can find at once. There is no module-level configuration object: whoever
needs settings is given them.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from node.config_checks import Finding, check
from node.config_schema import SECTIONS, Member, NodeConfig, Setting, settings
from node.environment import environment
from node.errors import ConfigError

# Variables with our prefix that are no settings of a daemon: clients and tests read them.
OTHER_VARIABLES = frozenset(
    {
        "HIVEMEM_CA_FILE",
        "HIVEMEM_DATA_DIR",
        "HIVEMEM_ENDPOINTS",
        "HIVEMEM_SEED",
        "HIVEMEM_TOKEN",
    }
)

_PLACEHOLDERS: Mapping[str, object] = {"str": "", "Path": Path(), "tuple[Member, ...]": ()}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and `--set section.field=value` to a command."""
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the node's TOML file"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="set one setting; stronger than the environment and the file",
    )


def load(
    path: Path, flags: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> NodeConfig:
    """Read, merge and check the settings of one node.

    `flags` are "section.field=value" texts. Relative paths in the file are relative to
    the file's folder, others to the working directory. Raises ConfigError with every
    problem found.
    """
    draft = _Draft()
    _read_file(draft, path)
    _read_environment(draft, environment() if environ is None else environ)
    _read_flags(draft, flags)
    config = _build(draft)
    problems = [*draft.problems, *_unbroken(check(config), draft.broken)]
    if problems:
        raise ConfigError(problems)
    return config


def validate(config: NodeConfig) -> None:
    """Check relations, addresses and files. Raises ConfigError with every problem at once."""
    problems = [finding.message for finding in check(config)]
    if problems:
        raise ConfigError(problems)


@dataclass
class _Draft:
    """Values collected layer by layer, and what was wrong with them."""

    values: dict[str, object] = field(default_factory=dict)  # "section.field" → value
    problems: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # fields that findings must not mention again

    def refuse(self, key: str, message: str) -> None:
        self.problems.append(f"{key}: {message}")
        self.broken.add(key)


_SETTINGS: Mapping[str, Setting] = {f"{item.section}.{item.name}": item for item in settings()}
_VARIABLES: Mapping[str, str] = {item.variable: key for key, item in _SETTINGS.items()}


def _read_file(draft: _Draft, path: Path) -> None:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError([f"{path}: not a TOML file: {error}"]) from error
    for section, content in document.items():
        if section not in SECTIONS:
            draft.refuse(section, f"unknown section in {path}; {_known(SECTIONS)}")
        elif not isinstance(content, dict):
            draft.refuse(section, f"must be a table [{section}]")
        else:
            for name, value in content.items():
                _set_from_file(draft, f"{section}.{name}", value, path)


def _set_from_file(draft: _Draft, key: str, value: object, path: Path) -> None:
    setting = _SETTINGS.get(key)
    if setting is None:
        section = key.partition(".")[0]
        names = [item.name for item in settings() if item.section == section]
        draft.refuse(key, f"unknown key in {path}; {_known(names)}")
        return
    try:
        draft.values[key] = _typed(setting, value, path.absolute().parent)
    except ValueError as error:
        draft.refuse(key, str(error))


def _read_environment(draft: _Draft, environ: Mapping[str, str]) -> None:
    for variable, text in environ.items():
        if not variable.startswith("HIVEMEM_") or variable in OTHER_VARIABLES:
            continue
        if variable not in _VARIABLES:
            draft.refuse(variable, "unknown setting in the environment; unset it or correct it")
            continue
        key = _VARIABLES[variable]
        try:
            draft.values[key] = _from_text(_SETTINGS[key], text)
        except ValueError as error:
            draft.refuse(key, f"{error} (from {variable})")


def _read_flags(draft: _Draft, flags: Sequence[str]) -> None:
    for flag in flags:
        key, equals, text = flag.partition("=")
        if key not in _SETTINGS or not equals:
            draft.refuse(flag, "must be SECTION.FIELD=VALUE with a known setting")
            continue
        try:
            draft.values[key] = _from_text(_SETTINGS[key], text)
        except ValueError as error:
            draft.refuse(key, f"{error} (from --set)")


def _from_text(setting: Setting, text: str) -> object:
    """Decode a value that came as text: an environment variable or a flag."""
    if setting.type == "int":
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"must be an integer, not {text!r}") from None
    if setting.type == "bool":
        if text not in ("true", "false"):
            raise ValueError(f"must be true or false, not {text!r}")
        return text == "true"
    if setting.type == "tuple[Member, ...]":
        try:
            return _members(json.loads(text))
        except json.JSONDecodeError:
            raise ValueError("must be a JSON list of {id, name, peer, http}") from None
    return _typed(setting, text, Path.cwd())


def _typed(setting: Setting, value: object, folder: Path) -> object:
    """Check a value's type; paths become absolute from `folder`. Raises ValueError."""
    if setting.type == "int":
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be an integer, not {value!r}")
        return value
    if setting.type == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {value!r}")
        return value
    if setting.type == "tuple[Member, ...]":
        return _members(value)
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {value!r}")
    if not setting.type.startswith("Path"):
        return value
    if not value or "\0" in value:
        raise ValueError("must be a path")
    # normpath, so that "../secret" shows as the folder it is and "." as the file's own.
    return Path(os.path.normpath(folder / Path(value).expanduser()))


def _members(value: object) -> tuple[Member, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of {id, name, peer, http}")
    return tuple(_member(item) for item in value)


def _member(item: object) -> Member:
    names = [part.name for part in fields(Member)]
    if not isinstance(item, dict) or sorted(item) != sorted(names):
        raise ValueError(f"each member must have exactly {', '.join(names)}, not {item!r}")
    if not all(isinstance(text, str) for text in item.values()):
        raise ValueError(f"a member's {', '.join(names)} must be strings, not {item!r}")
    return Member(**item)


def _build(draft: _Draft) -> NodeConfig:
    """Make sections of what was read; placeholders stand in for what is missing or broken."""
    sections: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        given: dict[str, object] = {}
        for setting in (item for item in settings() if item.section == section):
            key = f"{section}.{setting.name}"
            if key in draft.values:
                given[setting.name] = draft.values[key]
            elif setting.required:
                given[setting.name] = _PLACEHOLDERS[setting.type]
                if key not in draft.broken:
                    draft.refuse(key, f"must be set ({setting.note.unit or 'text'})")
        sections[section] = kind(**given)
    return NodeConfig(**sections)


def _unbroken(findings: Iterator[Finding], broken: set[str]) -> list[str]:
    """Messages of findings that do not merely follow from a field already reported."""
    return [found.message for found in findings if not broken.intersection(found.fields)]


def _known(names: Sequence[str] | Mapping[str, object]) -> str:
    return f"known: {', '.join(names)}"
