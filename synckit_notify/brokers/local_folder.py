"""The folder in which the processes of one service on one machine find each other.

    /dev/shm/synckit-1000/             0700, or a group folder that the operator names (2770)
        3fa1b2c4.9d2e11aa.5c0d…        a socket: <namespace>.<boot>.<random>; its process listens
        3fa1b2c4.9d2e11aa.5c0d….gap    a process ended while it owed this socket messages

The names carry the boot id, since sockets on a disk outlive a reboot, and another machine may share the folder. The
environment is not asked for a temporary folder: a shell, cron and systemd have different ones.
"""

import hashlib
import os
import secrets
import socket
import stat
import sys
import time
import uuid
from _socket import socket as KernelSocket
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError
from ..runtime.logs import RateLimitedLog
from .engine import ConnectionLost

MAX_SOCKET_PATH_BYTES = 103
"""The shortest limit of a socket's path, that of macOS and the BSDs; Linux allows 107."""

NAME_BYTES = 8 + 1 + 8 + 1 + 12
MAX_FOLDER_BYTES = MAX_SOCKET_PATH_BYTES - 1 - NAME_BYTES

MARKER = ".gap"

OLD_SECONDS = 7 * 24 * 3600.0
"""A socket of another boot is removed after this time. If its process lives, on another machine, it binds a new one."""


class FolderRefused(ConnectionLost):
    """The folder cannot be used safely; the message says why and what to do."""

    is_reported = True


class LocalFolder:
    """The sockets of one namespace; any thread may call any method."""

    def __init__(self, path: Path, namespace: str, *, chosen_by_operator: bool) -> None:
        self.path = path
        self._chosen = chosen_by_operator
        self._namespace = hashlib.sha256(namespace.encode()).hexdigest()[:8]
        self._prefix = f"{self._namespace}.{_boot_id()}."
        self._faults = RateLimitedLog(seconds=3600.0)

    @classmethod
    def of_url(cls, url: str, namespace: str) -> "LocalFolder":
        """Return the folder of a URL, without a look at the disk; raises ConfigurationError."""
        parts = urlsplit(url)
        if parts.netloc or parts.query or parts.fragment:
            raise ConfigurationError(f"SYNCKIT_BROKER_URL must be local:// or local:///an/absolute/folder, not {url!r}")
        if not parts.path:
            return cls(default_folder(), namespace, chosen_by_operator=False)
        path = Path(unquote(parts.path))
        if not is_short_enough(path):
            raise ConfigurationError(
                f"SYNCKIT_BROKER_URL: a folder for sockets must have at most {MAX_FOLDER_BYTES} bytes in its name, "
                f"{path} is longer; name another one, or use local://"
            )
        return cls(path, namespace, chosen_by_operator=True)

    def prepare(self) -> None:
        """Make the folder if it is missing, and check it; raises FolderRefused."""
        try:
            self.path.mkdir(0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise FolderRefused(f"{self.path} cannot be made: {error.strerror}; {_ADVICE}") from error
        self.check()

    def report(self, error: FolderRefused) -> None:
        """Write one line at level error, at most once an hour."""
        self._faults.error("folder", "the broker local:// cannot be used: %s", error)

    def check(self) -> bool:
        """Return whether other users of a group may use the folder too; raises FolderRefused or FileNotFoundError."""
        found = os.lstat(self.path)
        mode, owner = found.st_mode, found.st_uid
        if not stat.S_ISDIR(mode):
            raise FolderRefused(f"{self.path} must be a directory and no link; {_ADVICE}")
        if self._chosen and mode & 0o070 and not mode & 0o007 and (owner in (0, os.geteuid()) or _is_ours(found)):
            return True
        if owner != os.geteuid() or mode & 0o077:
            raise FolderRefused(
                f"{self.path} must belong to uid {os.geteuid()} with mode 0700, not to uid {owner} with mode "
                f"{stat.S_IMODE(mode):04o}; {_ADVICE}"
            )
        return False

    def new_socket(self) -> Path:
        """Return a path that was never used."""
        return self.path / (self._prefix + secrets.token_hex(6))

    def sockets(self) -> set[str]:
        """Return the names of all sockets of this namespace and boot; remove what dead processes left.

        Raises FolderRefused if the folder is not safe, another OSError if it cannot be read.
        """
        try:
            self.check()
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return set()
        ours = {name for name in names if name.startswith(self._namespace)}
        sockets = {name for name in ours if name.startswith(self._prefix) and not name.endswith(MARKER)}
        for name in ours - sockets:
            self._remove_leftover(name, sockets)
        return sockets

    def remove_dead(self) -> None:
        """Remove the sockets of this boot, in any namespace, on which nobody listens: their processes were killed."""
        with suppress(OSError), os.scandir(self.path) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if f".{_boot_id()}." in name and not name.endswith(MARKER) and _is_dead(self.path / name):
                self.remove(name)

    def mark(self, name: str) -> None:
        """Tell the process of a socket that messages for it were lost. Needs no file descriptor."""
        with suppress(OSError):
            (self.path / (name + MARKER)).symlink_to("gap")

    def take_mark(self, name: str) -> bool:
        """Return whether a process left the mark of a gap beside a socket, and remove it."""
        try:
            (self.path / (name + MARKER)).unlink()
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a socket whose process has ended, and its mark."""
        for each in (name, name + MARKER):
            with suppress(OSError):
                (self.path / each).unlink()

    def _remove_leftover(self, name: str, sockets: set[str]) -> None:
        if name.startswith(self._prefix):
            if name.removesuffix(MARKER) not in sockets:
                self.remove(name)
            return
        with suppress(OSError):
            if os.lstat(self.path / name).st_mtime < time.time() - OLD_SECONDS:
                self.remove(name)


_ADVICE = "no other process hears this one; correct that, or set SYNCKIT_BROKER_URL to local:///another/folder"


def default_folder() -> Path:
    """Return the folder of this user on this machine."""
    name = f"synckit-{os.geteuid()}"
    if sys.platform == "linux" and Path("/dev/shm").is_dir():  # a unit with PrivateTmp= sees the same one
        return Path("/dev/shm", name)
    if sys.platform == "darwin" and (own := os.confstr(65537)):  # _CS_DARWIN_USER_TEMP_DIR
        return Path(own, name)
    return Path("/tmp", name)


def is_short_enough(folder: Path) -> bool:
    """Return whether the path of a socket in this folder stays within the limits of every system."""
    return len(os.fsencode(folder)) <= MAX_FOLDER_BYTES


def _is_ours(found: os.stat_result) -> bool:
    return found.st_gid in {os.getegid(), *os.getgroups()}


def _is_dead(path: Path) -> bool:
    """Return whether nobody listens on a socket."""
    sock = KernelSocket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:  # another user's, or removed
        return False
    finally:
        sock.close()
    return False


def _boot_id() -> str:
    """Return what differs after every boot; "0" where the system does not tell it."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).hex[:8]
    except (OSError, ValueError):
        return "00000000"
