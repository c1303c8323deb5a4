"""Feature skew: nothing at zero, a pure function of the seed and the client otherwise, each part as its sentence says."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_same_tables, small

from fedray.core.errors import BadInputError
from fedray.data.skew import TEST, Skew, rotate
from fedray.experiment.composition import compose
from fedray.run import run
from fedray.run.checks import check_split
from fedray.run.prepared import Job

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 12, 12), dtype=np.uint8)
GREY = np.full((400, 3, 16, 16), 128, np.uint8)
ALL = Skew(noise=0.1, rotation=30, colour=0.3)


def test_at_zero_images_are_themselves():
    assert Skew().is_off
    assert Skew().apply(IMAGES, 0, 3, 10) is IMAGES


@settings(max_examples=60, deadline=None)
@given(
    noise=st.sampled_from([0.0, 1e-300, 0.1, 1.0]),
    rotation=st.sampled_from([0.0, 1e-300, 30.0, 180.0]),
    colour=st.sampled_from([0.0, 1e-300, 0.4, 1.0]),
    clients=st.integers(1, 10**6),
    seed=st.integers(0, 2**63 - 1),
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_images_stay_images_and_what_is_given_is_left_alone(noise, rotation, colour, clients, seed, shape, data):
    client = data.draw(st.integers(0, clients - 1))
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    images.setflags(write=False)  # as those from the object store are
    skew = Skew(noise=noise, rotation=rotation, colour=colour)
    seen = skew.apply(images, seed, client, clients)
    assert (seen.dtype, seen.shape) == (np.uint8, shape)
    assert seen.flags.c_contiguous
    assert np.array_equal(seen, skew.apply(images, seed, client, clients))
    if max(noise, rotation, colour) <= 1e-300:
        assert np.array_equal(seen, images)


@pytest.mark.parametrize("skew", [Skew(noise=0.1), Skew(rotation=45), Skew(colour=0.5)], ids=str)
def test_each_part_does_something_of_its_own_for_each_client_and_seed(skew):
    seen = [skew.apply(IMAGES, seed, client, 10).tobytes() for seed in (0, 1) for client in (1, 2)]
    assert len({IMAGES.tobytes(), *seen}) == 5


def test_what_a_client_is_does_not_depend_on_what_else_is_skewed():
    """The angle without colours, and the colours without an angle, are those of both."""
    both = Skew(rotation=30, colour=0.3).apply(IMAGES, 5, 2, 10)
    turned = Skew(rotation=30).apply(IMAGES, 5, 2, 10)
    assert np.array_equal(both, Skew(colour=0.3).apply(turned, 5, 2, 10))
    assert np.array_equal(ALL.apply(IMAGES, 5, 2, 10), Skew(noise=0.1).apply(both, 5, 2, 10))


@pytest.mark.parametrize("client", [0, 4, 9])
def test_noise_grows_with_the_clients_number(client):
    """Around grey, where nothing is cut off; rounding to bytes adds a twelfth to the variance."""
    residual = Skew(noise=0.05).apply(GREY, 0, client, 10).astype(float) - 128
    assert residual.mean() == pytest.approx(0, abs=0.1)
    assert residual.std() == pytest.approx(np.sqrt((255 * 0.05 * (client + 1) / 10) ** 2 + 1 / 12), rel=0.01)


def test_noise_is_of_each_image_and_other_on_a_clients_test_images():
    seen = Skew(noise=0.05).apply(GREY, 0, 3, 10)
    assert len({image.tobytes() for image in seen}) == len(seen)
    other = Skew(noise=0.05).apply(GREY, 0, 3, 10, TEST)
    assert abs(np.corrcoef(seen.ravel(), other.ravel())[0, 1]) < 0.02


def test_the_angle_and_the_colours_of_a_client_are_the_same_on_its_test_images():
    skew = Skew(rotation=30, colour=0.3)
    assert np.array_equal(skew.apply(IMAGES, 0, 3, 10), skew.apply(IMAGES, 0, 3, 10, TEST))


def test_colours_are_scaled_by_a_factor_for_each_client_and_channel():
    factors = np.array([Skew(colour=0.4).apply(GREY[:1], 0, client, 300)[0, :, 0, 0] / 128 for client in range(300)])
    assert 0.6 - 0.004 <= factors.min() < 0.62
    assert 1.38 < factors.max() <= 1.4 + 0.004
    assert factors.mean() == pytest.approx(1, abs=0.03)  # four standard deviations
    assert abs(np.corrcoef(factors.T)[np.triu_indices(3, 1)]).max() < 0.25
    seen = Skew(colour=0.4).apply(IMAGES, 0, 7, 300)
    np.testing.assert_allclose(seen, np.minimum(255, IMAGES * factors[7][:, None, None]), atol=1.5)  # both are rounded


def test_angles_are_drawn_evenly_from_both_sides():
    """The angle of a line through the middle tells it."""
    line = np.zeros((1, 1, 41, 41), np.uint8)
    line[:, :, 20, 24:] = 255
    y, x = np.mgrid[:41, :41] - 20.0
    angles = []
    for client in range(200):
        seen = Skew(rotation=60).apply(line, 0, client, 200)[0, 0].astype(float)
        angles.append(np.degrees(np.arctan2(-(y * seen).sum(), (x * seen).sum())))
    assert -61 < min(angles) < -55
    assert 55 < max(angles) < 61
    assert np.mean(angles) == pytest.approx(0, abs=10)  # four standard deviations
    assert np.std(angles) == pytest.approx(60 / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("quarters", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("side", [1, 2, 7, 12])
def test_right_angles_lose_nothing(quarters, side):
    images = IMAGES[:, :, :side, :side]
    assert np.array_equal(rotate(images, 90 * quarters), np.rot90(images, quarters, (2, 3)))


@pytest.mark.parametrize("degrees", [-170, -33.3, 10, 45, 100])
def test_a_turn_is_bilinear_interpolation_with_black_outside(degrees):
    """Against SciPy's on smooth images, where the sixteenth of a pixel to which places are rounded is little."""
    y, x = np.mgrid[:24, :24] / 24
    smooth = np.stack([255 * x, 255 * y, 127 + 60 * np.sin(3 * x + 2 * y)]).round().astype(np.uint8)[None]
    expected = scipy.ndimage.rotate(smooth.astype(float), degrees, (3, 2), reshape=False, order=1, mode="grid-constant")
    off = np.abs(rotate(smooth, degrees) - expected)
    assert off[:, :, 5:19, 5:19].max() <= 2
    assert (off > 10).mean() < 0.01  # at the rim itself
    assert rotate(np.full((1, 1, 9, 9), 255, np.uint8), 45)[0, 0, 0, 0] == 0


