"""What the kernel of Linux says of this process's memory."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def status_mib(entry: str) -> float | None:
    """An entry of /proc/self/status in MiB: "VmHWM" the most that was resident, "RssAnon" what no file stands behind.

    None where there is no such file.
    """
    if not STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines[entry].split()[0]) / 1024
