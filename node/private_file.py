"""Files that only the node's own user may read: the cluster's secret, tokens, TLS keys."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from node.errors import ConfigError

SECRET_BYTES_MIN = 32  # bytes of the cluster's secret: 256 bits, as the handshake's HMAC


def problem(path: Path, bytes_min: int) -> str | None:
    """Say why `path` is not a private file of at least `bytes_min` bytes; None if it is."""
    try:
        facts = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    mode = stat.S_IMODE(facts.st_mode)
    if not stat.S_ISREG(facts.st_mode):
        return f"{path} is not a file"
    if mode & 0o077:
        return f"{path} has mode {mode:04o}, so others may use it; run: chmod 600 {path}"
    if facts.st_size < bytes_min:
        return f"{path} holds {facts.st_size} bytes; must be at least {bytes_min}"
    if not os.access(path, os.R_OK):
        return f"{path} cannot be read by this user"
    return None


def create_secret(path: Path) -> None:
    """Write a new random secret, mode 0600, durably. Raises OSError, FileExistsError too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        # Hexadecimal, so that the file survives copying through a terminal.
        file.write(secrets.token_hex(SECRET_BYTES_MIN).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path) -> bytes:
    """Return the cluster's secret. Raises ConfigError.

    White space around text is not part of it: editors and terminals add newlines. Random
    bytes are taken as they are, since one in twenty files of them would begin or end so.
    """
    reason = problem(path, SECRET_BYTES_MIN)
    if reason is None:
        secret = path.read_bytes()
        text = secret.strip()
        if all(0x20 <= byte < 0x7F for byte in text):
            secret = text
        if len(secret) >= SECRET_BYTES_MIN:
            return secret
        reason = f"{path} holds {len(secret)} bytes; must be at least {SECRET_BYTES_MIN}"
    raise ConfigError([f"cluster.secret_file: {reason}"])
