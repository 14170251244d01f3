"""The Docker Engine of this machine, through the docker SDK: blocking calls, for threads.

What is made here can do little: no capabilities but named ones, no new privileges, nothing to write, this
user's number, and the machine's network, as programs outside of containers have. The engine removes it when
it ends, and never starts it again: that is the session's to decide (`scistream.dataserver.programs.session`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scistream.dataserver.containers.interpreter import Interpreter
from scistream.dataserver.containers.owner import has_gone, name_of
from scistream.errors import DataServerError

if TYPE_CHECKING:
    from docker.api.client import APIClient

SCRATCH = "/.scistream/scratch"
"""The one folder in which programs can write; in memory."""
SCRATCH_BYTES = 1 << 20
OWNER_LABEL, SESSION_LABEL = "scistream.owner", "scistream.session"
OPEN_LIMIT_S = 10
"""How long the engine may take to answer at the start; systemd may start it then."""
CALL_LIMIT_S = 5
"""Later on; less than a session waits for its container."""
REMOVED_LIMIT_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A container to be made.

    Parameters
    ----------
    name : str
        Of the container.
    image : str
        By which the engine knows it.
    argument : str
        The last one of `first_process`.
    folder : Path
        The one of this machine that it sees, at the same path; it is its working directory.
    label : str
        Whose it is; for those who look at containers.
    capabilities : sequence of str
        All that it may do as root.
    max_tasks : int
        Threads and processes that it may have.
    """

    name: str
    image: str
    argument: str
    folder: Path
    label: str
    capabilities: Sequence[str]
    max_tasks: int


class EngineSilent(DataServerError):
    """The engine has not answered, whatever it has done or is about to do."""


