"""The ``docker`` backend: warm fork servers, each process 1 of a container of its own."""

import contextlib
import os
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from pedrl_sandbox import image
from pedrl_sandbox.encoding import settings
from pedrl_sandbox.errors import IsolationUnavailableError, PedrlError
from pedrl_sandbox.jobs import JobLimits
from pedrl_sandbox.packages import Packages
from pedrl_sandbox.room import JOBS, Room
from pedrl_sandbox.warm import WarmSandbox
from pedrl_sandbox.worker import SPARE_MB, Channel, WorkerDiedError

if TYPE_CHECKING:
    import docker

DEVICES: Final = ("null", "zero", "random", "urandom")
PIDS: Final = 1024  # of a container; those of a job are counted exactly, see `_unused_uid`
# To go into the jail, once; to become the user of a job; to kill what a job leaves.
CAPABILITIES: Final = ("SYS_CHROOT", "SETUID", "SETGID", "KILL")
LABEL: Final = image.REPOSITORY
CALL_S: Final = 30.0  # for the daemon to answer
RETURN_S: Final = 30.0  # for a daemon that worked before to come back
FIX: Final = (
    "start it, or set DOCKER_HOST, or choose `--sandbox zygote`; "
    "accept no isolation with `--sandbox unsafe-local`"
)
_HEADER: Final = Struct(">BxxxI")  # stream, length: how docker multiplexes
_STDERR: Final = 2
_LAST_WORDS: Final = 1 << 12


def connect() -> "docker.APIClient":
    """A connection to the docker daemon that DOCKER_HOST names, else to the one of this machine.

    Raises:
        IsolationUnavailableError: not Linux, no docker SDK, or no daemon that answers.
    """
    if sys.platform != "linux":
        raise IsolationUnavailableError(f"sandbox 'docker' needs Linux, not {sys.platform}")
    try:
        from docker import APIClient
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env
    except ModuleNotFoundError as error:
        raise IsolationUnavailableError(
            "sandbox 'docker' needs the docker SDK: run `pip install 'pedrl[docker]'`"
        ) from error
    where = kwargs_from_env()
    try:
        api = APIClient(**where, version="auto", timeout=CALL_S)
    except DockerException as error:
        url = where.get("base_url", "its usual socket, /var/run/docker.sock")
        raise IsolationUnavailableError(
            f"no docker daemon answers at {url} ({_brief(error)}); {FIX}"
        ) from error
    if api.base_url.startswith(("https:", "http+docker://ssh")):
        raise IsolationUnavailableError(
            f"sandbox 'docker' needs a plain socket of a daemon, not {api.base_url}; {FIX}"
        )
    return api


def find_image(api: "docker.APIClient") -> str:
    """The name of the image for this version of pedrl and this Python.

    Raises:
        IsolationUnavailableError: the daemon has none.
    """
    from docker.errors import ImageNotFound

    try:
        api.inspect_image(image.name())
    except ImageNotFound as error:
        raise IsolationUnavailableError(
            f"the docker daemon has no image {image.name()} of this pedrl and this Python: "
            "run `pedrl sandbox build-image`"
        ) from error
    return image.name()


