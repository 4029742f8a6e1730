# SPDX-License-Identifier: Apache-2.0
"""Debian with systemd boots to its login prompt, answers the power button, and leaves a clean file system."""
import os
import pathlib
import subprocess

import pytest
from vm import ROOT, VEZHA


@pytest.fixture(scope="session")
def debian() -> pathlib.Path:
    """A folder with disk.img, vmlinuz and initrd.img."""
    if folder := os.environ.get("VEZHA_DEBIAN"):
        return pathlib.Path(folder)
    made = subprocess.run([ROOT / "scripts/make_guest_image"], stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(made.stdout.splitlines()[-1])


def test_boots_to_login_and_powers_off(debian, tmp_path):
    disk = tmp_path / "disk.img"
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", debian / "disk.img", disk], check=True)
    command = [ROOT / "scripts/boot_to_login", VEZHA, "run", "--kernel", debian / "vmlinuz", "--initrd", debian / "initrd.img",
               "--append", "root=/dev/vda rw console=ttyS0", "--disk", disk, "--memory", "1G", "--engine", "dbt"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=900, check=False)
    console = done.stdout.decode(errors="replace")
    assert done.returncode == 0, console[-3000:] + done.stderr.decode(errors="replace")
    assert "login prompt after" in console and "reboot: Power down" in console
    assert "Oops" not in console and "Call Trace" not in console
    assert subprocess.run(["/sbin/e2fsck", "-fn", disk], capture_output=True, check=False).returncode == 0
