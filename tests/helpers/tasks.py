"""A cohort's round as one handle: handed out, taken and kept."""

from fedray.server.task import Task


def train(population, algorithm, clients, message, t, lr, drop=False):
    """The updates of the clients, which remember what they learned; after an error nothing of the handle is left."""
    handle = population.submit(Task(algorithm, message, t, lr, drop=drop), clients)
    try:
        updates = population.take(handle)
    except BaseException:
        population.discard(handle)
        raise
    population.keep(handle)
    return updates
