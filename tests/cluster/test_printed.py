"""All that actors print is shown under --log-level debug, however soon their Ray ends; the program is in test_verbosity."""

import logging
import re

import pytest
from head_node import LEAN
from ray._private import ray_logging
from ray.cluster_utils import Cluster as SeveralNodes

from fedray import algorithms
from fedray.algorithms.fedavg import FedAvg
from fedray.cluster import printed
from fedray.cluster.settings import Cluster
from fedray.cluster.start import connected
from fedray.experiment.composition import compose
from fedray.run import run

LINES = 4000


class Printing(FedAvg):
    name = "printing"

    def finish(self, start, end, steps, lr, message, memory):
        for line in range(LINES):
            print(f"line {line}, of a client")
        return super().finish(start, end, steps, lr, message, memory)


@pytest.fixture(scope="module")
def address():
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = SeveralNodes(initialize_head=True, head_node_args={**node, **LEAN})
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def speaking(monkeypatch):
    """Whatever Ray and fedray say, of each client's lines, too, that differ in numbers only."""
    logger = logging.getLogger("fedray")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    monkeypatch.setattr(ray_logging, "RAY_DEDUP_LOGS", False)
    monkeypatch.setitem(algorithms.ALGORITHMS, "printing", Printing)
    yield
    logger.setLevel(before)


def play(root, address):
    """Two actors, one on each node, each of which trains one client in the only round."""
    cluster = {"address": address, "cpus_per_actor": 1, "clients_per_actor": 1}
    settings = {
        "rounds": 1, "clients": 2, "cohort": 2, "engine": "plain",
        "data": {"dataset": "synthetic", "train_examples": 60, "test_examples": 40},
        "model": {"name": "logistic"}, "algorithm": {"name": "printing"}, "cluster": cluster,
        "output": {"root": str(root), "name": "printed"},
    }  # fmt: skip
    with connected(Cluster(address=address, start_timeout=60)) as session:
        return run(compose(settings), session=session)


def test_what_actors_on_other_nodes_print_is_waited_for(tmp_path, address, speaking, capsys):
    tables = play(tmp_path, address)
    assert tables.population["node"].nunique() == 2
    found = re.findall(r"line (\d+), of", capsys.readouterr().out)
    assert sorted(map(int, found)) == sorted([*range(LINES), *range(LINES)])


@pytest.mark.slow
def test_what_does_not_come_in_time_is_told(tmp_path, address, speaking, capsys, caplog, monkeypatch):
    monkeypatch.setattr(printed, "WAIT_SECONDS", 3.0)
    monkeypatch.setattr(printed.Printed, "note", lambda self, data: None)
    play(tmp_path, address)
    assert "the last output of 2 of 2 actors is in their nodes' log files only" in caplog.text


def test_the_rest_of_a_log_file_begins_where_what_was_shown_ends(tmp_path):
    """Ray may have shown half a line, and says in lines of its own whose the next ones are."""
    path = tmp_path / "worker-0a-01000000-17.out"
    path.write_bytes(":job_id:01000000\n:actor_name:A\nüber\r\n\n:actor_name:B\nlast\r0%\r9%\n\nend".encode())
    lines = list(printed.lines_of(path))
    assert lines == [("A", "über"), ("A", ""), ("B", "last\r0%\r9%"), ("B", ""), ("B", "end")]
    total = sum(len(printed.plain(line)) for _, line in lines)
    assert total == len("über") + len("last0%9%") + len("end")
    assert list(printed.unshown(path, 0)) == lines
    assert list(printed.unshown(path, 2)) == [("A", "er"), *lines[1:]]
    assert list(printed.unshown(path, 4)) == lines[2:]
    assert list(printed.unshown(path, total - 1)) == [("B", "d")]
    assert list(printed.unshown(path, total)) == []


@pytest.mark.parametrize(
    ("batches", "said", "whole"),
    [
        ([["one", "tw"], ["o"]], ["three"], False),
        ([["one", "two", "three"]], [], False),
        ([], ["one", "two", "three"], False),
        ([["one"], ["three"]], ["one", "two", "three"], True),
    ],
    ids=["the rest", "all was shown", "nothing was", "a batch was lost"],
)
def test_the_log_files_of_a_local_ray_are_shown_to_their_end(tmp_path, speaking, capsys, caplog, batches, said, whole):
    (tmp_path / "worker-0a-01000000-17.err").write_text(":job_id:01000000\n:actor_name:A\none\ntwo\nthree")
    (tmp_path / "worker-0a-01000000-17.out").write_text(":job_id:01000000\n:actor_name:A\n")
    (tmp_path / "gcs_server.out").write_text("nobody's")
    seen = printed.Printed()
    for lines in batches:
        seen.note({"ip": "here", "pid": "17", "is_err": True, "lines": lines})
    seen.close(tmp_path)
    found = capsys.readouterr()
    assert found.out == ""
    assert re.findall(r"\(A pid=17\)\S* (\w+)", found.err) == said
    assert ("some of what process 17 printed was lost on its way here; this is all of it" in caplog.text) == whole
