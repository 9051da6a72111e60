"""The token of a Ray cluster: whoever can reach a cluster without one can run code on its nodes.

Where Ray looks for it, in this order (docs.ray.io, "Token authentication"; Ray 2.52 and later): the variables
RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH (a file), and the file ~/.ray/auth_token.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from harness.errors import BadInput, ClusterError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_DEFAULT = Path(".ray") / "auth_token"
_FIX = f"umask 077; openssl rand -hex 32 > ~/{_DEFAULT}; the same file on every node, then start Ray with {MODE}=token"


def require_token(environment: Mapping[str, str], option: str) -> dict[str, str]:
    """The variables by which Ray finds the token that there is.

    Args:
        environment: of this process.
        option: what was asked for, for complaints.

    Raises:
        BadInput: there is none, its file can be read by others, or Ray was told to do without.
    """
    mode = environment.get(MODE, "token")
    if mode.lower() != "token":
        raise BadInput(MODE, mode, "token, or unset", f"unset {MODE}")
    if environment.get(TOKEN):
        return {MODE: "token"}
    given = environment.get(TOKEN_PATH)
    path = Path(given) if given else Path.home() / _DEFAULT
    try:
        mode_bits, text = path.stat().st_mode, path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(option, f"no token: {path}: {error}", "a cluster with a token", _FIX) from error
    if not text.strip():
        raise BadInput(option, f"no token: {path} is empty", "a cluster with a token", _FIX)
    if mode_bits & (stat.S_IRWXG | stat.S_IRWXO):
        shown = f"{stat.S_IMODE(mode_bits):04o}"
        raise BadInput(str(path), shown, "a token that nobody else can read", f"chmod 600 {path}")
    return {MODE: "token", TOKEN_PATH: str(path)}


def write_token(path: Path) -> dict[str, str]:
    """Make a token that only its owner can read, in place of the one there was; the variables by which Ray finds it.

    Raises:
        ClusterError: it cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror or error}") from error
    return {MODE: "token", TOKEN_PATH: str(path)}
