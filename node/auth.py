"""Who may call: bearer tokens, and what protects a node that has none.

The tokens file holds one `name:sha256hex` per line; only digests are stored, so reading
the file does not let anyone in. Tokens are 256 random bits, which is why a plain SHA-256
is enough: there is no dictionary to try.

Without tokens a node only listens on loopback. A web page open in a browser on the same
machine can reach loopback too, so `refuse_browser` keeps pages of other origins out
(cross-site form posts, and DNS names that were rebound to 127.0.0.1).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from functools import lru_cache
from pathlib import Path

from node import private_file
from node.errors import StartupError, Unauthenticated

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN_PREFIX = "hm_"  # lets secret scanners recognise a leaked token
TOKENS_MAX = 1024


class TokensFileError(StartupError):
    """The tokens file cannot be used; the message says which line and why, never its content."""


class Tokens:
    """Digests of the tokens that open this node."""

    def __init__(self, digests: dict[str, bytes]) -> None:
        self._digests = tuple(digests.items())

    def authenticate(self, authorization: str | None) -> str:
        """Return the name of the token in an `Authorization` header.

        Takes the same time wherever the digests differ and whichever matches.
        Raises: Unauthenticated.
        """
        if authorization is None:
            raise Unauthenticated("an Authorization header with a bearer token is needed")
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("the Authorization header must be 'Bearer <token>'")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: str | None = None
        for name, known in self._digests:
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            raise Unauthenticated("the bearer token is not known here")
        return found


def load_tokens(path: Path) -> Tokens:
    """Read a tokens file. Blank lines and lines that start with `#` are skipped.

    Raises: TokensFileError, also when the file has no token or others may read it.
    """
    reason = private_file.problem(path, bytes_min=1)
    if reason is not None:
        raise TokensFileError(reason)
    try:
        lines = path.read_text("ascii").splitlines()
    except UnicodeDecodeError:
        raise TokensFileError(f"{path}: is not ASCII text") from None
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(":")
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise TokensFileError(f"{path}: line {number} is not name:sha256hex")
        if name in digests:
            raise TokensFileError(f"{path}: line {number} repeats the name {name}")
        digests[name] = bytes.fromhex(digest)
    if not digests:
        raise TokensFileError(f"{path}: holds no token")
    if len(digests) > TOKENS_MAX:
        raise TokensFileError(f"{path}: more than {TOKENS_MAX} tokens")
    return Tokens(digests)


def new_token(name: str) -> tuple[str, str]:
    """A fresh token and the line for the tokens file. Only the caller ever sees the token.

    Raises: ValueError for a name that the file could not hold.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a token's name is 1-64 characters of A-Z a-z 0-9 . _ -")
    token = _TOKEN_PREFIX + secrets.token_urlsafe(32)
    return token, f"{name}:{hashlib.sha256(token.encode('ascii')).hexdigest()}"


def refuse_browser(host: str | None, origin: str | None) -> None:
    """Refuse what only a web page would send to a node without tokens.

    `host` and `origin` are the headers of those names. Raises: Unauthenticated.
    """
    if origin is not None:
        raise Unauthenticated("a web page may call this node only with a bearer token")
    if host is not None and not _is_local_host(host):
        raise Unauthenticated(
            "without bearer tokens the Host header must be an IP address or localhost"
        )


@lru_cache(maxsize=256)
def _is_local_host(host: str) -> bool:
    """Whether a Host header names an address: what a rebound DNS name never is."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
