"""What a figure depends on, besides the code."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, STREAM_OPTIONS


def machine_facts() -> dict[str, object]:
    """Return processor, memory, kernel, versions and the settings that are the same in every process."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "python_version": platform.python_version(),
        "versions": {name: version(name) for name in ("grpcio", "protobuf", "cryptography", "google-crc32c")},
        "channel_options": dict(STREAM_OPTIONS),
        "chunk_bytes": MAX_CHUNK_BYTES,
        "allocator": "glibc; thresholds set by tune_allocator in servers, learned from one block freed in clients of our SDK",
    }
