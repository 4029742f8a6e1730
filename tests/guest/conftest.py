# SPDX-License-Identifier: Apache-2.0
"""Guests for the tests; scripts/make_tiny_initramfs makes them once and keeps them."""
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from vm import ROOT, Vm  # noqa: E402


@pytest.fixture(scope="session")
def tiny() -> pathlib.Path:
    """A folder with vmlinuz, initramfs-tiny.cpio.gz and initramfs-virtio.cpio.gz."""
    if folder := os.environ.get("VEZHA_TINY"):
        return pathlib.Path(folder)
    made = subprocess.run([ROOT / "scripts/make_tiny_initramfs"], stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(made.stdout.splitlines()[-1])


@pytest.fixture
def boot(tiny):
    """Starts the tiny guest: boot(append, *flags, virtio=False, qmp=False)."""
    started = []

    def start(append: str = "", *flags: str, virtio: bool = False, memory: str = "256M", net: str = "none", **options) -> Vm:
        initrd = tiny / ("initramfs-virtio.cpio.gz" if virtio else "initramfs-tiny.cpio.gz")
        vm = Vm("--kernel", str(tiny / "vmlinuz"), "--initrd", str(initrd), "--append", f"console=ttyS0 {append}",
                "--memory", memory, "--net", net, "--engine", "dbt", *flags, **options)
        started.append(vm)
        return vm

    yield start
    for vm in started:
        vm.__exit__()
