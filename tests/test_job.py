"""What is derived from an experiment before it runs."""

import pytest

from fedray.experiment import compose
from fedray.job import Job


@pytest.mark.parametrize(
    "partition", [{"name": "dirichlet", "alpha": 0.1}, {"name": "sampled", "examples": 30}], ids=str
)
def test_the_partitions_table_counts_every_label_of_every_client(tmp_path, partition):
    data = {"dataset": "synthetic", "train_examples": 120, "test_examples": 10}
    output = {"root": str(tmp_path), "name": "mine"}
    job = Job(compose({"clients": 7, "data": data, "partition": partition, "output": output}))
    rows = [
        (client, label, name, sum(job.dataset.train_labels[row] == label for row in shard))
        for client, shard in enumerate(job.shards)
        for label, name in enumerate(job.dataset.classes)
    ]
    columns = job.partition_columns()
    assert list(columns) == ["client", "label", "label_name", "count"]
    assert list(zip(*columns.values(), strict=True)) == rows
