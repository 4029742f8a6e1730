# SPDX-License-Identifier: Apache-2.0
"""A Linux guest boots, and every way of ending ends the machine as it should."""
import os
import pty
import select
import signal
import subprocess
import termios

import pytest
from vm import LIMIT_S, VEZHA, run_flag


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_boots_to_init_and_powers_off(boot, cpus):
    vm = boot(f"vezha.do=poweroff {run_flag('nproc; echo cpus-seen')}", "--cpus", str(cpus))
    assert vm.wait() == 0, vm.text()[-2000:]
    assert "VEZHA-INIT-OK" in vm.text()
    assert f"\n{cpus}\r\ncpus-seen" in vm.text()
    for complaint in ("mtrr: your", "Firmware Bug", "soft lockup", "Bad page", "BUG:", "WARNING: CPU", "unstable"):
        assert complaint not in vm.text()


def test_shell_answers_on_pipes(boot):
    vm = boot("", "--cpus", "1")
    vm.wait_for("/ # ")
    vm.type("echo sum is $((6*7))\n")
    vm.wait_for("sum is 42")
    vm.type("poweroff -f\n")
    assert vm.wait() == 0


def test_reboot_resets_the_machine(boot):
    vm = boot("vezha.do=reboot", "--cpus", "2", qmp=True)
    qmp = vm.qmp()
    vm.wait_for("VEZHA-INIT-OK", 2)
    assert qmp.wait_event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
    qmp.execute("quit")
    assert vm.wait() == 0


def test_no_reboot_exits(boot):
    vm = boot("vezha.do=reboot", "--no-reboot")
    assert vm.wait() == 0
    assert vm.text().count("VEZHA-INIT-OK") == 1


def test_panic_restarts_after_its_time(boot):
    vm = boot("vezha.do=panic panic=1", "--cpus", "1")
    vm.wait_for("VEZHA-INIT-OK", 2)
    assert "Kernel panic" in vm.text()


def test_triple_fault(boot):
    # reboot=t makes Linux load an empty IDT and take an exception.
    vm = boot("vezha.do=reboot reboot=t", "--cpus", "1", "--on-crash", "exit")
    assert vm.wait() == 3
    vm = boot("vezha.do=reboot reboot=t", "--cpus", "1")
    vm.wait_for("VEZHA-INIT-OK", 2)


def test_signals(boot):
    vm = boot("", "--cpus", "1")
    vm.wait_for("VEZHA-INIT-OK")
    vm.process.send_signal(signal.SIGTERM)
    vm.process.send_signal(signal.SIGTERM)
    vm.process.send_signal(signal.SIGINT)
    assert vm.wait() == 0


def test_end_of_input_ends_nothing(boot):
    vm = boot("vezha.do=poweroff", "--cpus", "1")
    vm.process.stdin.close()
    assert vm.wait() == 0


def test_stop_and_cont(boot):
    vm = boot("", "--cpus", "2", qmp=True)
    qmp = vm.qmp()
    vm.wait_for("/ # ")
    qmp.execute("stop")
    assert qmp.execute("query-status")["status"] == "paused"
    vm.type("echo back $((40+2))\n")
    qmp.execute("cont")
    vm.wait_for("back 42")
    qmp.execute("system_reset")
    vm.wait_for("VEZHA-INIT-OK", 2)
    qmp.execute("quit")
    assert vm.wait() == 0
    assert qmp.wait_event("SHUTDOWN")["data"]["reason"] == "host-qmp-quit"


def test_paused_start_waits(boot):
    vm = boot("vezha.do=poweroff", "--cpus", "1", "--paused", "on", qmp=True)
    qmp = vm.qmp()
    assert qmp.execute("query-status")["status"] == "prelaunch"
    assert vm.text() == ""
    qmp.execute("cont")
    assert vm.wait() == 0


def test_serial_to_a_file_and_toml(boot, tiny, tmp_path):
    log = tmp_path / "console.log"
    config = tmp_path / "machine.toml"
    config.write_text(f'append = "ignored"\nserial = "file:{log}"\n[[net]]\ntype = "none"\n')
    vm = boot("vezha.do=poweroff", str(config), "--cpus", "1")
    assert vm.wait() == 0, vm.errors
    assert "VEZHA-INIT-OK" in log.read_text()


def test_escape_key_at_a_terminal(tiny):
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    command = [VEZHA, "run", "--kernel", str(tiny / "vmlinuz"), "--initrd", str(tiny / "initramfs-tiny.cpio.gz"), "--append",
               "console=ttyS0", "--memory", "256M", "--cpus", "1", "--net", "none", "--engine", "dbt", "--qmp", "none"]
    vm = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL)
    try:
        seen = b""
        while b"/ # " not in seen:
            assert select.select([leader], [], [], LIMIT_S)[0], seen[-1000:]
            seen += os.read(leader, 65536)
        os.write(leader, b"\x03echo still $((40+2))\n")  # Ctrl-C is the guest's
        while b"still 42" not in seen:
            assert select.select([leader], [], [], LIMIT_S)[0], seen[-1000:]
            seen += os.read(leader, 65536)
        os.write(leader, b"\x01x")
        assert vm.wait(LIMIT_S) == 0
        assert termios.tcgetattr(follower) == before
    finally:
        vm.kill()
        vm.wait()
        os.close(leader)
        os.close(follower)
