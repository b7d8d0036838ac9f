"""A docker daemon for tests: the one that is there, else one of our own, which ends with them."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pedrl_sandbox import IsolationUnavailableError, image
from pedrl_sandbox.container import connect

START_S = 60.0
STORAGE = ("overlay2", "vfs")  # the second is slow and works everywhere


class DaemonUnavailableError(Exception):
    """No daemon can be had here; its text says why."""


class Daemon:
    """A daemon with folders and a socket of its own, without network and without iptables."""

    def __init__(self) -> None:
        program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise DaemonUnavailableError("dockerd is not installed")
        if os.geteuid() != 0:
            raise DaemonUnavailableError("dockerd can only be started by root")
        # A short path: those of sockets are limited to 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="pedrl-dockerd-")
        self.folder = Path(self._folder.name)
        self.url = f"unix://{self.folder}/socket"
        self._argv = [program, "--host", self.url, "--bridge=none"]
        self._argv += ["--iptables=false", "--ip6tables=false", "--pidfile", f"{self.folder}/pid"]
        self._argv += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        self._process: subprocess.Popen[bytes] | None = None
        self._storage = ""
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise

    def start(self) -> None:
        """Start it, or start it again."""
        for storage in (self._storage,) if self._storage else STORAGE:
            if self._answers_with(storage):
                self._storage = storage
                return
        last = (self.folder / "log").read_text().strip().splitlines()[-1:]
        raise DaemonUnavailableError(f"dockerd does not start: {''.join(last)[-300:]}")

    def _answers_with(self, storage: str) -> bool:
        # Where process 1 of the machine reaps nobody, the dead look alive to a new daemon.
        for pid in ("pid", "exec/containerd/containerd.pid"):
            (self.folder / pid).unlink(missing_ok=True)
        with (self.folder / "log").open("wb") as log:
            argv = [*self._argv, "--storage-driver", storage]
            self._process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        end = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < end:
            if b"API listen on" in (self.folder / "log").read_bytes():
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def kill(self) -> None:
        """Let it die without a chance to stop what it runs."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let it end what it runs and then itself."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self.kill()

    def close(self) -> None:
        """Stop it and remove its folders, with what a daemon leaves there that was killed."""
        self.stop()
        ours = os.fsencode(self.folder)
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if ours in command.read_bytes():
                    os.kill(int(command.parent.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted(mounts, reverse=True):
            if mount.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mount], check=True)
        self._folder.cleanup()


@contextmanager
def daemon_of_our_own() -> Iterator[Daemon]:
    """A daemon that DOCKER_HOST names meanwhile, with the image of this pedrl.

    Raises:
        DaemonUnavailableError: none can be started here.
    """
    before = os.environ.get("DOCKER_HOST")
    daemon = Daemon()
    try:
        os.environ["DOCKER_HOST"] = daemon.url
        build_image()
        yield daemon
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        daemon.close()


@contextmanager
def some_daemon() -> Iterator[None]:
    """The daemon that answers here already, or one of our own; with the image of this pedrl.

    Raises:
        DaemonUnavailableError: there is none, and none can be started.
    """
    try:
        connect().close()
    except IsolationUnavailableError:
        with daemon_of_our_own():
            yield
    else:
        build_image()
        yield


def build_image() -> None:
    """What ``pedrl sandbox build-image`` does."""
    api = connect()
    if not api.images(image.name()):
        with image.assemble() as archive:
            image.load(api, archive)
    api.close()
