"""A run's session, population and past, opened for the length of a `with`."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedray.cluster.capacity import Capacity
from fedray.cluster.plan import MOST_AUTOMATIC, Plan, plan, reserves_gpus
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError
from fedray.data.dataset import Dataset
from fedray.results.recorder import Recorder
from fedray.run import longer
from fedray.run.needs import check_memory_here, needs_of
from fedray.run.played import Played, decide
from fedray.run.prepared import Job
from fedray.run.resume import Past, read_past
from fedray.run.run_columns import grouping_columns, run_row
from fedray.run.session import KeptRay, open_session
from fedray.run.watch import Watch
from fedray.server.population import Population
from fedray.training.device import has_own_memory
from fedray.training.spec import Recipe

if TYPE_CHECKING:
    from fedray.cluster.population import RayPopulation
    from fedray.cluster.start import Session

log = logging.getLogger(__name__)


def warn_of_arithmetic(job: Job, played: Played, watch: Watch) -> None:
    """Notices where the device lacks what the settings ask for, or has what they leave unused."""
    e, found, device = job.experiment, job.blueprint, played.device
    if e.model.precision == "bfloat16" and device == "cpu" and not found.torch.bfloat16:
        watch.notice("this processor has no bfloat16, so that model.precision only makes the run slower")
    if e.model.precision in ("tf32", "float32_3xtf32") and device == "cpu":
        watch.notice(f"only GPUs have TensorFloat-32, so that model.precision = {e.model.precision} is float32 here")
    if played.engine == "plain" and has_own_memory(device) and not (e.unfit_to_fuse or found.unfit_to_fuse):
        watch.notice("engine = fused would train a block's clients as one program, which is what keeps a GPU busy")
    if played.engine != e.engine:
        watch.notice(
            f"engine = auto is fused on a GPU for more than {MOST_AUTOMATIC} clients, and has blocks = {played.blocks} "
            f"here; the run has the id that it has on a CPU, of engine = {e.engine}"
        )


def tell_of_start(job: Job, watch: Watch) -> None:
    """A notice of what of model.init's file the model starts with."""
    if job.blueprint.start:
        watch.notice(job.blueprint.start)


def warn_of_gpus(job: Job, clients: Population, device: str, watch: Watch) -> None:
    """Notices where GPUs are reserved or asked for, and clients train on the CPU all the same."""
    if device != "cpu":
        return
    if np.any(clients.rows()["num_gpus"]):
        watch.notice("torch finds no GPU where the actors have a share of one reserved, so clients train on the CPU")
    elif share := job.experiment.cluster.gpus_per_client:
        asked = f"cluster.gpus_per_client = {share:g}"
        watch.notice(f"there is no GPU here, so {asked} reserves nothing, and clients train on the CPU")


class Opened(NamedTuple):
    """A run's past, a recorder that goes on from there, and why it does not go on from a shorter run, if it may not."""

    past: Past | None
    recorder: Recorder
    from_round_1: str = ""


def open_past(job: Job, fresh: bool = False) -> Opened:
    """The run's past from its checkpoint, or from that of a shorter run, and a recorder. Nothing is written yet.

    With `fresh` there is no past, and no earlier file of the run is read.
    """
    output = job.experiment.output
    names = (output.root, output.name, job.run, grouping_columns(job), run_row(job))
    if fresh:
        return Opened(None, Recorder(*names, flush_seconds=output.flush_seconds))
    own = read_past(job)
    found = longer.Found(own) if own else longer.find(job)
    keep = found.past.t if found.past else 0
    recorder = Recorder.resume(*names, keep_rounds=keep, flush_seconds=output.flush_seconds, taken=found.lines)
    return Opened(found.past, recorder, found.why)


def check_session(cluster: Cluster, given: "Session | KeptRay | None", client_output: bool) -> None:
    """BadInputError where the session that a run would be played in has another Ray than it asks for."""
    kept = given or open_session()
    if isinstance(kept, KeptRay) and cluster.backend != "in-process":
        kept.check(cluster, client_output)


@contextmanager
def shared_session(
    cluster: Cluster, given: "Session | KeptRay | None" = None, client_output: bool = False
) -> Iterator["Session | None"]:
    """One Ray for all runs with these settings: a given one, that of the open session, or one of their own.

    None where they use no Ray. `client_output` is the setting of `output`.
    """
    if given is not None and not isinstance(given, KeptRay):
        yield given
        return
    if cluster.backend == "in-process":
        yield None
        return
    if kept := given or open_session():
        yield kept.connect(cluster, client_output)
        return
    from fedray.cluster.start import connected

    with connected(cluster, client_output) as session:
        yield session


