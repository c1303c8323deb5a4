"""The room of Parquet and pandas: what a run writes, read back; docs/results.md documents every table and column."""

from typing import TYPE_CHECKING

from fedray.core.lazy import lazy

if TYPE_CHECKING:
    from fedray.results.analysis import curves, to_target, to_target_by
    from fedray.results.by_class import confusion, per_class
    from fedray.results.comparison import Comparison, best, compare, varied
    from fedray.results.correction import holm
    from fedray.results.folder import check_version, load, status
    from fedray.results.frames import DamagedResultsWarning, NewerResultsWarning, RepeatedRunsWarning, Results
    from fedray.results.merged import merged_model
    from fedray.results.schema import FAILED_STATUSES, FINAL_STATUSES, SCHEMAS

__all__ = [
    "FAILED_STATUSES",
    "FINAL_STATUSES",
    "SCHEMAS",
    "Comparison",
    "DamagedResultsWarning",
    "NewerResultsWarning",
    "RepeatedRunsWarning",
    "Results",
    "best",
    "check_version",
    "compare",
    "confusion",
    "curves",
    "holm",
    "load",
    "merged_model",
    "per_class",
    "status",
    "to_target",
    "to_target_by",
    "varied",
]

__getattr__, __dir__ = lazy(
    "fedray.results",
    {
        "FAILED_STATUSES": "fedray.results.schema:FAILED_STATUSES",
        "FINAL_STATUSES": "fedray.results.schema:FINAL_STATUSES",
        "SCHEMAS": "fedray.results.schema:SCHEMAS",
        "Comparison": "fedray.results.comparison:Comparison",
        "DamagedResultsWarning": "fedray.results.frames:DamagedResultsWarning",
        "NewerResultsWarning": "fedray.results.frames:NewerResultsWarning",
        "RepeatedRunsWarning": "fedray.results.frames:RepeatedRunsWarning",
        "Results": "fedray.results.frames:Results",
        "best": "fedray.results.comparison:best",
        "check_version": "fedray.results.folder:check_version",
        "compare": "fedray.results.comparison:compare",
        "confusion": "fedray.results.by_class:confusion",
        "curves": "fedray.results.analysis:curves",
        "holm": "fedray.results.correction:holm",
        "load": "fedray.results.folder:load",
        "merged_model": "fedray.results.merged:merged_model",
        "per_class": "fedray.results.by_class:per_class",
        "status": "fedray.results.folder:status",
        "to_target": "fedray.results.analysis:to_target",
        "to_target_by": "fedray.results.analysis:to_target_by",
        "varied": "fedray.results.comparison:varied",
    },
)
