#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""fio in a Debian guest on a second virtio disk, a raw file: 4 KiB random at depth 32, and 1 MiB sequential."""
import os
import sys

from lib.bench import Monitor, Report, arguments, copy_disk, debian_image, monitors, scratch
from lib.console import Guest
from lib.machine import Disk, Machine

# scenario, fio options, unit, field of fio's terse format (version 3, counted from 0)
SCENARIOS = (
    ("4k random read", "--rw=randread --bs=4k --iodepth=32", "IOPS", 7),
    ("4k random write", "--rw=randwrite --bs=4k --iodepth=32", "IOPS", 48),
    ("1M sequential read", "--rw=read --bs=1M --iodepth=4", "MiB/s", 6),
    ("1M sequential write", "--rw=write --bs=1M --iodepth=4", "MiB/s", 47),
)


def main() -> int:
    parser = arguments(__doc__, runs=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of one fio run")
    parser.add_argument("--size-mib", type=int, default=512, help="size of the disk under test")
    parser.add_argument("--direct", action="store_true", help="the host bypasses its page cache (O_DIRECT)")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--engine", choices=("software", "kvm"), default="software")
    options = parser.parse_args()
    report, images = Report("disk", options), debian_image(options)

    def one(monitor: Monitor) -> None:
        with scratch(options) as folder:
            system = copy_disk(images / "disk.img", folder / "disk.img")
            tested = folder / "tested.img"
            with open(tested, "wb") as file:  # written, not sparse: reading holes would measure nothing
                block = os.urandom(1 << 20)
                for _ in range(options.size_mib):
                    file.write(block)
                os.fsync(file.fileno())
            machine = Machine(kernel=images / "vmlinuz", initrd=images / "initrd.img", memory_mib=1024, cpus=options.cpus,
                              engine=options.engine, disks=(Disk(system), Disk(tested, options.direct)),
                              append="root=/dev/vda rw console=ttyS0 quiet")
            with Guest(monitor.argv(machine)) as guest:
                guest.login(timeout=300)
                for _ in range(options.runs):
                    for scenario, flags, unit, column in SCENARIOS:
                        text = guest.run("fio --name=bench --filename=/dev/vdb --direct=1 --ioengine=libaio --minimal "
                                         f"--time_based --runtime={options.seconds} {flags} | tr '\\n' ' '; echo",
                                         options.seconds * 4 + 60)
                        fields = text[text.index("3;fio"):].split(";") if "3;fio" in text else []
                        if len(fields) <= column:
                            raise guest.fail("fio printed no result")
                        value = float(fields[column]) / (1 if unit == "IOPS" else 1024)
                        report.add(monitor.name, scenario, "direct" if options.direct else "page cache", unit, value,
                                   more_is_better=True)

    for monitor in monitors(options):
        report.attempt(monitor.name, "disk", lambda: one(monitor))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
