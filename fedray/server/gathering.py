"""The driver's part of the way of an update: from the results of calls to the sum of a cohort."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from fedray.core.updates import Report, Sum, Trained, Updates, WeightedSum
from fedray.server.task import Task

M = TypeVar("M")


def gather(task: Task, blocks_trained: Iterable[list[Trained]]) -> Updates:
    """The cohort's updates from its blocks in order. A block is the result of one call, or of one call per client."""
    linear = task.aggregator.linear
    total: Sum = task.aggregator.zero() if linear else WeightedSum()
    reports, each = list[Report](), []
    for block in blocks_trained:
        reports += [report for trained in block for report in trained.reports]
        if not linear:
            each += [vectors for trained in block for vectors in trained.each]
            continue
        if len(block) == 1 and block[0].sum is not None:  # the block's sum needs no copy
            total.add(block[0].sum)
            continue
        subtotal = task.aggregator.zero()
        for trained in block:
            if trained.sum is not None:
                subtotal.add(trained.sum)
                continue
            counted = [report for report in trained.reports if report.status == "ok"]
            for vectors, report in zip(trained.each, counted, strict=True):
                subtotal.add_update(vectors, task.weight(report))
        total.add(subtotal)
    counted = [report for report in reports if report.status == "ok"]
    weights = [task.weight(report) for report in counted]
    if not linear:
        total.weight = math.fsum(weights)
    return Updates(total, counted, each, weights, [report for report in reports if report.status != "ok"])


def remembered(task: Task, clients: Sequence[int], reports: Sequence[Report], memories: Sequence[M]) -> dict[int, M]:
    """The new memories of those of these clients whose update counts. The others keep their old memory."""
    if not task.remembers:
        return {}
    return {c: memory for c, report, memory in zip(clients, reports, memories, strict=True) if report.status == "ok"}
