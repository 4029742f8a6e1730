# SPDX-License-Identifier: Apache-2.0
"""Broken or hostile input: one clear error with a hint, never a crash, never a hang."""
import fcntl
import os
import socket
import struct
import subprocess

import pytest
from vm import VEZHA

USAGE, HOST = 2, 1


def refused(*flags: str, status: int = HOST, **options) -> str:
    """Runs a command line that must fail; gives its message."""
    done = subprocess.run([VEZHA, "run", "--qmp", "none", "--net", "none", "--engine", "dbt", *flags], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("vezha: ") and done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 20000, 1_000_000])
def test_truncated_kernel(tiny, tmp_path, size):
    kernel = tmp_path / "kernel"
    kernel.write_bytes((tiny / "vmlinuz").read_bytes()[:size])
    message = refused("--kernel", str(kernel))
    assert "--kernel" in message and "hint:" in message


def test_no_kernel_at_all(tmp_path):
    assert "--kernel" in refused(status=USAGE)
    assert "No such file" in refused("--kernel", str(tmp_path / "missing"))
    assert "not a file" in refused("--kernel", str(tmp_path))


def test_initrd_larger_than_memory(tiny, tmp_path):
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(300 << 20)
    message = refused("--kernel", str(tiny / "vmlinuz"), "--initrd", str(initrd), "--memory", "256M")
    assert "initrd (300 MiB)" in message and "--memory" in message


def test_memory_too_small_for_the_kernel(tiny):
    assert "--memory" in refused("--kernel", str(tiny / "vmlinuz"), "--memory", "16M")


def test_missing_disk(tiny, tmp_path):
    message = refused("--kernel", str(tiny / "vmlinuz"), "--disk", str(tmp_path / "none.img"))
    assert "none.img" in message and "hint:" in message


def test_locked_disk_names_the_holder(tiny, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with disk.open("r+b") as file:
        # F_OFD_SETLK for writing over the whole file.
        fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        message = refused("--kernel", str(tiny / "vmlinuz"), "--disk", str(disk))
    assert "disk.img" in message and "hint:" in message


def test_unknown_key_in_toml(tiny, tmp_path):
    config = tmp_path / "vm.toml"
    config.write_text(f'kernel = "{tiny / "vmlinuz"}"\nmemroy = "1G"\n')
    message = refused(str(config), status=USAGE)
    assert "vm.toml:2" in message and "'memory'" in message


def test_duplicate_mac(tiny):
    mac = "52:54:00:01:02:03"
    message = refused("--kernel", str(tiny / "vmlinuz"), "--net", f"user,mac={mac}", "--net", f"user,mac={mac}", status=USAGE)
    # --net none of refused() stands before: three cards are named, two are equal.
    assert mac in message or "none" in message


def test_taken_port(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [VEZHA, "run", "--qmp", "none", "--kernel", str(tiny / "vmlinuz"), "--share-port", f"{port}:22", "--engine", "dbt"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == HOST and str(port) in done.stderr


def test_unknown_flags_and_values(tiny):
    kernel = str(tiny / "vmlinuz")
    assert "did you mean '--memory'?" in refused("--memroy", "1G", status=USAGE)
    assert "auto, kvm, dbt" in refused("--kernel", kernel, "--engine", "tcg", status=USAGE)
    assert "x86-64-v3" in refused("--kernel", kernel, "--cpu", "pentium")


def as_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without permission")
def test_no_permission(tiny, tmp_path):
    readable = subprocess.run(["cat", str(tiny / "vmlinuz")], preexec_fn=as_nobody, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if readable.returncode != 0 or subprocess.run([VEZHA, "version"], preexec_fn=as_nobody, check=False).returncode != 0:
        pytest.skip("the build is not readable by others")
    message = refused("--kernel", str(tiny / "vmlinuz"), "--engine", "kvm", preexec_fn=as_nobody)
    assert "/dev/kvm" in message


def test_help_and_version():
    for arguments, text in ((["help"], "run"), (["run", "--help"], "--share-port"), (["version"], "vezha"), (["engines"], "dbt")):
        done = subprocess.run([VEZHA, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 and text in done.stdout
    assert subprocess.run([VEZHA, "rnu"], capture_output=True, timeout=60, check=False).returncode == USAGE
