"""What clients remember changes in `keep` alone, and only for clients whose handle was taken."""

import pytest

from fedray.algorithms.fedavg import FedAvg
from fedray.server.memories import Memories
from fedray.server.task import Handle, Task


def out(memories, clients, t=1):
    handle = Handle(Task(FedAvg(), {}, t, 0.1), clients)
    memories.hand_out(handle)
    return handle


def taken(memories, learned, t=1):
    handle = out(memories, list(learned), t)
    memories.take(handle)
    memories.learn(handle, learned)
    return handle


def test_what_was_learned_counts_once_it_is_kept():
    memories = Memories()
    one, other = taken(memories, {0: "a", 1: "b"}), taken(memories, {2: "c"})
    assert (memories.of(0), memories.after(1)) == (None, [])
    memories.keep(other)
    assert memories.after(1) == [(2, "c")]
    memories.keep(one)
    assert memories.after(1) == [(0, "a"), (1, "b"), (2, "c")]


def test_of_a_discarded_handle_nothing_stays():
    memories = Memories()
    memories.remember(0, "before")
    memories.discard(taken(memories, {0: "a", 1: "b"}))
    assert memories.after(1) == [(0, "before")]
    assert (memories.learned, memories.at_work) == ({}, {})


def test_the_round_before_the_last_can_still_be_saved():
    """Two handles of round 2 and one of round 3; client 0 learns in both, client 1 for the first time in the last."""
    memories = Memories()
    memories.remember(0, "0 after 1")
    for learned in ({0: "0 after 2"}, {2: "2 after 2"}):
        memories.keep(taken(memories, learned, 2))
    assert memories.after(1) == [(0, "0 after 1")]
    assert memories.after(2) == memories.after(3) == [(0, "0 after 2"), (2, "2 after 2")]
    memories.keep(taken(memories, {0: "0 after 3", 1: "1 after 3"}, 3))
    assert memories.after(2) == [(0, "0 after 2"), (2, "2 after 2")]
    assert memories.after(3) == [(0, "0 after 3"), (1, "1 after 3"), (2, "2 after 2")]


def test_a_handle_may_count_in_a_later_round_than_its_tasks():
    memories = Memories()
    memories.keep(taken(memories, {0: "old"}, 1))
    memories.keep(taken(memories, {1: "late"}, 1), t=4)
    assert memories.after(3) == [(0, "old")]
    assert memories.after(4) == [(0, "old"), (1, "late")]
    later = taken(memories, {2: "later"}, 2)
    with pytest.raises(ValueError, match="of round 4 are kept already, so that none can count from round 2 on"):
        memories.keep(later)
    memories.keep(later, t=4)
    assert memories.after(4) == [(0, "old"), (1, "late"), (2, "later")]


def test_what_was_not_taken_to_its_end_cannot_be_kept():
    memories = Memories()
    handle = out(memories, [0])
    memories.take(handle)  # and an error came
    with pytest.raises(ValueError, match="this handle was being taken"):
        memories.keep(handle)
    memories.discard(handle)
    out(memories, [0])


def test_handles_may_be_discarded_after_all_was_given_up():
    memories = Memories()
    handle = out(memories, [0])
    memories.clear()
    memories.discard(handle)


def test_a_client_is_at_work_for_one_handle_at_a_time():
    memories = Memories()
    first = out(memories, [3, 1])
    with pytest.raises(ValueError, match="client 1 still has the task of round 1: keep or discard that handle first"):
        out(memories, [0, 1])
    assert set(memories.at_work) == {1, 3}  # what was refused left no trace
    with pytest.raises(ValueError, match="named twice"):
        out(memories, [5, 5])
    memories.discard(first)
    memories.keep(taken(memories, {1: "a", 0: "b"}))
    out(memories, [0, 1])


def test_handles_are_taken_once_and_closed_once():
    memories = Memories()
    handle = out(memories, [0])
    with pytest.raises(ValueError, match="not taken"):
        memories.keep(handle)
    memories.take(handle)
    memories.learn(handle, {})
    with pytest.raises(ValueError, match="taken once"):
        memories.take(handle)
    memories.keep(handle)
    for again in (memories.keep, memories.discard):
        with pytest.raises(ValueError, match="kept"):
            again(handle)
    other = out(memories, [0])
    memories.discard(other)
    memories.discard(other)  # who tidies up need not know
    for late in (memories.take, memories.keep):
        with pytest.raises(ValueError, match="discarded"):
            late(other)


def test_what_changed_after_a_round_is_known_also_of_the_round_before_the_last():
    memories = Memories()
    memories.remember(9, "from a checkpoint")
    memories.keep(taken(memories, {0: "0 after 1", 1: "1 after 1"}, 1))
    memories.keep(taken(memories, {1: "1 after 2", 9: "9 after 2"}, 2))
    memories.keep(taken(memories, {1: "1 after 3", 2: "2 after 3"}, 3))
    assert memories.after(3, since=2) == [(1, "1 after 3"), (2, "2 after 3")]
    assert memories.after(3, since=1) == [(1, "1 after 3"), (2, "2 after 3"), (9, "9 after 2")]
    assert memories.after(2, since=1) == [(1, "1 after 2"), (9, "9 after 2")]
    assert memories.after(2, since=2) == memories.after(3, since=3) == []
    assert memories.after(2, since=0) == [(0, "0 after 1"), (1, "1 after 2"), (9, "9 after 2")]
