"""Tokens files and what they open."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.auth import TOKENS_MAX, TokensFileError, load_tokens, new_token
from node.errors import Unauthenticated


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_each_token_opens_under_its_own_name(tmp_path: Path) -> None:
    made = {name: new_token(name) for name in ("agent-1", "b.c_d")}
    lines = [line for _, line in made.values()]
    tokens = load_tokens(written(tmp_path, "# who\n\n" + "\n".join(lines) + "\n"))
    for name, (token, line) in made.items():
        assert tokens.authenticate(f"Bearer {token}") == name
        assert token not in line
    assert len({token for token, _ in made.values()}) == 2


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic x", "Bearer nope", "x y z"]
)
def test_what_opens_nothing(tmp_path: Path, header: str | None) -> None:
    _, line = new_token("a")
    with pytest.raises(Unauthenticated):
        load_tokens(written(tmp_path, line)).authenticate(header)


def test_a_digest_is_not_a_token(tmp_path: Path) -> None:
    _, line = new_token("a")
    tokens = load_tokens(written(tmp_path, line))
    with pytest.raises(Unauthenticated):
        tokens.authenticate(f"Bearer {line.partition(':')[2]}")


GOOD = new_token("a")[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 bytes"),
        ("# nobody\n", "no token"),
        ("a\n", "line 1"),
        (f"{GOOD}\na b:{'0' * 64}\n", "line 2"),
        (f"a:{'0' * 63}\n", "line 1"),
        (f"a:{'G' * 64}\n", "line 1"),
        (f"{GOOD}\n{GOOD}\n", "repeats"),
        ("a:é\n", "ASCII"),
        ("\n".join(f"a{i}:{'0' * 64}" for i in range(TOKENS_MAX + 1)), "more than"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(TokensFileError, match=reason) as caught:
        load_tokens(written(tmp_path, text))
    assert GOOD.partition(":")[2] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(TokensFileError, match="chmod 600"):
        load_tokens(written(tmp_path, GOOD, mode))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokensFileError):
        load_tokens(tmp_path / "none")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "x" * 65])
def test_names_that_the_file_cannot_hold(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        new_token(name)
