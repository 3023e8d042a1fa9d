"""QEMU, driven over QMP: the embedded default hypervisor.

The command line is made of numbers, fixed words and paths that sealvm chose; nothing of a package reaches it. It
names no image file and no key: the one disk is the storage daemon's NBD socket. There is no network device, QEMU's
system calls are filtered, guest memory is left out of core dumps, and an I/O error stops the guest instead of
reaching it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import HypervisorFault, InputError
from sealvm.host.hypervisor.base import Machine, MachineSpec, RunState
from sealvm.host.hypervisor.probe import Accelerator
from sealvm.host.hypervisor.qmp import QmpConnection, start_controlled
from sealvm.host.sockets import listening_socket

_PROGRAM = "qemu-system-x86_64"
_MAX_CPUS = 64
_STATE_SECONDS = 2.0
_STOP_COMMAND_SECONDS = 5.0
_QUIT_SECONDS = 10.0
_STATES = {
    "running": RunState.RUNNING,
    "io-error": RunState.IO_ERROR,
    "shutdown": RunState.SHUT_DOWN,
    "prelaunch": RunState.STARTING,
    "inmigrate": RunState.STARTING,
}


@dataclass(frozen=True, slots=True)
class Qemu:
    """The hypervisor that runs qemu-system-x86_64 with this accelerator, which probe.working_accelerator() found."""

    accelerator: Accelerator

    def create(self, spec: MachineSpec) -> Machine:
        """Start QEMU with the guest's processors stopped; console and control sockets accept connections from now on.

        Raises HypervisorFault with QEMU's own words when it does not start; nothing is left running then.
        """
        control_socket, console_socket = Machine.sockets(spec.runtime_dir)
        with listening_socket(console_socket) as console_fd:
            argv = self._command(spec, console_fd)
            with start_controlled(argv, "--mon", control_socket, spec.log, (console_fd,)) as started:
                started.qmp.execute("query-status")
        return Machine.at(started.process, spec.runtime_dir)

    def resume(self, machine: Machine) -> None:
        """Let the guest's processors run."""
        with _control(machine) as qmp:
            qmp.execute("cont")

    def pause(self, machine: Machine) -> None:
        """Stop the guest's processors."""
        with _control(machine) as qmp:
            qmp.execute("stop")

    def state(self, machine: Machine) -> RunState:
        """What QEMU says the machine does; STOPPED when the process is gone, UNKNOWN when it does not answer."""
        if not machine.process.alive():
            return RunState.STOPPED
        try:
            with _control(machine, _STATE_SECONDS) as qmp:
                status = qmp.execute("query-status")["status"]
        except HypervisorFault:
            return RunState.UNKNOWN if machine.process.alive() else RunState.STOPPED
        return _STATES.get(status, RunState.PAUSED)

    def stop(self, machine: Machine, grace_seconds: float) -> None:
        """Press the power button and wait, then quit QEMU, then kill it. One that is gone already is no error."""
        if grace_seconds > 0 and self.state(machine) is RunState.RUNNING:
            self._tell(machine, "system_powerdown")
            machine.process.wait(grace_seconds)
        if machine.process.alive():
            self._tell(machine, "quit")
            machine.process.wait(_QUIT_SECONDS)
        machine.process.end()

    def _tell(self, machine: Machine, command: str) -> None:
        try:
            with _control(machine, _STOP_COMMAND_SECONDS) as qmp:
                qmp.execute(command)
        except HypervisorFault:
            return  # gone or deaf: the next, stronger step deals with both

    def _command(self, spec: MachineSpec, console_fd: int) -> list[str]:
        if not 1 <= spec.cpus <= _MAX_CPUS:
            raise InputError(f"{spec.cpus} processors: expected 1 to {_MAX_CPUS}")
        disk = f"driver=nbd,node-name=disk,server.type=unix,server.path={_quoted(spec.disk_socket)}"
        cpu = "host" if self.accelerator == "kvm" else "max"
        return [
            *(_PROGRAM, "-name", f"guest={_quoted(spec.name)}", "-nodefaults", "-no-user-config", "-S"),
            *("-machine", f"pc,accel={self.accelerator},dump-guest-core=off,usb=off,vmport=off", "-cpu", cpu),
            *("-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M", "-rtc", "base=utc"),
            *("-display", "none", "-vga", "none", "-nic", "none"),
            *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
            *("-blockdev", f"{disk},export={_quoted(spec.disk_export)}"),
            *("-device", "virtio-blk-pci,drive=disk,bootindex=0,rerror=stop,werror=stop"),
            *("-object", "rng-builtin,id=entropy", "-device", "virtio-rng-pci,rng=entropy"),
            *("-chardev", f"socket,id=console,fd={console_fd},server=on,wait=off"),
            *("-device", "isa-serial,chardev=console"),
        ]


def _control(machine: Machine, timeout_seconds: float = 20.0) -> QmpConnection:
    return QmpConnection(machine.control_socket, "qemu", timeout_seconds)


def _quoted(value: str | Path) -> str:
    """A value inside a QEMU option list, where a comma is written twice."""
    return os.fspath(value).replace(",", ",,")
