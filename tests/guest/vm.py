# SPDX-License-Identifier: Apache-2.0
"""A running `vezha run` for tests: its serial console as text, its control socket, its exit status."""
import base64
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VEZHA = os.environ.get("VEZHA", str(ROOT / "build/release/bin/vezha"))
LIMIT_S = float(os.environ.get("VEZHA_TEST_LIMIT", "120"))


class Qmp:
    """A QMP client as small as can be."""

    def __init__(self, path: str):
        self.events: list[dict] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                self.socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        self.greeting = json.loads(self.stream.readline())
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments):
        """The reply's `return`; an error reply raises."""
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while line := self.stream.readline():
            reply = json.loads(line)
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise RuntimeError(reply["error"]["desc"])
            else:
                return reply["return"]
        raise EOFError("the control socket closed")

    def wait_event(self, name: str) -> dict:
        for event in self.events:
            if event["event"] == name:
                self.events.remove(event)
                return event
        while line := self.stream.readline():
            message = json.loads(line)
            if message.get("event") == name:
                return message
            self.events.append(message)
        raise EOFError(f"the control socket closed before {name}")


class Vm:
    """Use as a context manager: whatever happens, the process is gone afterwards."""

    def __init__(self, *flags: str, qmp: bool = False, stdin=subprocess.PIPE):
        self.folder = tempfile.TemporaryDirectory(prefix="vezha-test-")
        self.qmp_path = os.path.join(self.folder.name, "qmp")
        command = [VEZHA, "run", *flags, "--qmp", self.qmp_path if qmp else "none"]
        self.process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.output, self.errors = b"", b""
        self.changed = threading.Condition()
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("output", "errors")]
        for reader in self.readers:
            reader.start()

    def _read(self, name: str):
        stream = self.process.stdout if name == "output" else self.process.stderr
        while chunk := os.read(stream.fileno(), 65536):
            with self.changed:
                setattr(self, name, getattr(self, name) + chunk)
                self.changed.notify_all()

    def qmp(self) -> Qmp:
        return Qmp(self.qmp_path)

    def text(self) -> str:
        return self.output.decode(errors="replace")

    def wait_for(self, what: str, count: int = 1):
        """Waits until the console has shown `what` so many times."""
        deadline = time.monotonic() + LIMIT_S
        with self.changed:
            while self.output.count(what.encode()) < count:
                left = deadline - time.monotonic()
                assert left > 0 and (self.process.poll() is None or self.changed.wait(0.2)), \
                    f"no {what!r} on the console:\n{self.text()[-3000:]}\n{self.errors.decode()}"
                self.changed.wait(min(left, 0.5))

    def type(self, text: str):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait(self) -> int:
        """The exit status."""
        status = self.process.wait(LIMIT_S)
        for reader in self.readers:
            reader.join(LIMIT_S)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def run_flag(script: str) -> str:
    """The kernel parameter that makes the tiny guest run a shell script."""
    return "vezha.run=" + base64.b64encode(script.encode()).decode()
