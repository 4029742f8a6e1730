# SPDX-License-Identifier: Apache-2.0
"""Where a monitor's memory goes, from /proc/PID/smaps: guest RAM, translated code, and the monitor itself."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)$")


@dataclass
class Mapping:
    size: int
    permissions: str
    inode: int
    name: str
    rss: int = 0
    pss: int = 0

    @property
    def memory_only(self) -> bool:
        """Not backed by a file on a disk."""
        return not self.name.startswith("/") or self.name.startswith(("/memfd:", "/dev/zero"))


def mappings(pid: int) -> list[Mapping]:
    result: list[Mapping] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := _HEADER.match(line):
            result.append(Mapping(int(match[2], 16) - int(match[1], 16), match[3], int(match[4]), match[5]))
        elif line.startswith("Rss:"):
            result[-1].rss = int(line.split()[1]) << 10
        elif line.startswith("Pss:"):
            result[-1].pss = int(line.split()[1]) << 10
    return result


def processes(session: int) -> list[int]:
    """The processes of a session: the monitor and whatever it started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                pass
    return found


def split(pid: int, guest_ram: int) -> dict[str, int]:
    """Bytes resident in: guest_ram, code (translations), monitor (all the rest), and the monitor's proportional share."""
    total = {"guest_ram": 0, "code": 0, "monitor": 0, "monitor_pss": 0}
    listed = mappings(pid)
    # Code that can be written through a second mapping of the same memory file counts as code there too.
    code_inodes = {m.inode for m in listed if "x" in m.permissions and m.memory_only and m.inode}
    for m in listed:
        executable = "x" in m.permissions and m.memory_only and not m.name.startswith("[v")
        if executable or m.inode in code_inodes or re.search(r"code", m.name if m.memory_only else ""):
            total["code"] += m.rss
        elif m.memory_only and (m.size >= guest_ram * 3 // 4 or re.search(r"guest|ram", m.name)):
            total["guest_ram"] += m.rss
        else:
            total["monitor"] += m.rss
            total["monitor_pss"] += m.pss
    return total
