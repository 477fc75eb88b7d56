"""The memory of the machine, and of a container where that is less."""

import os

import pytest

from mistudio_core.hostmemory import available_bytes, peak_resident_bytes, reset_peak, resident_bytes, total_bytes

MB = 1 << 20


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: 512000 kB\n")
    return tmp_path


def cgroup(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_machine(proc, tmp_path):
    empty = tmp_path / "none"
    assert available_bytes(proc=proc, cgroup=empty) == 500 * MB
    assert total_bytes(proc=proc, cgroup=empty) == 1000 * MB


@pytest.mark.parametrize("version", (1, 2))
def test_a_container_counts_where_it_is_less(proc, tmp_path, version):
    names = ("memory.max", "memory.current", "memory.stat", "inactive_file")
    if version == 1:
        names = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
        names += ("total_inactive_file",)
    limit, used, stat, cache = names
    files = {limit: f"{300 * MB}\n", used: f"{200 * MB}\n", stat: f"anon 5\n{cache} {50 * MB}\n"}
    group = cgroup(tmp_path / "g", files)
    assert available_bytes(proc=proc, cgroup=group) == 150 * MB, "cached files are given back"
    assert total_bytes(proc=proc, cgroup=group) == 300 * MB
    cgroup(group, {limit: "max" if version == 2 else str(2**63 - 4096)})
    assert available_bytes(proc=proc, cgroup=group) == 500 * MB
    cgroup(group, {limit: "1000"})
    assert available_bytes(proc=proc, cgroup=group) == 0


def test_this_process_and_its_peak():
    before = resident_bytes()
    block = bytearray(os.urandom(1 << 20) * 64)
    assert resident_bytes() > before + 32 * MB
    peak = peak_resident_bytes()
    assert peak >= resident_bytes() - MB
    del block
    reset_peak()
    assert peak_resident_bytes() < peak
