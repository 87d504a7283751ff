"""What is said about a machine: real here, and from the files of others."""

from __future__ import annotations

import json
from pathlib import Path

from yolor_edge.benchmarks.report import machine


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_this_machine_is_described_in_plain_values() -> None:
    found = machine.describe_machine()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]["usable_cores"] >= 1
    assert found["accelerator"] == "none used"
    assert found["versions"]["numpy"][0].isdigit()
    state = machine.describe_state()
    assert json.loads(json.dumps(state)) == state
    assert state["time"].startswith("20")
    assert isinstance(machine.peak_memory_bytes(), int)
    busy = machine.busy_share(0.05)
    assert busy == "unknown" or 0 <= float(busy) <= 1


def test_what_cannot_be_read_is_unknown_and_still_there(tmp_path: Path) -> None:
    found = machine.describe_machine(tmp_path)
    here = machine.describe_machine()
    assert set(found) == set(here)
    assert set(found["cpu"]) == set(here["cpu"])
    assert found["memory_bytes"] == "unknown"
    assert found["board"] == "unknown"
    assert found["container"] == "unknown"
    assert found["cpu"]["quota"] == "unknown"
    assert found["cpu"]["features"] == "unknown"
    state = machine.describe_state(tmp_path)
    assert state["governor"] == "unknown"
    assert state["cpu_mhz"] == "unknown"
    assert state["temperature_celsius"] == "unknown"
    assert machine.busy_share(0, tmp_path) == "unknown"


def test_a_jetson(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path, "proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    write(tmp_path, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    status = "Package: curl\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: ok\nVersion: 6.2+b77\n\n"
    write(tmp_path, "var/lib/dpkg/status", status)
    write(
        tmp_path,
        "proc/cpuinfo",
        "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    )
    write(tmp_path, "proc/meminfo", "MemTotal:        7802112 kB\nMemFree: 1 kB\n")
    found = machine.describe_machine(tmp_path)
    assert found["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["l4t"] == "R36.4.3"
    assert found["jetpack"] == "6.2+b77"
    assert found["nvpmodel"] == "unknown"
    assert found["memory_bytes"] == 7802112 * 1024
    assert found["cpu"]["features"] == ["asimd", "asimddp"]
    assert found["is_virtual_machine"] == "unknown"


def test_clocks_governor_and_temperature(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{i}/scaling_governor", "schedutil\n")
        write(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{i}/scaling_cur_freq", f"{1510400 + i * 1000}\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48250\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    state = machine.describe_state(tmp_path)
    assert state["governor"] == "schedutil"
    assert state["cpu_mhz"] == [1510, 1511]
    assert state["temperature_celsius"] == {"thermal_zone0 cpu-thermal": 48.25}


def test_containers_and_quotas(tmp_path: Path) -> None:
    write(tmp_path, "proc/1/cgroup", "0::/init.scope\n")
    assert machine.describe_machine(tmp_path)["container"] == "no sign of one"
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    assert machine.describe_machine(tmp_path)["cpu"]["quota"] == 1.5
    write(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert machine.describe_machine(tmp_path)["cpu"]["quota"] == "none"
    write(tmp_path, ".dockerenv", "")
    assert machine.describe_machine(tmp_path)["container"] == "yes (docker)"


def test_two_sockets_are_counted_by_core(tmp_path: Path) -> None:
    text = ""
    for socket in range(2):
        for core in (0, 0, 1, 1):
            text += (
                f"processor : 0\nmodel name : Test CPU\nphysical id : {socket}\ncore id : {core}\nflags : sse2 avx2\n\n"
            )
    write(tmp_path, "proc/cpuinfo", text)
    found = machine.describe_machine(tmp_path)
    assert found["cpu"]["physical_cores"] == 4
    assert found["cpu"]["model"] == "Test CPU"
    assert found["is_virtual_machine"] is False
