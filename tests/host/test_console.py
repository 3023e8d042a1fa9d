"""The console: waiting for a text, and joining a terminal to it. The guest's side is a socket of the test's."""

from __future__ import annotations

import os
import pty
import socket
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.errors import HypervisorFault
from sealvm.host.console import LINE_LIMIT_CHARS, Console
from sealvm.host.sockets import listening_socket


@pytest.fixture
def pair(runtime: Path) -> Iterator[tuple[Console, socket.socket]]:
    path = runtime / "console"
    with listening_socket(path) as number, socket.socket(fileno=os.dup(number)) as listener, Console(path) as console:
        guest, _ = listener.accept()
        with guest:
            yield console, guest


def test_lines_come_without_control_sequences(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"\x1b[H\x1b[JLoading\r\n\x1b[1mHello\x1b[0m \xff there\r\nafter\r\n")
    seen = console.wait_text("Hello", 5)
    assert seen.lines == ("Loading", "Hello \ufffd there")
    assert console.wait_text("after", 5).lines == ("after",)


def test_an_unfinished_line_is_found_too(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"welcome\nlogin: ")
    assert console.wait_text("login:", 5).lines == ("welcome", "login: ")


def test_a_line_that_comes_in_pieces_is_shown_whole(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"Hello from ")

    def rest() -> None:
        time.sleep(0.03)
        guest.sendall(b"the guest\n")

    threading.Thread(target=rest).start()
    assert console.wait_text("Hello", 5).lines == ("Hello from the guest",)


def test_waiting_ends_with_what_was_seen(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"something\nelse")
    with pytest.raises(HypervisorFault, match=r"no 'Hello' within 0\.2 s") as caught:
        console.wait_text("Hello", 0.2)
    assert caught.value.fields["lines"] == ["something", "else"]


def test_a_guest_that_is_gone_ends_the_wait(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"bye\n")
    guest.shutdown(socket.SHUT_RDWR)
    with pytest.raises(HypervisorFault, match="the machine is gone") as caught:
        console.wait_text("Hello", 5)
    assert caught.value.fields["lines"] == ["bye"]


def test_the_check_may_end_the_wait(pair: tuple[Console, socket.socket]) -> None:
    def check() -> None:
        raise HypervisorFault("instance a is paused (I/O error)")

    with pytest.raises(HypervisorFault, match="paused"):
        pair[0].wait_text("Hello", 30, check)


def test_an_endless_line_does_not_fill_the_memory(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    threading.Thread(target=lambda: [guest.sendall(b"x" * 65536) for _ in range(32)]).start()
    with pytest.raises(HypervisorFault) as caught:
        console.wait_text("Hello", 0.4)
    lines = caught.value.fields["lines"]
    assert isinstance(lines, list)
    assert len(lines[-1]) <= LINE_LIMIT_CHARS


def test_a_terminal_is_joined_and_given_back(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    keyboard, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    joined = threading.Thread(target=console.attach, args=(terminal, terminal))
    joined.start()
    guest.sendall(b"login: ")
    assert os.read(keyboard, 100) == b"login: "
    os.write(keyboard, b"root\x03\r")
    assert guest.recv(100) == b"root\x03\r", "control characters reach the guest"
    os.write(keyboard, b"ab\x1dnever sent")
    joined.join(5)
    assert not joined.is_alive()
    assert guest.recv(100) == b"ab"
    assert termios.tcgetattr(terminal) == before
    os.close(keyboard)
    os.close(terminal)


def test_attaching_ends_with_the_input_and_with_the_machine(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    reading, writing = os.pipe()
    os.write(writing, b"last words\n")
    os.close(writing)
    with open(os.devnull, "wb") as nowhere:
        console.attach(reading, nowhere.fileno())
        assert guest.recv(100) == b"last words\n"
        guest.shutdown(socket.SHUT_RDWR)
        waiting, kept_open = os.pipe()
        console.attach(waiting, nowhere.fileno())
    for number in (reading, waiting, kept_open):
        os.close(number)