class ContainerWorker:
    """A fork server that is process 1 of a container.

    Args:
        api: to the daemon; of this worker alone, and closed with it.
        room: how much the container holds and shows.
        packages: what is shown besides the standard library.
        core: where it is told to run; None for anywhere.

    Raises:
        WorkerDiedError: it does not start.
    """

    def __init__(
        self, api: "docker.APIClient", room: Room, packages: Packages | None, core: int | None
    ) -> None:
        self.core = core
        self._api = api
        self._memory_mb = SPARE_MB  # enough to start and for the known job
        self._streams = _Streams()
        self._id = ""
        self._sockets = contextlib.ExitStack()
        try:
            with _as_death():
                self._id = _create(api, room, packages, self._memory_mb, core)
                where = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                attached = api.attach_socket(self._id, where)
                # Ours alone: closing it ends the stream, whatever the SDK still holds.
                self._socket = self._sockets.enter_context(
                    socket.socket(fileno=os.dup(attached.fileno()))
                )
                attached._response.close()
                api.start(self._id)
            writing = self._sockets.enter_context(self._socket.dup())
            self.channel = Channel(
                writing.fileno(),
                self._socket.fileno(),
                self._last_words,
                self._streams.stdout_of,
            )
            self.channel.await_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The supervisor, where the daemon is one of this machine."""
        return int(self._state()["Pid"])

    @property
    def missing(self) -> Mapping[str, str] | None:
        """What the daemon says that it cannot limit."""
        with _as_death():
            able = self._api.info()
        flags = {"memory": "MemoryLimit", "pids": "PidsLimit"}
        return {
            controller: f"the docker daemon cannot limit {controller} here"
            for controller, flag in flags.items()
            if not able.get(flag)
        }

    def allow(self, limits: JobLimits) -> None:
        """See ``Worker``; a container whose limits cannot be raised is ended."""
        wanted = limits.memory_mb + SPARE_MB
        if wanted <= self._memory_mb:
            return
        try:
            with _as_death():
                self._api.update_container(
                    self._id, mem_limit=wanted << 20, memswap_limit=wanted << 20
                )
            self._memory_mb = wanted
        except WorkerDiedError:
            self._socket.shutdown(socket.SHUT_RDWR)

    def ran_out(self) -> bool:
        """See ``Worker``; kills before the last frame do not count, they were of earlier jobs."""
        try:
            if not self._ended()["OOMKilled"]:
                return False
            since, until = f"{self._streams.heard:.9f}", f"{time.time():.9f}"
            which = {"container": self._id, "event": "oom"}
            with _as_death():
                return any(self._api.events(since=since, until=until, filters=which))
        except WorkerDiedError:  # with its daemon
            return False

    def _state(self) -> dict[str, Any]:
        with _as_death():
            state: dict[str, Any] = self._api.inspect_container(self._id)["State"]
        return state

    def _ended(self) -> dict[str, Any]:
        """The state of the container, once it has ended or a little time has passed."""
        end = time.monotonic() + 5.0
        while (state := self._state())["Running"] and time.monotonic() < end:
            time.sleep(0.01)
        return state

    def _last_words(self) -> str:
        """The last line that the supervisor wrote to its standard error."""
        lines = self._streams.stderr.decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
        try:
            return f"the container ended with status {self._ended()['ExitCode']}"
        except WorkerDiedError as error:
            return str(error)

    def kill(self) -> None:
        """Kill at once and clean up.

        The stream first: a daemon that waits for it to be drained would not come to the killing.
        """
        from docker.errors import NotFound

        self._sockets.close()
        try:
            if self._id:
                with _as_death():
                    self._api.remove_container(self._id, force=True, v=True)
        except WorkerDiedError as error:
            if not isinstance(error.__cause__, NotFound):
                text = f"container {self._id[:12]} is left until the next one starts ({error})"
                warnings.warn(text, stacklevel=2)
        self._id = ""
        self._api.close()


class DockerSandbox(WarmSandbox):
    """Warm fork servers in containers, each job as a user of its own in a root folder of its own.

    Args:
        workers: how many jobs run side by side, each in a container.
        retries: how often a job is tried again after its container died under it.
        packages: what is shown besides the standard library; it must be in the image.
        room: how much each container holds and shows.

    Raises:
        IsolationUnavailableError: no SDK, no daemon or no image.
        PedrlError: a package is not in the image.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        retries: int = 2,
        packages: Packages | None = None,
        room: Room = JOBS,
    ) -> None:
        with contextlib.closing(connect()) as api:
            find_image(api)
        for name in packages.folders if packages else ():
            if f"{image.PACKAGES}/{name}/__init__.py" not in image.contents():
                raise PedrlError(
                    f"sandbox 'docker' shows pytest and what it needs, but not {name!r}; "
                    "choose `--sandbox zygote`"
                )
        self._packages, self._room = packages, room
        self._patience_s = 0.0
        super().__init__("docker", self._make_worker, workers=workers, retries=retries)

    def _make_worker(self, core: int | None) -> ContainerWorker:
        api = self._reconnect()
        _sweep(api)
        worker = ContainerWorker(api, self._room, self._packages, core)
        self._patience_s = RETURN_S
        return worker

    def _reconnect(self) -> "docker.APIClient":
        """A connection; a daemon that has worked before may take a while to come back."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return connect()
            except IsolationUnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)


class _Streams:
    """Takes docker's multiplexed stream apart."""

    def __init__(self) -> None:
        self.heard = time.time()  # the last output
        self.stderr = bytearray()  # the end of it
        self._buffer = bytearray()

    def stdout_of(self, chunk: bytes) -> bytes:
        """What of ``chunk``, and of all before that was incomplete, is standard output."""
        self._buffer += chunk
        out = bytearray()
        position, head = 0, _HEADER.size
        while len(self._buffer) - position >= head:
            stream, length = _HEADER.unpack_from(self._buffer, position)
            end = position + head + length
            if len(self._buffer) < end:
                break
            if stream == _STDERR:
                self.stderr += self._buffer[position + head : end]
                del self.stderr[:-_LAST_WORDS]
            else:
                out += self._buffer[position + head : end]
            position = end
        del self._buffer[:position]
        if out:
            self.heard = time.time()
        return bytes(out)


