"""The first process of a container: it is given a program's sockets, and runs that program.

It runs inside any image, with the interpreter that `interpreter` brings along, and so imports nothing but
what that needs to start. It is told what to do over a Unix socket. When that ends, because whoever is at the
other end has died, it ends too, and the kernel ends all else in the container; the same when its program has
ended.

    1. program → gateway    {"pid": its number inside}, and by SCM_CREDENTIALS its number outside
    2. gateway → program    {"arguments", "environment", "descriptors": how many}, then these
    3. program              becomes what was asked for
    4. gateway ← this one   {"status": wait status}, in the end
"""

import fcntl
import json
import os
import select
import signal
import socket
import sys
from typing import NoReturn

MAX_MESSAGE_BYTES = 1 << 17
MAX_DESCRIPTORS = 250
"""At once; the kernel's limit is 253 (SCM_MAX_FD)."""
FIRST_DESCRIPTOR = 3


def main(arguments: list[str]) -> None:
    """Run what the gateway asks for, or say what of this machine that needs (`interpreter`)."""
    if arguments == ["--files"]:
        print(json.dumps(files()))  # noqa: T201 - asked for
        return
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(arguments[0])
    wakeup, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(waker, False)
    program = os.fork()
    if program == 0:
        become(control)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # who stops the container by hand stops the program
    signal.signal(signal.SIGTERM, lambda *_: os.kill(program, signal.SIGTERM))
    poll = select.poll()
    poll.register(control, 0)  # its end only: what is to be read is for the program
    poll.register(wakeup, select.POLLIN)
    while True:
        # at first: it may have ended before anybody listened
        status = reap(program)
        if status is not None:
            control.send(json.dumps({"status": status}).encode())
            return
        for descriptor, _ in poll.poll():
            if descriptor == control.fileno():
                return
            os.read(wakeup, 1 << 12)


def reap(program: int) -> int | None:
    """Wait for all that have ended, as the first process has to; return how the program has."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return status
        if pid == 0:
            return None


def become(control: socket.socket) -> NoReturn:
    """Become the program, in the new process; say what hinders on its own output."""
    try:
        os.setsid()
        os.umask(0o077)
        control.send(json.dumps({"pid": os.getpid()}).encode())
        message = json.loads(control.recv(MAX_MESSAGE_BYTES))
        descriptors: list[int] = []
        while len(descriptors) < message["descriptors"]:
            data, received, _, _ = socket.recv_fds(control, 1, MAX_DESCRIPTORS)
            if not data:
                os._exit(1)
            descriptors += received
        *given, output = descriptors
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        end = FIRST_DESCRIPTOR + len(given)
        # out of the way first: one's present place may be another's future one
        copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, end) for descriptor in given]
        for number, copy in enumerate(copies, FIRST_DESCRIPTOR):
            os.dup2(copy, number)
        os.closerange(end, os.sysconf("SC_OPEN_MAX"))
        name = message["arguments"][0]
        try:
            os.execvpe(name, message["arguments"], message["environment"])  # noqa: S606
        except OSError as error:
            os.write(2, f"{name} cannot be executed: {error}\n".encode())
    except (OSError, ValueError) as error:
        os.write(2, f"the container's first process: {error!r}\n".encode())
    finally:
        os._exit(127)


def files() -> dict[str, object]:
    """Return this interpreter's file, the loader and all the libraries that it has loaded."""
    loader, libraries = "", set()
    base = 0
    with open("/proc/self/auxv", "rb") as vector:  # noqa: PTH123 - nothing is imported for it
        data = vector.read()
    word = 8 if sys.maxsize > 1 << 32 else 4
    for offset in range(0, len(data) - 2 * word + 1, 2 * word):
        kind, value = (int.from_bytes(data[at : at + word], sys.byteorder) for at in (offset, offset + word))
        if kind == 7:  # AT_BASE: where the loader is
            base = value
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        for line in maps:
            address, _, _, _, _, *path = line.split(None, 5)
            name = path[0].strip() if path else ""
            if not name.startswith("/"):
                continue
            if base and int(address.split("-")[0], 16) == base:
                loader = name
            libraries.add(name)
    executable = os.readlink("/proc/self/exe")  # noqa: PTH115
    libraries = {name for name in libraries if ".so" in name.rsplit("/", 1)[-1]}
    return {"executable": executable, "loader": loader, "libraries": sorted(libraries)}


if __name__ == "__main__":
    main(sys.argv[1:])
