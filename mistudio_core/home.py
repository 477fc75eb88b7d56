"""Where an installation keeps its things: one folder, named by MISTUDIO_HOME.

Sockets stand in it too, or, where its path is too long for a socket address, in a private folder
of the system's temporary directory that is derived from it. What several homes share, or what is
mounted from outside, is named by variables of its own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mistudio_core import ids
from mistudio_core.errors import Forbidden, InvalidInput
from mistudio_core.secret import Secret, read_sealed, write_sealed

_LEAST_TOKEN = 32
_SOCKET_LIMIT = 90  # sun_path holds 108 bytes; leave room for the name


def default_root() -> Path:
    """MISTUDIO_HOME, else `~/.local/share/mistudio`."""
    configured = os.environ.get("MISTUDIO_HOME")
    return Path(configured).expanduser() if configured else Path.home() / ".local" / "share" / "mistudio"


def private_folder(folder: Path) -> None:
    """Makes a folder that only its owner may enter. Raises Forbidden where someone else made it first."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise Forbidden(
            f"The folder {folder} belongs to another user. Remove it, or set MISTUDIO_HOME and MISTUDIO_DEVICE_DIR."
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def _configured(variable: str) -> Path | None:
    """The path that an environment variable names; None where it is not set."""
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else None


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of an installation."""

    root: Path
    """Absolute path of the folder."""

    @staticmethod
    def at(root: Path | None = None) -> Home:
        """The installation at `root`, else at the default place; makes its folders (mode 0700)."""
        home = Home((root or default_root()).expanduser().resolve())
        for folder in (home.root, home.artifacts, home.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (home.secrets, home.runtime):
            private_folder(folder)
        return home

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "mistudio.db"

    @property
    def artifacts(self) -> Path:
        """Root of the artifact store, unless MISTUDIO_ARTIFACTS names one that several homes share."""
        return _configured("MISTUDIO_ARTIFACTS") or self.root / "artifacts"

    def area(self, services: Sequence[str]) -> str:
        """Folder under `artifacts` that a process of these services writes; empty where no other home writes there."""
        return "-".join(sorted(services)) if _configured("MISTUDIO_ARTIFACTS") else ""

    @property
    def logs(self) -> Path:
        """Log files of processes and attempts."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """Sealed files."""
        return self.root / "secrets"

    @property
    def scratch(self) -> Path:
        """Scratch folders of attempts."""
        return self.root / "scratch"

    @property
    def models(self) -> Path:
        """Where local model folders may be named from (the allowed model root), unless MISTUDIO_MODEL_ROOT says."""
        return _configured("MISTUDIO_MODEL_ROOT") or self.root / "models"

    @property
    def saes(self) -> Path:
        """Imported SAEs, a folder each."""
        return self.root / "saes"

    @property
    def rules(self) -> Path:
        """Rules that replace the built-in ones, a file each."""
        return self.root / "rules"

    @property
    def fonts(self) -> Path:
        """Fonts that PDF reports may use beside the built-in ones; need not exist."""
        return self.root / "fonts"

    @property
    def engines_file(self) -> Path:
        """Settings of explanation engines (TOML), unless MISTUDIO_ENGINES_FILE names them."""
        return _configured("MISTUDIO_ENGINES_FILE") or self.root / "engines.toml"

    @property
    def runtime(self) -> Path:
        """Sockets and pid files."""
        if len(str(self.root)) <= _SOCKET_LIMIT:
            return self.root / "run"
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"mistudio-{os.getuid()}-{digest}"

    @property
    def control_socket(self) -> Path:
        """Where the control process listens; stable over restarts, so that workers find it again."""
        return self.runtime / "control.sock"

    @property
    def control_target(self) -> str:
        """Target of the control process for gRPC."""
        return f"unix:{self.control_socket}"

    @property
    def endpoints_file(self) -> Path:
        """Addresses of the running gateway (JSON), written by `mistudio up`."""
        return self.runtime / "endpoints.json"

    @property
    def token_file(self) -> Path:
        """The bearer token (mode 0600), unless MISTUDIO_TOKEN_FILE names the file that holds it."""
        return _configured("MISTUDIO_TOKEN_FILE") or self.secrets / "token"

    def token(self) -> Secret:
        """The bearer token; made at first use, but never in a file that MISTUDIO_TOKEN_FILE names.

        Raises InvalidInput where that file is missing or holds fewer than 32 characters.
        """
        existing = read_sealed(self.token_file)
        if os.environ.get("MISTUDIO_TOKEN_FILE") and len(existing.reveal() if existing else "") < _LEAST_TOKEN:
            raise InvalidInput.field(
                "MISTUDIO_TOKEN_FILE",
                self.token_file,
                f"a file that holds a token of at least {_LEAST_TOKEN} characters",
                "`openssl rand -hex 32` makes one.",
            )
        if existing:
            return existing
        fresh = Secret(ids.new_token())
        write_sealed(self.token_file, fresh)
        return fresh