def _create(
    api: "docker.APIClient", room: Room, packages: Packages | None, memory_mb: int, core: int | None
) -> str:
    """A container that is not yet started."""
    root = image.AGENTS if room.tools else image.JOBS
    arguments = settings(
        "user",
        image.WORKSPACES,
        root=root,
        uid=_unused_uid(),
        room=room,
        packages=image.PACKAGES if packages else "",
        preload=packages.preload if packages else (),
        core=core,
    )
    scratch = f"rw,exec,nosuid,nodev,size={room.size},mode=1777"
    host = api.create_host_config(
        read_only=True,
        tmpfs={root + folder: scratch for folder in image.WORKSPACES},
        devices=[f"/dev/{name}:{root}/dev/{name}:rw" for name in DEVICES],
        network_mode="none",
        ipc_mode="none",
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES),
        security_opt=["no-new-privileges:true"],
        mem_limit=memory_mb << 20,
        memswap_limit=memory_mb << 20,
        pids_limit=PIDS,
        log_config={"Type": "none"},  # else every frame is written to a file of the host
    )
    command = [image.INTERPRETER, "-P", "-s", "-S", "-B", "-X", "utf8", "-X", "no_debug_ranges"]
    created = api.create_container(
        image.name(),
        [*command, "/pedrl/supervisor.py", arguments],
        hostname="sandbox",
        user="0:0",
        stdin_open=True,  # and closed when the connection is: then the supervisor ends
        environment={
            "LD_LIBRARY_PATH": image.LIBRARIES,
            "PYTHONHASHSEED": "0",
            "LD_BIND_NOW": "1",  # else each job binds the same symbols again
        },
        labels={LABEL: str(os.getpid()), f"{LABEL}.place": _place()},
        host_config=host,
        use_config_proxy=False,
    )
    return str(created["Id"])


def _unused_uid() -> int:
    """A user that nobody is, so that RLIMIT_NPROC counts the processes of one container alone."""
    return (1 << 30) + secrets.randbelow(1 << 30)


def _place() -> str:
    """Where process ids mean the same as here: this pid namespace, since this boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _sweep(api: "docker.APIClient") -> None:
    """Remove what runs that were killed left behind, and daemons that were."""
    from docker.errors import APIError

    with _as_death():
        for found in api.containers(all=True, filters={"label": f"{LABEL}.place={_place()}"}):
            owner = found["Labels"][LABEL]
            ended = found["State"] == "exited" and owner == str(os.getpid())
            if ended or not Path("/proc", owner).exists():
                with contextlib.suppress(APIError):  # somebody else is removing it
                    api.remove_container(found["Id"], force=True, v=True)


@contextlib.contextmanager
def _as_death() -> Iterator[None]:
    """What goes wrong between us and the daemon costs the worker."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        raise WorkerDiedError(f"docker: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """What the daemon says, or why it cannot be spoken to, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    text = getattr(error, "explanation", None) or str(error)
    return str(text).strip().splitlines()[-1]
