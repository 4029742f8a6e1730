# SPDX-License-Identifier: Apache-2.0
"""Drives a guest through its serial console: wait for a text, type a line, run a command.

The console is the standard input and output of the monitor process (QEMU or Vezha). Every wait has a deadline, and leaving
a `with Guest(...)` block ends exactly the processes it started.
"""
from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence


class GuestError(Exception):
    """The guest or its monitor did not do what was waited for; carries the end of the console's text."""


# Escape sequences that firmware, systemd and shells send; they only get in the way of matching.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78c])")


class Guest:
    """A running monitor with its serial console on pipes."""

    def __init__(self, argv: Sequence[str], *, log: str | None = None) -> None:
        self.argv = list(argv)
        self._log = open(log, "wb") if log else None
        self.started = time.monotonic()
        # A session of its own: whatever the monitor starts can be ended with it, and nothing else is.
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        assert self.process.stdin and self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._unread = ""   # console text that no expect() has consumed
        self._history = ""  # the last of everything, for error messages
        self._tail = b""    # the start of an unfinished escape sequence or character
        self._open = True

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def elapsed(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self.started

    def close(self) -> None:
        """Ends the monitor if it still runs, first politely."""
        for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        self._selector.close()
        for stream in (self.process.stdin, self.process.stdout, self._log):
            try:
                if stream:
                    stream.close()
            except OSError:
                pass
        self._log = None

    def _pump(self, timeout: float) -> None:
        """Takes in what the console says, waiting at most `timeout` seconds for the first of it."""
        if not self._open:
            time.sleep(min(timeout, 0.01))
            return
        if not self._selector.select(timeout):
            return
        assert self.process.stdout
        data = self.process.stdout.read()
        if data is None:
            return
        if data == b"":
            self._open = False
            self._selector.unregister(self.process.stdout)
            return
        if self._log:
            self._log.write(data)
            self._log.flush()
        data = self._tail + data
        cut = data.rfind(b"\x1b")
        whole = cut < 0 or _ESCAPES.match(data[cut:].decode("latin-1")) or len(data) - cut > 16
        self._tail, data = (b"", data) if whole else (data[cut:], data[:cut])
        text = _ESCAPES.sub("", data.decode("utf-8", "replace")).replace("\r", "")
        self._unread += text
        self._history = (self._history + text)[-4000:]

    def fail(self, what: str) -> GuestError:
        end = "\n".join("    | " + line for line in self._history.splitlines()[-20:])
        return GuestError(f"{what}\n    command: {' '.join(self.argv)}\n{end}")

    def expect(self, pattern: str, timeout: float) -> re.Match[str]:
        """Waits until the unread text matches, consumes up to the end of the match."""
        deadline = time.monotonic() + timeout
        while True:
            if match := re.search(pattern, self._unread, re.MULTILINE):
                self._unread = self._unread[match.end():]
                return match
            if not self._open:
                raise self.fail(f"the monitor ended ({self.process.wait(10)}) before the guest said {pattern!r}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.fail(f"no {pattern!r} within {timeout:.0f} s")
            self._pump(left)

    def send(self, text: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise self.fail(f"the console is gone: {error}") from None

    def wait(self, timeout: float) -> int:
        """Waits for the monitor to end by itself; returns its exit status."""
        deadline = time.monotonic() + timeout
        while self._open and time.monotonic() < deadline:
            self._pump(max(0.0, deadline - time.monotonic()))
        try:
            return self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self.fail(f"the monitor still runs after {timeout:.0f} s") from None

    def login(self, user: str = "root", password: str = "vezha", timeout: float = 120) -> float:
        """Waits for the login prompt and logs in. Returns the seconds from process start to the prompt."""
        self.expect(r"login: ?$", timeout)
        seconds = self.elapsed()
        self.send(user + "\n")
        self.expect(r"Password: ?$", 30)
        self.send(password + "\n")
        self.expect(r"[#$] $", 60)
        # A prompt that cannot occur in output, and no echo: what comes back is what the command wrote.
        # The quotes keep the echo of this very line from matching.
        self.send("stty -echo; PS1=''; PS2=''; bind 'set enable-bracketed-paste off' 2>/dev/null; echo VEZHA-'READY'\n")
        self.expect(r"VEZHA-READY\n", 30)
        return seconds

    def run(self, command: str, timeout: float = 60) -> str:
        """Runs a shell command after login() and returns its output; a failing command is an error."""
        self.send(f"{{ {command}\n}} </dev/null; echo VEZHA-STATUS-$?-\n")
        match = self.expect(r"(?s)\A(.*?)VEZHA-STATUS-(\d+)-\n", timeout)
        if match[2] != "0":
            raise self.fail(f"status {match[2]} from: {command}")
        return match[1]
