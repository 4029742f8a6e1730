# SPDX-License-Identifier: Apache-2.0
"""One description of a virtual machine, and the command lines that QEMU and Vezha need for it."""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Disk:
    path: Path
    direct: bool = False  # bypass the host's page cache


@dataclass(frozen=True)
class Machine:
    """What both monitors are asked for; the defaults are the smallest useful machine."""
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    memory_mib: int = 512
    cpus: int = 1
    disks: tuple[Disk, ...] = field(default=())
    net: str = "none"         # none, user, or tap:NAME
    engine: str = "software"  # software: QEMU's TCG, Vezha's dbt; kvm: both on /dev/kvm


class Qemu:
    name = "qemu"

    def __init__(self, path: str = "qemu-system-x86_64", cpu: str = "max") -> None:
        self.path, self.cpu = path, cpu

    def argv(self, m: Machine, *, firmware: Path | None = None) -> list[str]:
        threads = ",thread=multi" if m.cpus > 1 else ""
        engine = ["-accel", "kvm", "-cpu", "qemu64"] if m.engine == "kvm" else ["-accel", f"tcg{threads}", "-cpu", self.cpu]
        argv = [self.path, "-M", "q35", *engine, "-m", str(m.memory_mib), "-smp", str(m.cpus),
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-device", "virtio-rng-pci"]
        if firmware:
            argv += ["-bios", str(firmware)]
        if m.kernel:
            argv += ["-kernel", str(m.kernel)]
            argv += ["-initrd", str(m.initrd)] if m.initrd else []
            argv += ["-append", m.append] if m.append else []
        for index, disk in enumerate(m.disks):
            # aio=io_uring is QEMU's best too, where the host lets it.
            cache = "none" if disk.direct else "writeback"
            argv += ["-drive", f"file={disk.path},format=raw,if=none,id=disk{index},cache={cache},aio=io_uring",
                     "-device", f"virtio-blk-pci,drive=disk{index}"]
        if m.net == "user":
            argv += ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0"]
        elif m.net.startswith("tap:"):
            argv += ["-netdev", f"tap,id=net0,ifname={m.net[4:]},script=no,downscript=no,vhost=off",
                     "-device", "virtio-net-pci,netdev=net0"]
        return argv


class Vezha:
    name = "vezha"

    def __init__(self, path: str) -> None:
        self.path = path

    def argv(self, m: Machine) -> list[str]:
        argv = [self.path, "run", "--engine", "kvm" if m.engine == "kvm" else "dbt",
                "--memory", f"{m.memory_mib}M", "--cpus", str(m.cpus), "--serial", "stdio", "--qmp", "none"]
        if m.kernel:
            argv += ["--kernel", str(m.kernel)]
            argv += ["--initrd", str(m.initrd)] if m.initrd else []
            argv += ["--append", m.append] if m.append else []
        for disk in m.disks:
            argv += ["--disk", f"path={disk.path}" + (",cache=none" if disk.direct else "")]
        argv += ["--net", f"tap,name={m.net[4:]}" if m.net.startswith("tap:") else m.net]
        return argv


def kvm_usable() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)
