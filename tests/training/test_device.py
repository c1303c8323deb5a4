"""What a process does to be fit for its device. No GPU is needed: two functions of torch's that want one are replaced."""

import os
from types import SimpleNamespace

import pytest
import torch

from fedray.core.errors import BadInputError
from fedray.training.device import choose_device, limit_allocator, settle_on

MIB = 2**20


@pytest.fixture
def limits(monkeypatch):
    """The fractions that the allocator was limited to, of a GPU of 24000 MiB."""
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24000 * MIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


@pytest.fixture
def plain_torch(monkeypatch):
    """torch as it is without any settling, before and after."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield
    torch.use_deterministic_algorithms(False)


def settled() -> tuple[str | None, bool, bool, bool]:
    return (
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_a_gpu_is_used_where_it_is_wanted_and_torch_finds_one():
    assert choose_device(wanted=False) == "cpu"
    assert choose_device(wanted=True) == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_processs_allocator_has_its_share_less_the_context(limits):
    """A tenth of 24000 MiB are 2400, of which the context takes 500: (2400 - 500) / 24000."""
    limit_allocator(0.1)
    limit_allocator(1 / 3)
    assert limits == pytest.approx([1900 / 24000, 7500 / 24000])


def test_ten_processes_and_their_contexts_fit_a_gpu_together(limits):
    limit_allocator(0.1)
    assert 10 * (limits[0] * 24000 + 500) == pytest.approx(24000)


@pytest.mark.parametrize("share", [0.02, 500 / 24000])
def test_a_share_that_its_context_fills_is_refused(limits, share):
    with pytest.raises(BadInputError) as error:
        limit_allocator(share)
    assert limits == []
    if share == 0.02:
        assert str(error.value) == (
            "0.02 of a GPU of 24000 MiB is 480 MiB, of which a process's CUDA context takes 500 MiB; raise "
            "cluster.gpus_per_client or cluster.clients_per_actor"
        )


def test_on_a_gpu_algorithms_are_deterministic_and_memory_is_limited(limits, plain_torch):
    settle_on("cuda", 0.5)
    assert settled() == (":4096:8", True, False, False)
    assert limits == pytest.approx([11500 / 24000])


def test_a_whole_gpu_needs_no_limit_and_what_the_user_chose_stays(limits, plain_torch, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    settle_on("cuda")
    assert settled() == (":16:8", True, False, False)
    assert limits == []


def test_on_a_cpu_nothing_is_touched(limits, plain_torch):
    before = settled()
    settle_on("cpu", 0.5)
    assert settled() == before == (None, False, True, True)
    assert limits == []
