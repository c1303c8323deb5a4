"""Other simulators' names of settings, and the papers' letters, for the end of a sentence on an unknown setting.

`meant` looks there before it looks for the most similar name.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from fedray.core.settings import nearest, plain
from fedray.experiment.experiment import CHOSEN

SECTIONS = {
    "model": "model.name",
    "loss": "loss.name",
    "algorithm": "algorithm.name",
    "aggregator": "aggregator.name",
    "partition": "partition.name",
    "data": "data.dataset",
    "skew": "skew.noise",
    "evaluation": "evaluation.every",
    "faults": "faults.dropout",
    "cluster": "cluster.backend",
    "output": "output.name",
}
"""For each section the setting that its name with a bare value means, as in --model cnn."""

OTHER_NAMES = {
    "algorithm": {"fedopt": "fedadam", "sgd": "fedsgd", "ft": "finetune"},
    "aggregator": {"average": "mean", "avg": "mean", "fedavg": "mean"},
    "partition": {
        **dict.fromkeys(("non-iid", "niid", "hetero", "lda", "dir", "label_skew"), "dirichlet"),
        **dict.fromkeys(("homo", "uniform", "even"), "iid"),
        **dict.fromkeys(("pathological", "pat", "n_classes"), "classes_per_client"),
        **dict.fromkeys(("quantity", "lognormal", "power_law"), "quantity_skew"),
        **dict.fromkeys(("shard", "mcmahan"), "shards"),
        **dict.fromkeys(("user", "by_user", "natural_id"), "natural"),
    },
}
"""Other names of the choices of a section, where the most similar one is another or there is none."""

# The names are those of Flower, FedML, LEAF, pfl-research, PFLlib, FL-bench, fluke, FedLab and fedjax, and the letters
# those of McMahan et al. 2017. Capitals, hyphens and underscores do not count.
WORDS = {
    "seed": "random_seed, manual_seed, rng_seed, seeds",
    "rounds": "t, num_rounds, n_rounds, num_server_rounds, server_rounds, comm_round, com_round, comm_rounds, "
    "communication_rounds, global_rounds, global_round, global_epoch, global_epochs, gr, central_num_iterations, "
    "max_rounds",
    "clients": "k, n, num_clients, n_clients, number_of_clients, client_num, client_num_in_total, total_clients, nc, "
    "num_users, users, num_supernodes, num_partitions, num_nodes, min_available_clients, min_available_nodes, "
    "population, n_parties",
    "cohort": "c, m, frac, fraction, fraction_fit, fraction_train, participation, participation_rate, client_fraction, "
    "join_ratio, jr, sample_ratio, sample_fraction, sampling_rate, sampling_fraction, eligible_perc, cohort_size, "
    "clients_per_round, num_clients_per_round, client_num_per_round, users_per_round, min_fit_clients, "
    "min_train_nodes, num_sampled_clients",
    "data.dataset": "data.name, dataset.name, dataset_name, data_name",
    "data.root": "data.path, data_path, data_dir, data_root, data_cache_dir, dataset_path, dataset.path",
    "data.augment": "augmentation, data_augmentation, transform, transforms",
    "data.sampling": "sampler, balanced_sampling, weighted_sampler, oversampling",
    "data.validation_examples": "val_size, validation_size, val_split, validation_split, val_fraction",
    "model.name": "model_name, net, network, architecture, arch, backbone",
    "model.precision": "dtype, amp, mixed_precision, use_amp",
    "loss.name": "criterion, loss_fn, loss_func, loss_function, objective, task",
    "loss.delta": "huber_delta, smooth_l1_beta",
    "loss.class_weights": "class_weight, pos_weight, class_balanced",
    "model.init": "init_from, init_weights, pretrained_path, weights, load_model, ckpt",
    "model.trainable": "unfreeze, trainable_layers, finetune_layers, modules_to_save",
    "model.lr_scale": "layer_lr, lr_multipliers, param_groups, discriminative_lr, lr_mult",
    "model.lora_rank": "r, lora_r, rank, lora, peft, adapter, adapters",
    "model.lora_alpha": "lora_alpha",
    "model.lora_layers": "target_modules, lora_target_modules",
    "algorithm.name": "algo, alg, strategy, strategy_name, method, method.name, algorithm_name, federated_optimizer, "
    "fed_alg, aggregation, server.strategy",
    "algorithm.lr": "eta, eta_l, learning_rate, client_lr, local_lr, client_learning_rate, local_learning_rate, "
    "base_lr, init_lr",
    "algorithm.epochs": "e, local_epochs, local_epoch, num_epochs, n_epochs, num_local_epochs, local_num_epochs, "
    "local_ep, client_epochs, train_epochs, epoch, ls",
    "algorithm.batch_size": "b, bs, local_bs, lbs, local_batch_size, client_batch_size, train_batch_size, batch, "
    "batchsize",
    "algorithm.steps": "local_steps, num_steps, local_updates, local_iterations, num_local_steps, batch_num_per_client",
    "algorithm.optimizer": "optim, opt, client_optimizer, local_optimizer, optimizer.name, optimizer_name",
    "algorithm.weight_decay": "wd, l2",
    "algorithm.clip_norm": "max_grad_norm, grad_clip, clip_grad, gradient_clipping, clip_grad_norm, clipping",
    "algorithm.lr_schedule": "scheduler, lr_scheduler, schedule, scheduler.name, lr_scheduler.name",
    "algorithm.lr_decay": "learning_rate_decay, learning_rate_decay_gamma, ldg, gamma, scheduler.gamma",
    "algorithm.lr_decay_every": "step_size, scheduler.step_size, lr_scheduler.step_size",
    "algorithm.weighting": "weighted, client_weighting",
    "algorithm.server_lr": "eta_g, eta_s, global_lr, server_learning_rate, slr",
    "algorithm.mu": "proximal_mu, fedprox_mu, prox_mu",
    "algorithm.lam": "lambda, lamda",
    "algorithm.fine_tune_epochs": "finetune_epoch, finetune_epochs, fine_tuning_epochs, fine_tuning_epoch",
    "algorithm.personal_epochs": "plocal_epochs, personal_local_epochs",
    "partition.name": "distribution, distribution.name, data_distribution, partition_method, partitioner, "
    "partitioning, split, iid, niid, non_iid",
    "partition.alpha": "alpha, dirichlet_alpha, partition_alpha, dir_alpha, beta, dirichlet_beta, concentration",
    "partition.classes": "classes_per_client, class_per_client, num_classes_per_client, labels_per_client",
    "partition.shards_per_client": "shards, num_shards, num_shards_per_client",
    "partition.min_size": "min_partition_size, least_samples, min_samples",
    "evaluation.every": "eval_every, test_every, eval_interval, test_interval, eval_gap, eg, evaluation_frequency, "
    "eval_freq, frequency_of_the_test, evaluate_every",
    "evaluation.target_accuracy": "goal_accuracy, stop_accuracy",
    "evaluation.metrics": "metric, eval_metrics, evaluation_metrics",
    "evaluation.judged_by": "monitor, metric_for_best_model, best_metric, selection_metric",
    "evaluation.client_holdout": "test_ratio, test_fraction, local_test_ratio, client_test_ratio",
    "evaluation.unseen_clients": "num_new_clients, nnc, new_clients, held_out_clients",
    "evaluation.patience": "early_stopping, early_stop",
    "faults.dropout": "drop_rate, dropout_rate, client_drop_rate, cdr, straggler_ratio, stragglers",
    "cluster.backend": "engine_backend, simulation_backend",
    "cluster.address": "ray_address, ray_cluster_addr",
    "cluster.cpus": "num_cpus, num_workers, workers, n_jobs",
    "cluster.gpus": "num_gpus, gpu, device, use_cuda, cuda, using_gpu, use_gpu",
    "cluster.gpus_per_client": "client_gpus, num_gpus_per_client, client_resources.num_gpus",
    "output.root": "output_dir, out_dir, results_dir, save_dir, log_dir, save_path, out, output_path",
    "output.name": "name, exp_name, experiment_name, run_name, experiment, tag",
    "output.checkpoint_every": "save_every, checkpoint_interval, checkpoint_frequency",
    "output.keep_checkpoint": "save_last, keep_last, save_checkpoint, save_checkpoints",
    "output.wandb": "use_wandb, wandb_project, project, enable_wandb",
    "output.tensorboard": "use_tensorboard, tb",
}
"""For each setting other names of it."""

SYNONYMS = {
    **{other: setting for setting, others in WORDS.items() for other in others.split(", ")},
    **SECTIONS,
}
"""The setting that each of these words means."""

_meant = {plain(word): setting for word, setting in SYNONYMS.items()}

_SHARE = (
    "c, frac, fraction, fraction_fit, fraction_train, participation, participation_rate, client_fraction, "
    "join_ratio, jr, sample_ratio, sample_fraction, sampling_rate, sampling_fraction, eligible_perc"
)
NOTES = {
    **dict.fromkeys(_SHARE.split(", "), "It is a number of clients, not a fraction of them"),
    **dict.fromkeys(("val_split", "validation_split", "val_fraction"), "It is a number of examples, not a fraction"),
    **dict.fromkeys(("device", "use_cuda", "cuda", "using_gpu", "use_gpu"), "0 trains on the CPU"),
    **dict.fromkeys(("early_stopping", "early_stop"), "It is a number of rounds"),
}
"""Sentences on words whose values are not those of the setting."""

_notes = {plain(word): note for word, note in NOTES.items()}


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that proposes a setting for an unknown name; empty where none is like it.

    `known` are the names that there are. Of an unknown dotted name its last part may be another name of a setting.
    """
    known, whole, last = list(known), plain(name), plain(name.rpartition(".")[2])
    same = [each for each in known if plain(each.rpartition(".")[2]) == last]
    alone = same[0] if len(same) == 1 else None
    found = _meant.get(whole) or alone or misspelt(whole, known) or _meant.get(last) or next(iter(same), None)
    if found is None:
        return nearest(name, known)
    notes = [note for note in (_notes.get(whole) or _notes.get(last), belonging(found)) if note]
    return f"; did you mean {found}?" + f" {'; '.join(notes)}" * bool(notes)


def misspelt(word: str, known: Iterable[str]) -> str | None:
    """The setting whose own name, or else another name of it, differs from a plain word by a letter or two."""
    for names in ({plain(each): each for each in known}, _meant):
        if match := get_close_matches(word, names, n=1, cutoff=0.8):
            return names[match[0]]
    return None


def belonging(name: str) -> str | None:
    """A sentence on the choices that have this setting; None where all of its section have it."""
    section, _, key = name.partition(".")
    choices = CHOSEN.get(section, {})
    having = choices_with(name)
    if key == "name" or len(having) == len(choices):
        return None
    return f"It is a setting of {section}.name = {', '.join(having)}"


def choices_with(name: str) -> list[str]:
    """The choices of a section that have this setting."""
    section, _, key = name.partition(".")
    return [choice for choice, kind in CHOSEN.get(section, {}).items() if key in kind.__pydantic_fields__]  # type: ignore[attr-defined]
