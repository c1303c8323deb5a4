"""Evaluation of a model in a process: the server's, or the one that a client would use."""

import math

import torch

from fedray.core.errors import blamed_on
from fedray.core.metrics import accuracy_of_labels
from fedray.core.randomness import torch_seed
from fedray.core.scores import Measured
from fedray.core.updates import Scores, Vectors
from fedray.models.flat import Array, Tensors, tensor_of
from fedray.training.client import Client
from fedray.training.network import Network
from fedray.training.shards import place
from fedray.training.spec import evaluation_batch
from fedray.training.trainer import Trainer
from fedray.training.transfer import Examples, Received, to_host

FINE_TUNING = 2**32  # the first epoch of training that is part of an evaluation; no round has that many epochs


def evaluate(
    trainer: Trainer,
    message: Vectors,
    images: Array,
    labels: Array,
    top_k: int | None = None,
    scores: bool = False,
) -> Measured:
    """Measure the message's model on images, in batches of spec.evaluation_batch."""
    with blamed_on("evaluation failed"), trainer.network.arithmetic():
        model = trainer.on_its_place({name: message[name] for name in ("params", "buffers")})
        return measure(trainer.network, model, images, labels, top_k, scores)


def evaluate_client(
    trainer: Trainer, received: Received, client: int, shard: Examples, test: Examples, memory: Vectors
) -> Scores:
    """Measure the model that a client would use on the client's own test images.

    The task's message is the broadcast of the state after its round.
    """
    network, task = trainer.network, received.task
    message, remembered, _ = trainer.receive(task.algorithm, received.message, memory)
    shard = place(*shard, network.device)
    here = Client(network, task, client, *shard, message, remembered, first_epoch=FINE_TUNING)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(network.recipe.seed, "fine-tune", t=task.t, client=client))
        model = task.algorithm.own_model(here, message, remembered, task.lr)
    found, count = measure(network, model, *test), len(test[1])
    labels = test[1].cpu().numpy() if isinstance(test[1], torch.Tensor) else test[1]
    accuracy: float | None = None
    if found.predicted is not None:
        accuracy = int((found.predicted == labels).sum()) / count
    elif found.scores is not None and network.recipe.kind.targets == "labels":
        accuracy = accuracy_of_labels(found.scores, labels)
    return count, math.fsum(found.losses) / count, accuracy


def measure(
    network: Network, model: Tensors, images: Array, labels: Array, top_k: int | None = None, scores: bool = False
) -> Measured:
    """Measure a model {"params", "buffers"} on images. The numbers are read from the device once.

    `scores` asks for the outputs, which are measured in any case where targets are no classes.
    """
    images, labels = place(images, labels, network.device)
    losses: list[torch.Tensor] = []
    predicted: list[torch.Tensor] = []
    said: list[torch.Tensor] = []
    classes = network.recipe.kind.targets == "classes"
    among = torch.zeros((), dtype=torch.int64, device=network.device)
    size = evaluation_batch(network.device)
    with torch.inference_mode():
        network.flat.load(model["params"], model["buffers"])
        network.flat.module.eval()
        for first in range(0, len(labels), size):
            batch = slice(first, first + size)
            output, *_ = network.outputs(network.flat.module, network.inputs(tensor_of(images[batch])))
            targets = tensor_of(labels[batch]).to(network.device)
            losses.append(network.objective.each(output, targets).double().sum())
            if classes:
                predicted.append(output.argmax(1))
            if scores or not classes:
                said.append(output)
            if top_k:
                right = output.gather(1, targets[:, None])
                # Not `output > right`: a score that is not a number is not above any, and would make no mistakes.
                above, labels_before = ~(output <= right), torch.arange(output.shape[1], device=network.device)
                above |= (output == right) & (labels_before < targets[:, None])  # of equals argmax takes the first
                among += (above.sum(1) < top_k).sum()
        numbers = [torch.stack(losses), among, *([torch.cat(predicted).to(torch.int16)] if classes else [])]
        numbers += [torch.cat(said)] if said else []
        sums, hits, *found = to_host(numbers) if network.on_device else [each.numpy() for each in numbers]
    labels_found = found.pop(0) if classes else None
    return Measured(sums.tolist(), labels_found, int(hits) if top_k else None, found[0] if found else None)
