"""A Docker Engine of the tests' own, with images made from the programs that are installed here."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import psutil
import pytest

PROGRAMS = {"haproxy": "/usr/sbin/haproxy", "nginx": "/usr/sbin/nginx", "stunnel": "/usr/bin/stunnel4"}
MORE_FILES = {
    "nginx": ["/usr/lib/nginx/modules/ngx_stream_module.so"],
    # what the C library loads when a thread ends
    "stunnel": [str(next(Path("/").glob("lib/*-linux-gnu/libgcc_s.so.1"), "/lib/libgcc_s.so.1"))],
}
START_LIMIT_S = 30


@dataclass
class ContainerEngine:
    """A running dockerd, all of whose files are in one folder."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        client = docker.DockerClient(self.url)
        try:
            yield client
        finally:
            client.close()

    def containers(self) -> list[str]:
        """The names of all there are."""
        with self.client() as client:
            return [str(one["Names"][0]).removeprefix("/") for one in client.api.containers(all=True)]

    def processes(self) -> list[psutil.Process]:
        """What runs in them, their first processes included."""
        found = []
        with self.client() as client:
            for one in client.api.containers():
                with contextlib.suppress(docker.errors.NotFound, psutil.NoSuchProcess):
                    first = psutil.Process(client.api.inspect_container(one["Id"])["State"]["Pid"])
                    found += [first, *first.children(recursive=True)]
        return found

    def image(self, program: str) -> str:
        """An image that has nothing but that program, made when it is first asked for."""
        name = f"test/{program}:latest"
        with self.client() as client:
            if not client.images.list(name):
                client.api.import_image_from_data(
                    _root_of(program), repository=f"test/{program}", tag="latest"
                )
        return name

    @classmethod
    def started(cls, folder: Path) -> ContainerEngine:
        arguments = {
            "host": f"unix://{folder}/docker.sock",
            "data-root": folder / "data",
            "exec-root": folder / "exec",
            "pidfile": folder / "pid",
            "config-file": folder / "none.json",
            "bridge": "none",
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
            "ip-masq": "false",
            "userland-proxy": "false",
            "cgroup-parent": f"/{folder.name}",
        }
        (folder / "none.json").write_text("{}")
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                ["dockerd", *(f"--{name}={value}" for name, value in arguments.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        engine = cls(folder, process)
        deadline = time.monotonic() + START_LIMIT_S
        while not engine._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                engine.stop()
                raise RuntimeError("dockerd does not start:\n" + (folder / "log").read_text()[-2000:])
            time.sleep(0.05)
        return engine

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(f"{self.folder}/docker.sock")
            except OSError:
                return False
        with self.client() as client:
            return bool(client.ping())

    def stop(self) -> None:
        """End it, and with it its containers and its own containerd."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def running_engine() -> Iterator[ContainerEngine]:
    """An engine for some tests, which leaves nothing."""
    folder = Path(tempfile.mkdtemp(prefix="scistream-docker-"))
    try:
        engine = ContainerEngine.started(folder)
        try:
            yield engine
        finally:
            engine.stop()
    finally:
        # what one that was killed leaves: the parents of its containers
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any(part.startswith(f"{folder}/") for part in process.cmdline()):
                    for one in (*process.children(recursive=True), process):
                        one.kill()
                        one.wait(START_LIMIT_S)
        # what dockerd itself leaves: the network namespace of --network host
        for line in reversed(Path("/proc/mounts").read_text(encoding="utf-8").splitlines()):
            if (place := line.split()[1]).startswith(f"{folder}/"):
                subprocess.run(["umount", place], check=True)
        for group in Path("/sys/fs/cgroup").rglob(folder.name):
            for path, _, _ in os.walk(group, topdown=False):
                os.rmdir(path)
        shutil.rmtree(folder)


def _root_of(program: str) -> bytes:
    """A file system that has the program, what it loads, and two users."""
    files = {str(Path(PROGRAMS[program])), *MORE_FILES.get(program, [])}
    libraries = set[str]()
    for file in files:
        said = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
        libraries |= set(re.findall(r"(/\S+) \(0x", said))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in files | libraries:
            archive.add(os.path.realpath(path), path.replace("stunnel4", "stunnel"))
        users = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
        groups = b"root:x:0:\nnogroup:x:65534:\n"
        for name, data in (("etc/passwd", users), ("etc/group", groups)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture(scope="session")
def container_engine() -> Iterator[ContainerEngine]:
    """One engine for all tests that ask for it."""
    if os.geteuid() != 0:
        complain = pytest.fail if os.environ.get("MINISTREAM_REQUIRE_PEERS") == "1" else pytest.skip
        complain("a Docker Engine of the tests' own needs root")
    with running_engine() as engine:
        yield engine
