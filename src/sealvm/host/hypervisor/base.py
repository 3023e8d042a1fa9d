"""The seam between instances and whatever runs them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from sealvm.host.process import ProcessRef


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a guest gets: a name for people, memory, processors, and one disk over NBD.

    `disk_socket` is the storage daemon's Unix socket, `disk_export` the export's name. `runtime_dir` takes the sockets
    that belong to the machine, `log` the hypervisor's own messages.
    """

    name: str
    memory_mib: int
    cpus: int
    disk_socket: Path
    disk_export: str
    runtime_dir: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest's process and the sockets by which it is controlled and its serial console is reached."""

    process: ProcessRef
    control_socket: Path
    console_socket: Path

    @classmethod
    def at(cls, process: ProcessRef, runtime_dir: Path) -> Machine:
        """The machine of this process whose sockets lie in `runtime_dir`."""
        return cls(process, *cls.sockets(runtime_dir))

    @staticmethod
    def sockets(runtime_dir: Path) -> tuple[Path, Path]:
        """Where its control and its console are served."""
        return runtime_dir / "machine.qmp", runtime_dir / "console"


class RunState(Enum):
    """What an instance does at this moment, in the words that people see."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    IO_ERROR = "paused (I/O error)"
    SHUT_DOWN = "shut down"
    STOPPED = "stopped"
    UNKNOWN = "running (does not answer)"


class Hypervisor(Protocol):
    """Starts and controls machines. Every method raises HypervisorFault when the machine does not do as it is told."""

    def create(self, spec: MachineSpec) -> Machine:
        """A machine that is complete but has not executed anything yet."""
        ...

    def resume(self, machine: Machine) -> None:
        """Let the guest run."""
        ...

    def pause(self, machine: Machine) -> None:
        """Stop the guest's processors; its memory and disk stay as they are until `resume`."""
        ...

    def state(self, machine: Machine) -> RunState:
        """What the machine does; STOPPED when its process is gone, UNKNOWN when it does not say."""
        ...

    def stop(self, machine: Machine, grace_seconds: float) -> None:
        """Press the guest's power button, and end the machine when that had no effect in time; 0 ends it at once."""
        ...
