#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a virtual machine costs beyond its memory, and how soon its first instruction runs.

A 128 MiB machine with a disk and user-mode network runs a guest of a dozen bytes that writes one byte to the serial port
and halts. Memory is the monitor's resident memory without guest RAM and without translated code.

QEMU's first instruction is the one at the reset vector, so for QEMU that guest is the firmware; Vezha boots a kernel
without firmware, so for Vezha it is a PVH kernel. QEMU with the PVH kernel, which its firmware loads, is shown as well.
"""
import sys
import time
from pathlib import Path

from lib import smaps, tiny_guest
from lib.bench import Monitor, Report, arguments, monitors, scratch
from lib.console import Guest
from lib.machine import Disk, Machine, Qemu, kvm_usable

MEMORY_MIB = 128


def main() -> int:
    options = arguments(__doc__, runs=11).parse_args()
    report, measured = Report("footprint", options), monitors(options)
    engines = ["software"] + (["kvm"] if kvm_usable() else [])
    if "kvm" not in engines:
        print("/dev/kvm cannot be used; left out", file=sys.stderr)

    with scratch(options) as folder:
        kernel, firmware, disk = folder / "first.elf", folder / "first.rom", folder / "disk.img"
        kernel.write_bytes(tiny_guest.pvh_kernel())
        firmware.write_bytes(tiny_guest.firmware())
        with open(disk, "wb") as file:
            file.truncate(64 << 20)

        def machine(engine: str, kernel: Path | None) -> Machine:
            return Machine(kernel=kernel, memory_mib=MEMORY_MIB, disks=(Disk(disk),), net="user", engine=engine)

        def first_byte(monitor: Monitor, scenario: str, metric: str, argv: list[str]) -> None:
            with Guest(argv) as guest:
                guest.expect(tiny_guest.MARK, 30)
                report.add(monitor.name, scenario, metric, "ms", guest.elapsed() * 1000, more_is_better=False)

        def memory(monitor: Monitor, scenario: str, argv: list[str]) -> None:
            with Guest(argv) as guest:
                guest.expect(tiny_guest.MARK, 30)
                time.sleep(0.5)  # helper threads have started or gone
                total: dict[str, int] = {}
                for pid in smaps.processes(guest.pid):
                    for name, size in smaps.split(pid, MEMORY_MIB << 20).items():
                        total[name] = total.get(name, 0) + size
            for metric, name in (("monitor memory", "monitor"), ("monitor memory, shared pages divided", "monitor_pss"),
                                 ("translated code", "code"), ("guest RAM touched", "guest_ram")):
                report.add(monitor.name, scenario, metric, "MiB", total[name] / (1 << 20), more_is_better=False)

        for engine in engines:
            for run in range(options.runs):
                for monitor in measured:
                    if isinstance(monitor, Qemu):
                        argv = monitor.argv(machine(engine, None), firmware=firmware)
                        with_kernel = monitor.argv(machine(engine, kernel))
                        report.attempt(monitor.name, engine, lambda: first_byte(
                            monitor, engine, "start to kernel through firmware", with_kernel))
                    else:
                        argv = monitor.argv(machine(engine, kernel))
                    report.attempt(monitor.name, engine, lambda: first_byte(
                        monitor, engine, "start to first instruction", argv))
                    if run < 3:
                        report.attempt(monitor.name, engine, lambda: memory(monitor, engine, argv))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
