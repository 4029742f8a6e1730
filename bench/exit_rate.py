#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accesses per second that leave the guest: a port read, a device memory read, a doorbell write (ioeventfd).

The same flat guest (tests/guests/exit_rate32.S) runs in our KVM engine and in QEMU with KVM, and times itself by the TSC.
QEMU answers the reads from its debug console and its HPET, the doorbell is pci-testdev's; interrupt controllers are split
in both.
"""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.bench import REPOSITORY, Report, arguments

SCENARIOS = ("port read", "device memory read", "doorbell write")
BUILD = REPOSITORY / "build/release"


def rates(output: str, count: int, tsc_hz: int) -> list[float]:
    ticks = [int(line, 16) for line in output.split()]
    if len(ticks) != len(SCENARIOS):
        raise OSError(f"the guest printed {output!r}")
    return [count * tsc_hz / value for value in ticks]


def run_vezha(count: int) -> tuple[list[float], int]:
    done = subprocess.run([BUILD / "bin/run_guest", "exit_rate32", "kvm", str(count)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
    result = json.loads(done.stdout)
    return rates(result["output"], count, result["tsc_hz"]), result["tsc_hz"]


def run_qemu(qemu: str, count: int, tsc_hz: int, folder: Path) -> list[float]:
    firmware = bytearray(b"\x90" * 65536)
    firmware[0xFFF0:0xFFF5] = b"\xea" + struct.pack("<HH", 0x8000, 0)  # the reset vector: ljmp 0:8000
    (folder / "firmware.bin").write_bytes(firmware)
    done = subprocess.run(
        [qemu, "-accel", "kvm", "-machine", "q35,kernel-irqchip=split,hpet=on", "-cpu", "kvm64", "-m", "16", "-nodefaults",
         "-display", "none", "-no-reboot", "-bios", folder / "firmware.bin",
         "-device", f"loader,file={BUILD / 'guests/exit_rate32.bin'},addr=0x8000,force-raw=on",
         "-device", f"loader,addr=0x7ff0,data={count},data-len=4",
         "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "pci-testdev", "-debugcon", f"file:{folder / 'out'}"],
        check=False, capture_output=True, text=True, timeout=120)
    if done.returncode != 1:  # isa-debug-exit: 2 * value + 1
        raise OSError(f"QEMU ended with {done.returncode}: {done.stderr.strip()}")
    return rates((folder / "out").read_text(), count, tsc_hz)


def main() -> int:
    parser = arguments(__doc__, runs=5)
    parser.add_argument("--count", type=int, default=200_000, help="accesses of each kind in a run (default 200000)")
    options = parser.parse_args()
    report = Report("exit_rate", options)

    def add(monitor: str, values: list[float]) -> None:
        for scenario, value in zip(SCENARIOS, values):
            report.add(monitor, scenario, "accesses", "1/s", value, more_is_better=True)

    _, tsc_hz = run_vezha(1000)
    with tempfile.TemporaryDirectory(prefix="vezha-bench-") as folder:
        for _ in range(options.runs):
            if options.only != "qemu":
                report.attempt("vezha", "exits", lambda: add("vezha", run_vezha(options.count)[0]))
            if options.only != "vezha":
                report.attempt("qemu", "exits", lambda: add("qemu", run_qemu(options.qemu, options.count, tsc_hz, Path(folder))))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
