"""What a container leaves of the machine: made trees of /proc and /sys, and a real cgroup where one can be made."""

import math
import sys

import psutil
import pytest
from containers import limited, run_limited

from fedray.cluster.capacity import Capacity
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.settings import Cluster
from fedray.core import limits
from fedray.core.errors import BadInputError
from fedray.core.limits import Limits, available_memory, cores, describe_limits, read_limits

GIB = 2**30
UNLIMITED = "9223372036854771712\n"  # the largest multiple of a page of 4 KiB


@pytest.fixture
def made(tmp_path):
    """Writes a tree: the lines of /proc/self/cgroup, the mounts (root, point, kind, options), and a cgroup's files."""

    def make(own, mounts, files):
        lines = [
            f"{i} 22 0:{i} {top} {point} rw,nosuid shared:{i} - {kind} {kind} {options}"
            for i, (top, point, kind, options) in enumerate(mounts, start=30)
        ]
        whole = {
            "proc/self/cgroup": "".join(f"{line}\n" for line in own),
            "proc/self/mountinfo": "".join(f"{line}\n" for line in ["22 1 0:20 / / rw - ext4 /dev/vda rw", *lines]),
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        }
        for name, text in whole.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


@pytest.fixture
def machine(monkeypatch):
    """One of 8 cores, and 23 GiB of which 21 are free."""
    memory = psutil.virtual_memory()._replace(total=23 * GIB, available=21 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(limits, "own_cores", lambda: 8)


V2 = [("/", "/sys/fs/cgroup", "cgroup2", "rw,nsdelegate")]
SMALL = {
    "cpu.max": "50000 100000\n",
    "memory.max": f"{2500 * 2**20}\n",
    "memory.high": "max\n",
    "memory.current": f"{700 * 2**20}\n",
    "memory.stat": f"anon 5\nfile 6\ninactive_file {200 * 2**20}\nactive_file 7\n",
}


def under(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


def test_a_container_of_version_2_sees_its_own_limits_as_the_root(made):
    assert read_limits(made(["0::/"], V2, SMALL)) == Limits(0.5, 2500 * 2**20, 2000 * 2**20)


def test_the_least_of_all_parents_counts_for_each_by_itself(made):
    files = {
        **under("a.slice", {"cpu.max": "150000 100000\n", "memory.max": f"{4 * GIB}\n", "memory.current": f"{3 * GIB}\n"}),
        **under("a.slice/b.slice", {"cpu.max": "200000 50000\n", "memory.max": "max\n", "memory.high": f"{5 * GIB}\n"}),
        **under("a.slice/b.slice/c.scope", {"cpu.max": "max 100000\n", "memory.max": f"{2 * GIB}\n", "memory.current": "9\n"}),
        **under("a.slice/other.scope", {"cpu.max": "1000 100000\n", "memory.max": "1000\n"}),
    }  # fmt: skip
    assert read_limits(made(["0::/a.slice/b.slice/c.scope"], V2, files)) == Limits(1.5, 2 * GIB, GIB)
    assert read_limits(made(["0::/a.slice/b.slice"], V2, files)) == Limits(1.5, 4 * GIB, GIB)


def test_what_slows_a_process_down_limits_it_too(made):
    high = {**SMALL, "memory.high": f"{GIB}\n"}
    assert read_limits(made(["0::/"], V2, high)) == Limits(0.5, GIB, 524 * 2**20)


V1_MEMORY = {
    "memory.limit_in_bytes": f"{2 * GIB}\n",
    "memory.usage_in_bytes": f"{GIB}\n",
    "memory.stat": f"inactive_file 1\nhierarchical_memory_limit {2 * GIB}\ntotal_inactive_file {GIB // 2}\n",
}
V1_CPU = {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}


def test_version_1_with_a_controller_in_each_place(made):
    """As Docker has it: /proc names the cgroup as the host does, and only that cgroup is mounted."""
    own = ["5:cpu,cpuacct:/docker/abc", "4:memory:/docker/abc", "1:name=systemd:/docker/abc"]
    mounts = [
        ("/docker/abc", "/sys/fs/cgroup/cpu\\040and\\040more", "cgroup", "rw,cpu,cpuacct"),
        ("/docker/abc", "/sys/fs/cgroup/memory", "cgroup", "ro,memory"),
        ("/docker/abc", "/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,name=systemd"),
    ]
    files = {**under("cpu and more", V1_CPU), **under("memory", V1_MEMORY)}
    assert read_limits(made(own, mounts, files)) == Limits(1.5, 2 * GIB, 1.5 * GIB)


def test_version_1_counts_the_limit_of_parents_that_are_not_to_be_seen(made):
    mounts = [("/", "/sys/fs/cgroup/memory", "cgroup", "rw,memory")]
    stat = f"hierarchical_memory_limit {GIB}\ntotal_inactive_file 0\n"
    files = under("memory", {**V1_MEMORY, "memory.limit_in_bytes": UNLIMITED, "memory.stat": stat})
    assert read_limits(made(["4:memory:/"], mounts, files)) == Limits(math.inf, GIB, 0)


def test_a_hybrid_has_its_limits_where_the_controllers_are(made):
    own = ["4:memory:/job/7", "2:cpu:/", "0::/job/7"]
    mounts = [
        ("/", "/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
        ("/", "/sys/fs/cgroup/cpu", "cgroup", "rw,cpu"),
        ("/", "/sys/fs/cgroup/unified", "cgroup2", "rw"),
    ]
    files = {
        **under("memory/job/7", {**V1_MEMORY, "memory.limit_in_bytes": UNLIMITED, "memory.stat": ""}),
        **under("memory/job", V1_MEMORY),
        **under("memory/job/8", {"memory.limit_in_bytes": "4096\n"}),
        **under("cpu", {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}),
        **under("unified/job/7", {"cgroup.procs": "", "cpu.max": "200000 100000\n"}),
    }
    assert read_limits(made(own, mounts, files)) == Limits(2, 2 * GIB, 1.5 * GIB)


def test_no_limit_is_none(made, machine):
    v2 = {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.high": "max\n", "memory.current": "77\n"}
    v1 = {"memory.limit_in_bytes": UNLIMITED, "memory.usage_in_bytes": "77\n", **V1_CPU, "cpu.cfs_quota_us": "-1\n"}
    v1["memory.stat"] = f"hierarchical_memory_limit {UNLIMITED}"
    mounts = [*V2, ("/", "/sys/fs/cgroup/both", "cgroup", "rw,cpu,memory")]
    root = made(["4:cpu,memory:/", "0::/"], mounts, {**v2, **under("both", v1)})
    assert read_limits(root) == Limits()
    assert (cores(root), available_memory(root), describe_limits(root)) == (8, 21 * GIB, "")


def test_what_cannot_be_read_is_no_limit(made, tmp_path, machine):
    assert read_limits(tmp_path) == Limits()  # no /proc, as on macOS
    assert (cores(tmp_path), available_memory(tmp_path), describe_limits(tmp_path)) == (8, 21 * GIB, "")
    assert read_limits(made(["0::/"], V2, {})) == Limits()
    wrong = {"cpu.max": "half of one\n", "memory.max": "2.5G\n", "memory.high": "", "memory.current": "-5\n"}
    assert read_limits(made(["0::/"], V2, wrong)) == Limits()
    assert read_limits(made(["0::/"], V2, {"cpu.max": "50000 0\n", "memory.max": "\n"})) == Limits()
    assert read_limits(made(["nonsense", "0::/gone (deleted)"], V2, {})) == Limits()
    for name in ("cpu.max", "memory.max"):
        (tmp_path / "sys/fs/cgroup" / name).unlink()
        (tmp_path / "sys/fs/cgroup" / name).mkdir()
    assert read_limits(tmp_path) == Limits()
    (tmp_path / "proc/self/mountinfo").write_bytes(b"\xff\xfe\n")
    assert read_limits(tmp_path) == Limits()


def test_a_limit_without_what_is_used_is_a_limit_all_the_same(made):
    assert read_limits(made(["0::/"], V2, {"memory.max": f"{GIB}\n"})) == Limits(math.inf, GIB, GIB)


def test_other_cgroups_that_are_mounted_limit_nothing(made):
    other = [("/other", "/sys/fs/cgroup", "cgroup2", "rw")]
    assert read_limits(made(["0::/own"], other, SMALL)) == Limits()
    assert read_limits(made(["0::/"], other, SMALL)) == Limits()
    assert read_limits(made(["0::/../sibling"], V2, SMALL)) == Limits()  # a process put outside of its namespace
    unknown = [("/", "/sys/fs/cgroup", "cgroup", "rw,memory,cpu")]
    assert read_limits(made(["0::/"], unknown, SMALL)) == Limits()  # /proc says of no cgroup there


def test_a_hierarchy_from_outside_the_namespace_limits_by_what_is_on_top(made):
    assert read_limits(made(["0::/"], [("/../..", "/sys/fs/cgroup", "cgroup2", "rw")], SMALL)).cpus == 0.5


@pytest.mark.parametrize(("quota", "expected"), [(1000, 1), (50000, 1), (100000, 1), (150000, 2), (6400000, 8)])
def test_a_part_of_a_core_keeps_another_busy(made, machine, quota, expected):
    assert cores(made(["0::/"], V2, {"cpu.max": f"{quota} 100000\n"})) == expected


def test_memory_is_the_least_of_the_machine_and_the_container(made, machine):
    def free(limit, used):
        return available_memory(made(["0::/"], V2, {"memory.max": f"{limit}\n", "memory.current": f"{used}\n"}))

    assert free(2 * GIB, GIB) == GIB
    assert free(22 * GIB, 0) == 21 * GIB
    assert free(GIB, 2 * GIB) == 0


def test_limits_are_told_as_far_as_the_machine_has_more(made, machine):
    def said(cpus, memory):
        return describe_limits(made(["0::/"], V2, {"cpu.max": f"{cpus} 100000\n", "memory.max": f"{memory}\n"}))

    assert said(50000, 2_500_000_000) == "this container is limited to 0.5 CPU and 2384 MiB of memory"
    assert said(250000, 64 * GIB) == "this container is limited to 2.5 CPUs"
    assert said("max", GIB) == "this container is limited to 1024 MiB of memory"
    assert said(800000, 64 * GIB) == ""


def capacity(root):
    return Capacity((float(cores(root)),), 0, available_memory(root), limits=describe_limits(root))


def test_a_hundred_clients_are_packed_into_what_a_small_container_holds(made, machine, tmp_path):
    needs = Needs(250_000, shards=150 * 2**20, object_store=200 * 2**20)
    assert plan(Cluster(), 100, capacity(tmp_path), needs).actors == 100
    small = plan(Cluster(), 100, capacity(made(["0::/"], V2, SMALL)), needs)
    assert (small.actors, small.packed, small.num_cpus, small.lanes) == (1, True, 1.0, 1)


def test_what_does_not_fit_into_a_container_is_refused_with_its_limits(made, machine):
    with pytest.raises(BadInputError) as error:
        plan(Cluster(clients_per_actor=1, forked=False), 100, capacity(made(["0::/"], V2, SMALL)), Needs(250_000))
    assert "but 2000 MiB are free (this container is limited to 0.5 CPU and 2500 MiB of memory); raise" in str(
        error.value
    )


LOOK = """
from fedray.core.limits import cores, describe_limits, read_limits
found, taken = read_limits(), bytearray(200 * 2**20)
print(found.cpus, cores(), found.memory, found.free - read_limits().free, describe_limits(), sep="\\n")
"""


def test_real_limits_are_read():
    with limited(memory=GIB, cpu=50000) as folders:
        done = run_limited([sys.executable, "-c", LOOK], folders, timeout=60)
    assert done.returncode == 0, done.stderr
    cpus, whole, memory, taken, words = done.stdout.splitlines()
    assert (float(cpus), int(whole), float(memory)) == (0.5, 1, GIB)
    assert 190 * 2**20 < float(taken) < 230 * 2**20
    assert words == "this container is limited to 0.5 CPU and 1024 MiB of memory"
