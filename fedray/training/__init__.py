"""A process that trains: the SGD loop, forward passes, batches, evaluation."""
