# SPDX-License-Identifier: Apache-2.0
"""A QMP client that is not ours drives a machine."""
import json
import pathlib
import shutil
import subprocess

import pytest


def test_npm_client_drives_the_machine(boot, tmp_path):
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    installed = subprocess.run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", tmp_path, "qemu-qmp@0.5.0"],
                               capture_output=True, text=True, timeout=120, check=False)
    if installed.returncode:
        pytest.skip(f"the npm registry is out of reach: {installed.stderr[-200:]}")
    script = shutil.copy(pathlib.Path(__file__).parent / "qmp_client.js", tmp_path)
    vm = boot("", "--cpus", "2", virtio=True, qmp=True)
    vm.wait_for("/ # ")
    client = subprocess.run(["node", script, vm.qmp_path], capture_output=True, text=True, timeout=60, check=False)
    assert client.returncode == 0, client.stderr
    seen = json.loads(client.stdout)
    assert seen["version"]["qemu"]["major"] >= 7
    assert len(seen["replies"]["query-cpus-fast"]) == 2
    assert seen["replies"]["query-status"]["status"] == "running"
    assert seen["stopped"] == {"running": False, "singlestep": False, "status": "paused"}
    assert "no-such-command" in seen["unknown"]
    assert seen["events"] == ["stop", "reset", "shutdown"]
    assert vm.wait() == 0