def test_grey_that_is_the_same_all_over_stays_so_inside():
    assert np.unique(rotate(GREY[:1], 37)[:, :, 5:11, 5:11]).tolist() == [128]


@pytest.mark.parametrize(
    "wrong", ["noise = -0.1", "noise = 1.5", "rotation = 181.0", "rotation = -1.0", "colour = 1.01"]
)
def test_impossible_settings_are_refused_by_name(wrong):
    name, value = wrong.split(" = ")
    with pytest.raises(BadInputError, match=f"^skew.{name} = {value} must be"):
        compose({"skew": {name: float(value)}})


def test_colours_of_grey_images_are_refused(tmp_path):
    job = Job(small(tmp_path, skew__colour=0.1))
    d = job.dataset
    grey = {name: getattr(d, name)[:, :1] for name in ("train_images", "test_images", "validation_images")}
    job.dataset = dataclasses.replace(d, **grey)
    with pytest.raises(BadInputError, match=r"skew.colour = 0.1 scales red, green and blue, but .* are grey"):
        check_split(job)
    job = Job(small(tmp_path, skew__rotation=10, skew__noise=0.1))
    job.dataset = dataclasses.replace(d, **grey)
    check_split(job)


RUN = {"rounds": 2, "evaluation__clients_every": 1, "model__name": "logistic"}


def test_a_run_at_zero_is_the_run_without_and_each_setting_makes_another(tmp_path):
    base = run(small(tmp_path / "0", **RUN))
    assert_same_tables(base, run(small(tmp_path / "1", skew__noise=0, skew__rotation=0, skew__colour=0, **RUN)))
    seen = {base.runs["model_fingerprint"][0]}
    for i, name in enumerate(("noise", "rotation", "colour")):
        other = run(small(tmp_path / f"2{i}", **{f"skew__{name}": 0.3}, **RUN))
        seen.add(other.runs["model_fingerprint"][0])
        assert other.runs["run"][0] != base.runs["run"][0]
    assert len(seen) == 4
