#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""iperf3 between guest and host: through user-mode networking, and through a tap device in a network namespace (as root).

The guest is Debian; the server is iperf3 on the host, on the loopback (user) or at the other end of the tap.
"""
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lib.bench import Monitor, Report, arguments, copy_disk, debian_image, monitors, scratch
from lib.console import Guest
from lib.machine import Disk, Machine

TAP = "vezhabench0"
HOST_ADDRESS, GUEST_ADDRESS = "10.77.0.1", "10.77.0.2"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(prefix: list[str], address: str) -> Iterator[int]:
    """iperf3 -s for the duration of the block; yields its port."""
    port = free_port()
    process = subprocess.Popen([*prefix, "iperf3", "--server", "--bind", address, "--port", str(port)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise SystemExit("iperf3 --server did not start")
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A network namespace with one tap device; yields the command prefix that enters it."""
    name = f"vezha-bench-{os.getpid()}"
    ip = ["ip", "-n", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (["link", "set", "lo", "up"], ["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"],
                        ["addr", "add", f"{HOST_ADDRESS}/24", "dev", TAP], ["link", "set", TAP, "up"]):
            subprocess.run([*ip, *command], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def main() -> int:
    parser = arguments(__doc__, runs=3)
    parser.add_argument("--scenario", choices=("user", "tap"), action="append", help="default: both")
    parser.add_argument("--seconds", type=int, default=5, help="length of one transfer")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--engine", choices=("software", "kvm"), default="software")
    options = parser.parse_args()
    if not shutil.which("iperf3"):
        raise SystemExit("iperf3 is not installed: apt-get install iperf3")
    report, measured, images = Report("net", options), monitors(options), debian_image(options)

    def one(monitor: Monitor, scenario: str, prefix: list[str]) -> None:
        with scratch(options) as folder, server(prefix, HOST_ADDRESS if prefix else "127.0.0.1") as port:
            disk = copy_disk(images / "disk.img", folder / "disk.img")
            machine = Machine(kernel=images / "vmlinuz", initrd=images / "initrd.img", memory_mib=1024, cpus=options.cpus,
                              engine=options.engine, disks=(Disk(disk),), net=f"tap:{TAP}" if prefix else "user",
                              append="root=/dev/vda rw console=ttyS0 quiet")
            with Guest([*prefix, *monitor.argv(machine)]) as guest:
                guest.login(timeout=300)
                target = HOST_ADDRESS if prefix else "10.0.2.2"
                if prefix:
                    guest.run("systemctl stop systemd-networkd.socket systemd-networkd 2>/dev/null; "
                              "nic=$(ls /sys/class/net | grep -v ^lo); "
                              f"ip address add {GUEST_ADDRESS}/24 dev $nic; ip link set $nic up")
                guest.run(f"for i in $(seq 60); do ping -c 1 -W 1 {target} >/dev/null && break; sleep 0.5; done", 90)
                for metric, flag in (("guest to host", ""), ("host to guest", "-R")):
                    for _ in range(options.runs):
                        text = guest.run(f"iperf3 -c {target} -p {port} -t {options.seconds} -f m {flag}",
                                         options.seconds * 4 + 60)
                        speed = re.search(r"([\d.]+) Mbits/sec.*receiver", text)
                        if not speed:
                            raise guest.fail("iperf3 printed no result")
                        report.add(monitor.name, scenario, metric, "Mbit/s", float(speed[1]), more_is_better=True)

    scenarios = options.scenario or ["user", "tap"]
    if "user" in scenarios:
        for monitor in measured:
            report.attempt(monitor.name, "user", lambda: one(monitor, "user", []))
    if "tap" in scenarios and os.geteuid() != 0:
        print("tap needs root; left out", file=sys.stderr)
    elif "tap" in scenarios:
        with namespace() as prefix:
            for monitor in measured:
                report.attempt(monitor.name, "tap", lambda: one(monitor, "tap", prefix))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
