"""All that actors print is shown under --log-level debug and with output.client_output, however soon their Ray ends.

The program is in test_verbosity."""

import logging
import re
from collections import defaultdict

import pytest
from head_node import LEAN
from ray.cluster_utils import Cluster as SeveralNodes

from fedray import algorithms
from fedray.algorithms.fedavg import FedAvg
from fedray.cluster import printed
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
def printing(monkeypatch):
    monkeypatch.setitem(algorithms.ALGORITHMS, "printing", Printing)


@pytest.fixture
def speaking(printing):
    """Whatever Ray and fedray say."""
    logger = logging.getLogger("fedray")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(before)


def play(root, address, client_output=False):
    """Two actors, one on each node, each of which trains one client in the only round."""
    cluster = {"address": address, "cpus_per_actor": 1, "clients_per_actor": 1, "start_timeout": 60}
    settings = {
        "rounds": 1, "clients": 2, "cohort": 2, "engine": "plain",
        "data": {"dataset": "synthetic", "train_examples": 60, "test_examples": 40},
        "model": {"name": "logistic"}, "algorithm": {"name": "printing"}, "cluster": cluster,
        "output": {"root": str(root), "name": "printed", "client_output": client_output},
    }  # fmt: skip
    return run(compose(settings))


def test_what_actors_on_other_nodes_print_is_waited_for(tmp_path, address, printing, capsys):
    """Each line, though they differ in numbers only, and nothing of what fedray and Ray log."""
    tables = play(tmp_path, address, client_output=True)
    assert tables.population["node"].nunique() == 2
    out, err = capsys.readouterr()
    texts = defaultdict(str)
    for pid, line in re.findall(r"\(ClientActor pid=(\d+)[^)]*\)\S* (.*)", out):
        texts[pid] += line  # which may be half of one, where the log monitor read while the page was written
    assert [*texts.values()] == ["".join(f"line {line}, of a client" for line in range(LINES))] * 2
    assert err == ""


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