class Engine:
    """The engine.

    Parameters
    ----------
    url : str
        ``unix://`` and the path of its socket.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._version = "auto"
        self._interpreter: Interpreter | None = None
        self._owner = ""

    def open(self) -> None:
        """See that it is there and serves this machine as it has to; remove what dead gateways have left.

        Raises
        ------
        DataServerError
            The SDK is missing, the engine does not answer, or its containers are no use here.
        """
        self._interpreter = Interpreter.of_this_process()
        self._owner = name_of(os.getpid())
        with self._client(OPEN_LIMIT_S) as client:
            self._version = str(client.api_version)
            options = client.info().get("SecurityOptions") or []
            if any("name=rootless" in option for option in options):
                raise DataServerError(
                    f"the Docker Engine at {self._url} runs without root, in a network and with users of its "
                    "own, so that its containers cannot forward for this gateway; give another by "
                    "--container-engine, or use --type without Container"
                )
            for container in client.containers(all=True, filters={"label": OWNER_LABEL}):
                if has_gone(container["Labels"][OWNER_LABEL]):
                    self._remove(client, container["Id"])

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter of this process, for containers.

        Raises
        ------
        DataServerError
            `open` comes before.
        """
        if self._interpreter is None:
            raise DataServerError("the engine is not open")
        return self._interpreter

    def check_image(self, image: str) -> None:
        """See that the image is on this machine.

        Raises
        ------
        DataServerError
            It is not; the message says what to type.
        """
        from docker import errors

        with self._client(OPEN_LIMIT_S) as client:
            try:
                client.inspect_image(image)  # type: ignore[no-untyped-call]
            except errors.ImageNotFound as error:
                raise DataServerError(
                    f"the image {image} is not on this machine; type: docker pull {image}, or give another "
                    "by --container-image"
                ) from error

    def start(self, order: Order) -> None:
        """Make a container and start it.

        Raises
        ------
        DataServerError
            The engine refuses. What it has made may have to be removed.
        """
        from docker.types import LogConfig, Mount, Ulimit

        interpreter = self.interpreter
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        mounts = {**interpreter.mounts, str(order.folder): str(order.folder)}
        with self._client() as client:
            host = client.create_host_config(
                network_mode="host",
                userns_mode="host",
                auto_remove=True,
                init=False,  # ours is one
                read_only=True,
                cap_drop=["ALL"],
                cap_add=list(order.capabilities) if os.geteuid() == 0 else [],
                security_opt=["no-new-privileges"],
                pids_limit=order.max_tasks,
                mem_limit=_half_of_memory(),
                ulimits=[Ulimit(name="nofile", soft=soft, hard=hard), Ulimit(name="core", soft=0, hard=0)],
                log_config=LogConfig(type=LogConfig.types.NONE),  # we read it
                tmpfs={SCRATCH: f"size={SCRATCH_BYTES},mode=1777,noexec,nosuid,nodev"},
                mounts=[
                    Mount(target, source, type="bind", read_only=True) for target, source in mounts.items()
                ],
            )
            made = client.create_container(
                order.image,
                name=order.name,
                entrypoint=[*interpreter.command, interpreter.script],
                command=[order.argument],
                user=f"{os.geteuid()}:{os.getegid()}",
                working_dir=str(order.folder),
                labels={OWNER_LABEL: self._owner, SESSION_LABEL: order.label},
                healthcheck={"test": ["NONE"]},
                host_config=host,
            )
            client.start(made["Id"])

    def is_running(self, name: str) -> bool:
        """Return whether a container has not ended.

        Raises
        ------
        DataServerError
            The engine does not say.
        """
        from docker import errors

        with self._client() as client:
            try:
                return bool(client.inspect_container(name)["State"]["Running"])
            except errors.NotFound:
                return False

    def remove(self, name: str) -> bool:
        """Return when a container is gone, whatever it does; whether there was one.

        Raises
        ------
        DataServerError
            The engine does not remove it.
        """
        with self._client() as client:
            return self._remove(client, name)

    def _remove(self, client: APIClient, name: str) -> bool:
        from docker import errors

        found = False
        deadline = time.monotonic() + REMOVED_LIMIT_S
        while time.monotonic() < deadline:
            try:
                client.remove_container(name, force=True, v=True)
                found = True
            except errors.NotFound:
                return found
            except errors.APIError as error:
                if error.status_code != 409:  # the engine removes it already
                    raise
                found = True
                time.sleep(_POLL_S)
        raise DataServerError(f"container {name} is not removed within {REMOVED_LIMIT_S:g} s")

    @contextlib.contextmanager
    def _client(self, limit_s: int = CALL_LIMIT_S) -> Iterator[APIClient]:
        """Connect, anew for each thread and use; what goes wrong meanwhile is one line."""
        try:
            from docker import APIClient, errors
            from requests import RequestException
        except ImportError as error:
            raise DataServerError(
                "data servers in containers need the Docker SDK; type: pip install 'ministream[containers]'"
            ) from error
        client: Any = None
        try:
            client = APIClient(self._url, version=self._version, timeout=limit_s)
            yield client
        except errors.APIError as error:
            raise DataServerError(
                f"the Docker Engine refuses: {_line(error.explanation or error)}"
            ) from error
        except (errors.DockerException, RequestException) as error:
            raise EngineSilent(
                f"the Docker Engine does not answer at {self._url} ({_reason(error)}); see that it is "
                "installed and runs (apt install docker.io; systemctl start docker) and lets this user in "
                "(group docker), give another socket by --container-engine, or use --type without Container"
            ) from error
        finally:
            if client is not None:
                client.close()


def _line(said: object) -> str:
    return " ".join(str(said).split())


def _reason(error: BaseException) -> str:
    """Return what the system has said, of the many words that libraries make of it."""
    inner: BaseException | None = error
    while inner is not None:
        for argument in (inner, *inner.args):
            if isinstance(argument, OSError) and argument.strerror:
                return argument.strerror
        inner = inner.__cause__ or inner.__context__
    return _line(error)


def _half_of_memory() -> int:
    """Return what one session's program may take at most, so that it alone cannot bring the gateway down."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
