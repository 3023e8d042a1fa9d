"""Starting and stopping a block server, in a session of its own: it outlives the process that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import EnvironmentFault, HypervisorFault, InputError, IntegrityRefused, StorageFault
from sealvm.secret import Secret
from sealvm.store.atomic import write_atomic

SOCKET_NAME = "disk.sock"
PID_NAME = "blockserver.pid"
LOG_NAME = "blockserver.log"
STDERR_NAME = "blockserver.err"
DEFAULT_CACHE_BYTES = 64 * 1024 * 1024
THREADS = 4
START_SECONDS = 30.0
STOP_SECONDS = 5.0
_MAX_SOCKET_PATH_BYTES = 100
_POLL_SECONDS = 0.01
_NBD_GREETING = b"NBDMAGICIHAVEOPT"
_NBD_ABORT = bytes.fromhex("00000001") + b"IHAVEOPT" + bytes.fromhex("0000000200000000")
_REFUSED = f"Z {IntegrityRefused.code}: "  # after the time in a line that plugin.py writes
_PLUGIN = Path(__file__).with_name("plugin.py")


@dataclass(frozen=True, slots=True)
class BlockServer:
    """A block server that was started; `started` is its start time in clock ticks, so that a reused pid is noticed."""

    pid: int
    started: int
    socket: Path
    pidfile: Path
    log: Path

    def alive(self) -> bool:
        """Whether this very process still runs."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return _start_time(self.pid) == self.started

    def stop(self) -> None:
        """End the server and remove socket and pid file; no error when it is gone. The log stays.

        Raises HypervisorFault when it does not end.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive():
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + STOP_SECONDS
            while self.alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        if self.alive():
            raise HypervisorFault(f"block server {self.pid} does not end", pid=self.pid)
        for path in (self.socket, self.pidfile):
            path.unlink(missing_ok=True)


def start_block_server(
    layout_dir: Path,
    header_digest: str,
    key: Secret,
    runtime_dir: Path,
    *,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> BlockServer:
    """Serve the disk of the package with this header digest, read-only, on a Unix socket in `runtime_dir`.

    `key` is K, which has passed the commitment; it is handed over through a pipe. The server answers when this returns.
    As root, it runs as `nobody`. Raises IntegrityRefused when the package's index is not the signed one,
    HypervisorFault with what it said when it does not start for another reason, EnvironmentFault without nbdkit,
    InputError for a socket path over 100 bytes, StorageFault.
    """
    server_socket, log = runtime_dir / SOCKET_NAME, runtime_dir / LOG_NAME
    if len(os.fsencode(server_socket)) > _MAX_SOCKET_PATH_BYTES:
        raise InputError(
            f"socket path {server_socket} is longer than {_MAX_SOCKET_PATH_BYTES} bytes", hint="use a shorter directory"
        )
    try:
        server_socket.unlink(missing_ok=True)
        logged = log.stat().st_size if log.exists() else 0
        process = _spawn(layout_dir, header_digest, key, runtime_dir, cache_bytes)
    except FileNotFoundError as problem:
        if problem.filename != "nbdkit":
            raise StorageFault(f"cannot use {runtime_dir}: {problem.strerror}") from problem
        raise EnvironmentFault("nbdkit is not installed", hint="install nbdkit and nbdkit-plugin-python") from problem
    except OSError as problem:
        raise StorageFault(f"cannot use {runtime_dir}: {problem.strerror}") from problem
    server = BlockServer(
        pid=process.pid,
        started=_start_time(process.pid),
        socket=server_socket,
        pidfile=runtime_dir / PID_NAME,
        log=log,
    )
    try:
        _wait_until_serving(process, server, logged)
        write_atomic(server.pidfile, f"{server.pid} {server.started}\n".encode(), 0o600)
    except BaseException:
        process.kill()
        process.wait()
        server_socket.unlink(missing_ok=True)
        raise
    process.returncode = 0  # it is meant to outlive us: no complaint when this object goes
    return server


def find_block_server(runtime_dir: Path) -> BlockServer | None:
    """The block server that was started with this directory and still runs, by whichever process; else None."""
    pidfile = runtime_dir / PID_NAME
    try:
        pid, started = map(int, pidfile.read_text("ascii").split())
    except (OSError, ValueError):
        return None
    server = BlockServer(pid, started, runtime_dir / SOCKET_NAME, pidfile, runtime_dir / LOG_NAME)
    return server if server.alive() else None


def _spawn(
    layout_dir: Path, header_digest: str, key: Secret, runtime_dir: Path, cache_bytes: int
) -> subprocess.Popen[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        log = os.open(runtime_dir / LOG_NAME, flags, 0o600)
        stack.callback(os.close, log)
        errors = os.open(runtime_dir / STDERR_NAME, flags | os.O_TRUNC, 0o600)
        stack.callback(os.close, errors)
        key_out, key_in = os.pipe()
        stack.callback(os.close, key_out)
        with os.fdopen(key_in, "wb") as pipe:
            pipe.write(key.reveal())
        arguments = ["nbdkit", "-f", "-r", "-U", str(runtime_dir / SOCKET_NAME), "-t", str(THREADS)]
        if os.geteuid() == 0:
            arguments += ["-u", "nobody", "-g", "nogroup"]
        arguments += ["python", str(_PLUGIN), f"oci={layout_dir.resolve()}", f"package={header_digest}"]
        arguments += [f"key_fd={key_out}", f"log_fd={log}", f"cache_bytes={cache_bytes}"]
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=_environment(),
            pass_fds=(key_out, log),
            start_new_session=True,
            cwd="/",
        )


def _environment() -> dict[str, str]:
    """Lets nbdkit's embedded Python import what this program imports, and nothing else of our environment."""
    paths = [p for p in sys.path if p and (Path(p).name.endswith("-packages") or (Path(p) / "sealvm").is_dir())]
    search = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return {
        "PATH": search,
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(dict.fromkeys(map(os.path.abspath, paths))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
    }


def _wait_until_serving(process: subprocess.Popen[bytes], server: BlockServer, logged: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(server.socket):
        if process.poll() is not None:
            words = _last_words(server.log, logged)
            _stamp, refused, why = words.partition(_REFUSED)
            if refused:
                raise IntegrityRefused(f"package: {why}", hint="check the package: sealvm package verify")
            raise HypervisorFault(f"block server ended with status {process.returncode}: {words}")
        if time.monotonic() > deadline:
            raise HypervisorFault(f"block server did not answer within {START_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _answers(path: Path) -> bool:
    """Whether an NBD server greets on this socket; takes leave as the protocol has it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(os.fspath(path))
            greeting = client.recv(len(_NBD_GREETING) + 2, socket.MSG_WAITALL)
            client.sendall(_NBD_ABORT)
        except OSError:
            return False
    return greeting.startswith(_NBD_GREETING)


def _last_words(log: Path, logged: int) -> str:
    """The last line of the log after `logged` bytes, or else of nbdkit's standard error."""
    for path, skip in ((log, logged), (log.with_name(STDERR_NAME), 0)):
        lines = path.read_bytes()[skip:].decode("utf-8", "replace").strip().splitlines()
        if lines:
            return lines[-1][:400]
    return "it said nothing"


def _start_time(pid: int) -> int:
    """The process's start time in clock ticks since boot (proc(5), field 22); 0 for none, or one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])
