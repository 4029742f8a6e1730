# SPDX-License-Identifier: Apache-2.0
"""Disks, network and entropy as a guest sees them."""
import http.server
import socket
import threading

from vm import run_flag


def test_disk_keeps_what_is_written(boot, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"hello from the host\n" + bytes(8 * 1024 * 1024 - 20))
    script = """head -c 19 /dev/vda; echo
    echo written by the guest | dd of=/dev/vda bs=512 seek=8 conv=sync,fsync 2>/dev/null
    cat /sys/block/vda/size /sys/block/vda/serial"""
    vm = boot(f"vezha.do=poweroff {run_flag(script)}", "--disk", f"{disk},serial=SERIAL7", virtio=True)
    assert vm.wait() == 0
    assert "hello from the host" in vm.text()
    assert "16384" in vm.text() and "SERIAL7" in vm.text()
    assert disk.read_bytes()[4096:].startswith(b"written by the guest")


def test_read_only_disk(boot, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1024 * 1024))
    script = "cat /sys/block/vda/ro; echo x | dd of=/dev/vda 2>&1 | tail -1"
    vm = boot(f"vezha.do=poweroff {run_flag(script)}", "--disk", f"{disk},readonly=on", virtio=True)
    assert vm.wait() == 0
    assert disk.read_bytes() == bytes(1024 * 1024)


def test_user_network_reaches_the_host(boot):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"page-from-the-host\n")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = f"""ip link set eth0 up; udhcpc -i eth0 -n -q -s /bin/true 2>&1 | tail -1
        ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
        wget -q -O - http://10.0.2.2:{server.server_port}/"""
        vm = boot(f"vezha.do=poweroff {run_flag(script)}", virtio=True, net="user")
        assert vm.wait() == 0
        server.shutdown()
    assert "page-from-the-host" in vm.text(), vm.text()[-1500:]


def test_port_forward_into_the_guest(boot):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = """ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
    echo listening; echo answer-of-the-guest | nc -l -p 22"""
    vm = boot(f"vezha.do=poweroff {run_flag(script)}", "--share-port", f"{port}:22", virtio=True, net="user")
    vm.wait_for("listening")
    answer = b""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            while chunk := connection.recv(100):
                answer += chunk
        if answer:
            break
    assert answer == b"answer-of-the-guest\n"


def test_two_machines_share_a_wire(boot, tmp_path):
    wire = tmp_path / "wire"
    common = "ip link set eth0 up; ip addr add 192.168.7.{}/24 dev eth0;"
    one = boot(run_flag(common.format(1) + "echo one-is-up"), "--name", "one", "--cpus", "1", virtio=True,
               net=f"socket,listen={wire}")
    one.wait_for("one-is-up")
    two = boot("vezha.do=poweroff " + run_flag(common.format(2) + "ping -c 3 -W 5 192.168.7.1"), "--name", "two",
               "--cpus", "1", virtio=True, net=f"socket,connect={wire}")
    assert two.wait() == 0
    assert " 0% packet loss" in two.text(), two.text()[-1500:]


def test_entropy_device(boot):
    vm = boot("vezha.do=poweroff " + run_flag("cat /sys/class/misc/hw_random/rng_available; head -c 64 /dev/hwrng | wc -c"), virtio=True)
    assert vm.wait() == 0
    assert "virtio_rng" in vm.text()


def test_balloon_takes_memory_and_gives_it_back(boot):
    vm = boot("", "--cpus", "1", virtio=True, qmp=True, memory="512M")
    qmp = vm.qmp()
    vm.wait_for("/ # ")
    whole = qmp.execute("query-balloon")["actual"]
    assert whole == 512 << 20
    for target in (300 << 20, whole):
        qmp.execute("balloon", value=target)
        while qmp.execute("query-balloon")["actual"] != target:
            qmp.wait_event("BALLOON_CHANGE")
    qmp.execute("quit")
    assert vm.wait() == 0


def test_console_ports(boot, tmp_path):
    out = tmp_path / "channel"
    # udev would make /dev/virtio-ports/NAME; the tiny guest has none.
    script = "ls /dev/hvc0; cat /sys/class/virtio-ports/*/name; echo through-the-channel > $(ls /dev/vport*p1); sleep 1"
    vm = boot("vezha.do=poweroff " + run_flag(script), "--console", "null", "--console", f"org.example.test=file:{out}", virtio=True)
    assert vm.wait() == 0
    assert "through-the-channel" in out.read_text(), vm.text()[-1000:]
    assert "org.example.test" in vm.text() and "/dev/hvc0" in vm.text()
