"""Each client's own test images have its shard's labels in proportion, and depend on nobody else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import small

from fedray.core.errors import BadInputError
from fedray.data.own_tests import apportion, draw_own_tests
from fedray.run import run
from fedray.run.prepared import Job

CLASSES = 5


@st.composite
def questions(draw):
    """The clients' labels, of which each client has at least one, the test set's labels, and how many are asked for."""
    held = st.lists(st.one_of(st.just(0), st.integers(0, 40)), min_size=CLASSES, max_size=CLASSES).filter(any)
    counts = draw(st.lists(held, min_size=1, max_size=4))
    labels = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=60))
    return np.array(counts), np.array(labels), draw(st.integers(1, 50))


@settings(max_examples=150, deadline=None)
@given(question=questions(), seed=st.integers(0, 2**63 - 1))
def test_a_client_gets_its_share_of_every_label(question, seed):
    """In whole numbers, without rounding errors: of size n, fewer where a label would run out, each label gets
    n w / W rounded down or up, up where more is left over.
    """
    counts, labels, size = question
    available = np.bincount(labels, minlength=CLASSES)
    drawn = draw_own_tests(counts, labels, size, seed)
    assert len(drawn) == len(counts)
    for own, rows in zip(counts, drawn, strict=True):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()  # sorted, and no row twice
        weights = [int(w) if a else 0 for w, a in zip(own, available, strict=True)]
        total = sum(weights)
        if not total:
            assert len(rows) == 0
            continue
        room = min(int(a) * total // w for w, a in zip(weights, available, strict=True) if w)
        n = max(1, min(size, room))
        assert len(rows) == n
        got = np.bincount(labels[rows], minlength=CLASSES).tolist()
        assert sum(got) == n  # so that bincount has seen all of them
        whole, left = zip(*(divmod(w * n, total) for w in weights), strict=True)
        up = {label for label in range(CLASSES) if got[label] == whole[label] + 1}
        assert all(label in up or got[label] == whole[label] for label in range(CLASSES))
        assert min((left[label] for label in up), default=total) >= max(
            (left[label] for label in range(CLASSES) if label not in up), default=0
        )


@settings(max_examples=60, deadline=None)
@given(question=questions(), seed=st.integers(0, 2**63 - 1))
def test_a_clients_images_depend_on_nobody_else(question, seed):
    """The same, whoever the other clients are and however many; and the same each time."""
    counts, labels, size = question
    drawn = draw_own_tests(counts, labels, size, seed)
    for client in range(len(counts)):
        alone = draw_own_tests(counts[: client + 1], labels, size, seed)
        others = np.vstack([counts[:, ::-1] + 1, counts])
        others[client] = counts[client]
        among = draw_own_tests(others, labels, size, seed)
        assert np.array_equal(drawn[client], alone[client])
        assert np.array_equal(drawn[client], among[client])


def test_a_clients_images_are_the_same_whatever_the_one_before_it_draws():
    labels = np.repeat(np.arange(CLASSES), 200)
    one, other = (
        draw_own_tests(np.array([first, [7] * CLASSES]), labels, 100, 1) for first in ([9] * 5, [1, 0, 0, 0, 0])
    )
    assert np.array_equal(one[1], other[1])


def test_another_seed_and_another_client_draw_other_images():
    labels = np.repeat(np.arange(CLASSES), 200)
    counts = np.full((3, CLASSES), 7)
    one, other = (draw_own_tests(counts, labels, 100, seed) for seed in (1, 2))
    draws = [tuple(rows) for rows in (*one, *other)]
    assert len(set(draws)) == 6
    assert all(np.bincount(labels[list(rows)]).tolist() == [20] * CLASSES for rows in draws)


def test_every_image_of_a_label_is_as_likely():
    """400 clients draw 5 of 10: each image 200 times, with a standard deviation of 10."""
    labels = np.array([0] * 10 + [1] * 10)
    drawn = draw_own_tests(np.tile([3, 3], (400, 1)), labels, 10, seed=0)
    times = np.bincount(np.concatenate(drawn), minlength=20)
    assert times.sum() == 4000
    assert times.min() > 150
    assert times.max() < 250


@pytest.mark.parametrize(
    ("own", "available", "expected"),
    [
        ([50, 50], [100, 100], [10, 10]),
        ([50, 50], [3, 100], [3, 3]),  # the first label lasts for 6 images in all
        ([75, 25], [30, 2], [6, 2]),  # the second for 8
        ([60, 30, 10], [100, 100, 1], [6, 3, 1]),
        ([9, 1], [30, 0], [20, 0]),  # a label that the test set lacks does not count
        ([0, 4], [50, 50], [0, 20]),
        ([0, 4], [50, 7], [0, 7]),
        ([1000, 1], [5, 1], [5, 0]),
        ([2, 1], [1, 1], [1, 0]),  # for one in all, which is of the larger share
    ],
)
def test_too_few_images_of_a_label_scale_all_labels_down(own, available, expected):
    """Twenty are asked for."""
    labels = np.repeat(np.arange(len(own)), available)
    (rows,) = draw_own_tests(np.array([own]), labels, 20, seed=0)
    assert np.bincount(labels[rows], minlength=len(own)).tolist() == expected


def test_hamiltons_method_by_hand():
    """Of 100,000 votes 47,000, 16,000, 15,900, 12,000, 6,000 and 3,100 for 10 seats: 4, 1, 1, 1, 0 and 0 at once.

    Three are left for the largest remainders, 7,000 and twice 6,000; 5,900 comes too late.
    """
    votes = np.array([47_000, 16_000, 15_900, 12_000, 6_000, 3_100])
    assert apportion(votes, 10, [10] * 6).tolist() == [5, 2, 1, 1, 1, 0]
    assert apportion(np.array([1, 1, 1, 1]), 2, [9] * 4).tolist() == [1, 1, 0, 0]
    assert apportion(np.array([0, 0]), 3, [9, 9]).tolist() == [0, 0]
    assert apportion(np.array([1, 1, 1]), 9, [2, 9, 9]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("weights", [[4, 1, 1], [1, 1, 10]])
def test_of_equal_remainders_the_first_is_rounded_up(weights):
    """Of two or four images each label has a third left over, though no binary fraction is a third."""
    size = sum(weights) // 3
    whole, left = np.divmod(np.array(weights) * size, sum(weights))
    assert len(set(left.tolist())) == 1
    expected = whole + (np.arange(3) < size - whole.sum())
    assert apportion(np.array(weights), size, [99] * 3).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 30),  # 120 / 4
        ({"clients": 40}, 10),  # at least
        ({"data__test_examples": 5000}, 1000),  # at most
        ({"evaluation__client_examples": 7}, 7),
        ({"evaluation__client_examples": 100_000}, 120),  # as many as there are, where the labels allow for it
    ],
)
def test_how_many_images_a_client_gets(tmp_path, changes, size):
    """Up to what its labels' shares and the test set leave; no client gets more, and some get as many."""
    job = Job(small(tmp_path, algorithm__name="local", **changes))
    sizes = [len(rows) for rows in job.own_tests]
    assert len(sizes) == job.experiment.clients
    assert max(sizes) <= size
    assert max(sizes) > 0.3 * size


def test_without_an_evaluation_of_clients_nothing_is_drawn(tmp_path):
    assert Job(small(tmp_path)).own_tests is None
    assert Job(small(tmp_path, algorithm__name="local", evaluation__clients_every=0)).own_tests is None


def test_a_client_that_cannot_be_evaluated_is_refused_in_one_sentence_before_anything_is_written(tmp_path):
    """Shards of one label or two, and a test set of three images."""
    changes = {"partition__name": "dirichlet", "partition__alpha": 1e-3, "data__test_examples": 3, "rounds": 1}
    labels = np.array([0, 0, 1])
    assert draw_own_tests(np.array([[0, 0, 5], [1, 0, 5]]), labels, 2, seed=0)[0].tolist() == []
    with pytest.raises(BadInputError, match="the test set has no image of the labels of some client") as error:
        run(small(tmp_path, algorithm__name="local", model__name="logistic", **changes))
    assert "\n" not in str(error.value)
    assert "evaluation.clients_every = 0" in str(error.value)
    assert not list(tmp_path.iterdir())
    run(small(tmp_path, model__name="logistic", evaluation__clients_every=0, **changes))