@contextmanager
def population(
    job: Job, session: "Session | None", notice: Callable[[str], None], again: bool = False
) -> Iterator[tuple[Population, str, Played]]:
    """The run's population for the length of a `with`, a sentence on where it is, and what trains the run there.

    `again` says that nodes were lost. The population then takes the reservations that still fit.
    """
    e = job.experiment
    if session is None:
        from fedray.training.device import choose_device, settle_on
        from fedray.training.in_process import InProcessPopulation

        device = choose_device(e.cluster.gpus != 0 and e.cluster.gpus_per_client != 0)
        settle_on(device)
        played = decide(job, device)
        check_memory_here(job, played)
        here = InProcessPopulation(*parts_of(job, played), device)
        yield here, "this process, no Ray" + (", on a GPU" if device == "cuda" else ""), played
        return
    cluster = e.cluster
    try:
        played, planned = reserved(job, session, cluster)
    except BadInputError:
        if not again:
            raise
        cluster = anyhow(cluster)
        played, planned = reserved(job, session, cluster)
    clients = start(job, session, played, planned, notice)
    try:
        expected, played = played, decide(job, clients.device)
    except BaseException:
        clients.close()
        raise
    if (played.engine, played.blocks) != (expected.engine, expected.blocks):  # torch finds no GPU where Ray has one
        clients.close()
        played, planned = reserved(job, session, cluster, played.device)
        clients = start(job, session, played, planned, notice)
    try:
        yield clients, describe(planned, e.clients, session.capacity, clients.device, session.pool.plainly), played
    finally:
        clients.close()


def reserved(job: Job, session: "Session", cluster: Cluster, device: str = "") -> tuple[Played, Plan]:
    """What trains the run, and its reservations; BadInputError where these cannot fit.

    Before the actors are up their `device` is not known. It is taken to be a GPU where they reserve a share of one,
    unless actors that are up have such shares and find none.
    """
    gpus = reserves_gpus(cluster, session.capacity) and not session.pool.finds_no_gpu
    return planned_on(job, session.capacity, cluster, device or ("cuda" if gpus else "cpu"))


def planned_on(job: Job, capacity: Capacity, cluster: Cluster, device: str) -> tuple[Played, Plan]:
    """What trains the run on a device, and its reservations there; BadInputError where these cannot fit."""
    played = decide(job, device)
    return played, plan(cluster, job.experiment.clients, capacity, needs_of(job, played))


def start(
    job: Job, session: "Session", played: Played, planned: Plan, notice: Callable[[str], None]
) -> "RayPopulation":
    """The population as actors of a Ray."""
    from fedray.cluster.population import RayPopulation
    from fedray.cluster.tickets import Patience

    cluster = job.experiment.cluster
    patience = Patience(cluster.deadline_factor, cluster.deadline_seconds)
    with timed(f"starting {planned.actors} actors"):
        return RayPopulation(session.pool, planned, *parts_of(job, played), patience, notice)


def parts_of(job: Job, played: Played) -> tuple[Dataset, list[np.ndarray], Recipe, int, list[np.ndarray] | None]:
    """What any population is made of: the data, the shards, the recipe, the number of blocks, clients' own tests."""
    recipe = dataclasses.replace(job.recipe, engine=played.engine)
    return job.dataset, job.shards, recipe, played.blocks, job.own_tests


def anyhow(cluster: Cluster) -> Cluster:
    """The same settings with all reservations on auto. A run that trains on the CPU stays there."""
    gpus = 0.0 if cluster.gpus_per_client == 0 else None
    return dataclasses.replace(cluster, clients_per_actor=None, cpus_per_actor=None, gpus_per_client=gpus)


def describe(planned: Plan, clients: int, capacity: Capacity, device: str, plainly: str = "") -> str:
    """The actors and their reservations, as a sentence for the start of a run."""
    kind = "one for each client" if not planned.packed else f"{clients} clients packed into them"
    memory = f" ({planned.gpu_bytes // 2**20} MiB)" if planned.gpu_bytes else ""
    gpu = f"{planned.num_gpus:g} GPU{memory}"
    if not planned.num_gpus and not capacity.gpus:
        gpu = "no GPU free" if capacity.held_gpus else "no GPU here"
    rest = f"; {planned.why}" if planned.why else ""
    rest += "; clients train on the CPU" if planned.num_gpus and device == "cpu" else ""
    rest += f"; {plainly}" if plainly else ""
    rest += f"; {capacity.limits}" if capacity.limits else ""
    actors = f"{planned.actors} Ray actor{'s' * (planned.actors != 1)}"
    return f"{actors}, {kind}, {planned.num_cpus:g} CPU and {gpu} each{rest}"


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log how long the body of the `with` took. `what` names it."""
    began = time.perf_counter()
    yield
    log.debug("%s took %.2f s", what, time.perf_counter() - began)
