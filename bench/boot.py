#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a guest takes to start: cloud kernel with a tiny initramfs to power-off, and Debian to its login prompt.

Both monitors get the same kernel, initrd, command line and disk; runs alternate so that a busy host hurts both alike.
"""
import sys

from lib.bench import Monitor, Report, arguments, copy_disk, debian_image, monitors, scratch, tiny_images
from lib.console import Guest
from lib.machine import Disk, Machine


def main() -> int:
    parser = arguments(__doc__, runs=5)
    parser.add_argument("--scenario", choices=("tiny", "debian"), action="append", help="default: both")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--engine", choices=("software", "kvm"), default="software")
    options = parser.parse_args()
    report = Report("boot", options)
    scenarios = options.scenario or ["tiny", "debian"]
    measured = monitors(options)

    if "tiny" in scenarios:
        images = tiny_images(options)
        machine = Machine(kernel=images / "vmlinuz", initrd=images / "initramfs-tiny.cpio.gz", cpus=options.cpus,
                          engine=options.engine, append="console=ttyS0 vezha.do=poweroff")

        def tiny(monitor: Monitor) -> None:
            with Guest(monitor.argv(machine)) as guest:
                guest.expect("VEZHA-INIT-OK", 120)
                init = guest.elapsed()
                status = guest.wait(60)
                off = guest.elapsed()
                if status != 0:
                    raise guest.fail(f"exit status {status} after power-off")
            report.add(monitor.name, "tiny", "start to init", "s", init, more_is_better=False)
            report.add(monitor.name, "tiny", "start to power-off", "s", off, more_is_better=False)

        for _ in range(options.runs):
            for monitor in measured:
                report.attempt(monitor.name, "tiny", lambda: tiny(monitor))

    if "debian" in scenarios:
        images = debian_image(options)
        with scratch(options) as folder:

            def debian(monitor: Monitor) -> None:
                disk = copy_disk(images / "disk.img", folder / "disk.img")
                machine = Machine(kernel=images / "vmlinuz", initrd=images / "initrd.img", memory_mib=1024,
                                  cpus=options.cpus, engine=options.engine, disks=(Disk(disk),), net="user",
                                  append="root=/dev/vda rw console=ttyS0")
                with Guest(monitor.argv(machine)) as guest:
                    prompt = guest.login(timeout=300)
                    begun = guest.elapsed()
                    guest.send("systemctl poweroff\n")
                    guest.wait(120)
                    off = guest.elapsed() - begun
                report.add(monitor.name, "debian", "start to login", "s", prompt, more_is_better=False)
                report.add(monitor.name, "debian", "power-off", "s", off, more_is_better=False)

            for _ in range(options.runs):
                for monitor in measured:
                    report.attempt(monitor.name, "debian", lambda: debian(monitor))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
