# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: its options, the images, runs in alternation, and the table with its JSON."""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import GuestError
from .machine import Qemu, Vezha

REPOSITORY = Path(__file__).resolve().parents[2]
Monitor = Qemu | Vezha
# Packages that the benchmarks and the guest tests use inside Debian.
TEST_PACKAGES = "stress-ng,fio,iperf3,curl"


def arguments(description: str, runs: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--vezha", default=str(REPOSITORY / "build/release/bin/vezha"), help="vezha to measure")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="QEMU to compare with")
    parser.add_argument("--qemu-cpu", default="max", help="QEMU's CPU model under its translator; fewer features, "
                        "such as qemu64, boot faster (default max)")
    parser.add_argument("--only", choices=("qemu", "vezha"), help="measure one of the two")
    parser.add_argument("--runs", type=int, default=runs, help=f"runs of each, in alternation (default {runs})")
    parser.add_argument("--tiny", type=Path, help="folder made by scripts/make_tiny_initramfs")
    parser.add_argument("--debian", type=Path, help="folder made by scripts/make_guest_image")
    parser.add_argument("--scratch", type=Path, help="folder for disk copies (default: beside the temporary files)")
    parser.add_argument("--json", type=Path, help="also write the JSON to this file")
    return parser


def monitors(options: argparse.Namespace) -> list[Monitor]:
    found: list[Monitor] = []
    if options.only != "vezha":
        if shutil.which(options.qemu):
            found.append(Qemu(options.qemu, options.qemu_cpu))
        else:
            print(f"{options.qemu} is not installed; measuring without it", file=sys.stderr)
    if options.only != "qemu":
        if os.access(options.vezha, os.X_OK):
            found.append(Vezha(options.vezha))
        else:
            print(f"{options.vezha} is not built; measuring without it", file=sys.stderr)
    if not found:
        raise SystemExit("nothing to measure: build a release, or install qemu-system-x86")
    return found


def tiny_images(options: argparse.Namespace) -> Path:
    return options.tiny or _make("make_tiny_initramfs")


def debian_image(options: argparse.Namespace) -> Path:
    """A Debian with the test packages; made on first use, which needs root."""
    if options.debian:
        return options.debian
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return _make("make_guest_image", "--size", "4G", "--extra-packages", TEST_PACKAGES,
                 "--out", str(cache / "vezha/images/debian-test"))


def _make(script: str, *options: str) -> Path:
    done = subprocess.run([REPOSITORY / "scripts" / script, *options], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed")
    return Path(done.stdout.split("\n")[-2])


@contextmanager
def scratch(options: argparse.Namespace) -> Iterator[Path]:
    """A folder for disks that a run may write to."""
    with tempfile.TemporaryDirectory(prefix="vezha-bench-", dir=options.scratch) as folder:
        yield Path(folder)


def copy_disk(source: Path, target: Path) -> Path:
    """A private copy of a disk, sparse, and shared with the original where the file system can."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
    return target


class Report:
    """Samples by (scenario, metric) and monitor; prints medians, their ratio and the JSON."""

    def __init__(self, benchmark: str, options: argparse.Namespace) -> None:
        self.benchmark, self.options = benchmark, options
        self.rows: dict[tuple[str, str, str, bool], dict[str, list[float]]] = {}
        self.failures: list[dict[str, str]] = []

    def add(self, monitor: str, scenario: str, metric: str, unit: str, value: float, *, more_is_better: bool) -> None:
        row = self.rows.setdefault((scenario, metric, unit, more_is_better), {})
        row.setdefault(monitor, []).append(value)
        print(f"  {scenario}: {metric}: {monitor} {value:.4g} {unit}", file=sys.stderr)

    def attempt(self, monitor: str, scenario: str, body: Callable[[], None]) -> None:
        """One run; a guest that fails costs its own samples, not the whole benchmark."""
        try:
            body()
        except (GuestError, OSError) as error:
            print(f"{scenario}: {monitor} failed: {error}", file=sys.stderr)
            self.failures.append({"scenario": scenario, "monitor": monitor, "error": str(error)})

    def finish(self) -> int:
        """Prints everything. A ratio above 1 means that Vezha is better, whichever way the unit counts."""
        rows, lines = [], [("scenario", "metric", "unit", "qemu", "vezha", "ratio")]
        for (scenario, metric, unit, more), samples in self.rows.items():
            median = {name: statistics.median(values) for name, values in samples.items()}
            qemu, vezha = median.get("qemu"), median.get("vezha")
            ratio = None
            if qemu and vezha:
                ratio = vezha / qemu if more else qemu / vezha
            rows.append({"scenario": scenario, "metric": metric, "unit": unit, "more_is_better": more,
                         "median": median, "samples": samples, "ratio": ratio})
            text = [f"{value:.4g}" if value is not None else "-" for value in (qemu, vezha, ratio)]
            lines.append((scenario, metric, unit, *text))
        widths = [max(len(line[column]) for line in lines) for column in range(6)]
        print()
        for line in lines:
            print("  ".join(cell.rjust(width) if column > 2 else cell.ljust(width)
                            for column, (cell, width) in enumerate(zip(line, widths))).rstrip())
        print("\nMedians; a ratio above 1 means that Vezha is better.\n")
        result = {"benchmark": self.benchmark, "host": _host(self.options), "rows": rows, "failures": self.failures}
        print(json.dumps(result))
        if self.options.json:
            self.options.json.write_text(json.dumps(result, indent=1) + "\n")
        return 1 if self.failures else 0


def _host(options: argparse.Namespace) -> dict[str, object]:
    def first_line(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
        except (OSError, subprocess.TimeoutExpired):
            return ""

    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().split("\n")
                if line.startswith("model name")), "")
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0],
            "qemu": first_line(options.qemu, "--version"), "qemu_cpu": options.qemu_cpu, "vezha": first_line(options.vezha, "--version"),
            "revision": first_line("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")}
