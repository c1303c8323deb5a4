"""Tests that only `make test-all` plays: each is a slow test, since others that stay go through the same code.

`OFTEN` names, for a test with many cases, those that stay, as patterns of the words in its brackets. `SELDOM` names whole
tests. A name that no test has any more fails the collection of all tests.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

OFTEN: dict[str, tuple[str, ...]] = {
    # A law for each algorithm: with both weightings where its equation has weights of its own.
    "algorithms/test_references.py::test_an_algorithm_is_its_papers_pseudo_code": (
        "*-num_examples", "fedavg-uniform", "scaffold II-uniform", "fednova-uniform", "feddyn-uniform",
    ),
    "algorithms/test_quadratic.py::test_control_variates_and_dynamic_regularisation_reach_the_optimum": (
        "scaffold I-uniform*", "scaffold II, momentum-num_examples*", "feddyn-uniform*", "feddyn, momentum-num_examples*",
    ),
    # The server's optimizers are not the clients', whose steps these compare.
    "training/test_captured.py::test_every_algorithm_gives_the_bits_of_the_loop": (
        "FedAvg", "FedSGD", "FedProx", "Scaffold", "FedNova", "FedDyn", "FedBN", "FedPer", "Moon", "Ditto",
    ),
    "training/test_fused_models.py::test_the_hooks_of_every_algorithm_serve_a_convolutional_network": (
        "FedAvg", "FedSGD", "FedProx", "Scaffold", "FedNova", "FedDyn", "FineTune", "FedAdam",
    ),
    "server/test_participation.py::test_every_algorithm_stands_a_round_in_which_nobody_answers": (
        "fedavg", "scaffold", "feddyn", "fedadam", "fedper", "local", "ditto",
    ),
    # Of one construction: basic blocks as in resnet20, branches as in googlenet.
    "training/test_fused_models.py::test_every_model_trains_as_in_the_plain_engine": (
        "logistic", "mlp", "lenet5", "cnn", "mcmahan_cnn", "resnet20", "googlenet",
    ),
    "training/test_fused_models.py::test_what_changes_a_model_or_its_training_is_the_plain_engines": (
        "bfloat16", "channels_last", "resized", "a projection head*", "one group*", "cutout", "*client* at a time*",
    ),
    "training/test_fused_models.py::test_a_step_is_launched_in_few_operations": ("cnn-*", "resnet18-float32-*"),
    "training/test_fused_models.py::test_the_forms_of_a_gpu_train_as_in_the_plain_engine": ("lenet5", "cnn"),
    "training/test_fused_models.py::test_an_optimizer_of_torchs_is_each_clients_own": ("*-True", "sgd-False", "adam-False"),
    "training/test_captured.py::test_a_models_steps_are_those_of_the_loop": (
        "lenet5", "cnn", "BatchNorm", "bfloat16", "frozen layers", "crop-flip", "cutout",
    ),
    "training/test_client.py::test_a_step_without_a_flat_gradient_is_the_same_bits": ("logistic", "lenet5", "cnn"),
    "training/test_transfer.py::test_what_is_kept_and_summed_on_a_device_is_the_same_bits": (
        "logistic-*", "lenet5-*", "mlp-*", "resnet20-plain-fedbn",
    ),
    "models/test_flat.py::test_every_model_round_trips_and_a_step_changes_it": (
        "logistic", "mlp", "lenet5", "cnn", "mcmahan_cnn", "resnet*", "densenet121", "googlenet",
    ),
    "models/test_model_matrix.py::test_a_round_of_every_model_on_every_shape": (
        "logistic-*", "mlp-*", "lenet5-*", "cnn-*", "mcmahan_cnn-*", "resnet20-*", "googlenet-(1, 28, 28)",
        "resnet18-(3, 32, 32)", "densenet121-(3, 32, 32)", "vgg11-(3, 32, 32)",
    ),
    # Of 18 ways to cut, three that together have every algorithm, model and size of batch.
    "training/test_fused.py::test_a_clients_bits_do_not_depend_on_whom_it_is_trained_with": (
        "mlp-ControlVariates-20", "logistic-Unusual-8", "logistic-FedAvg-0",
    ),
    "training/test_fused.py::test_the_settings_of_local_training_are_the_plain_engines": (
        "logistic-clipping", "logistic-label smoothing", "logistic-drawn epochs", "mlp-drawn steps",
    ),
    "data/test_partitions.py::test_a_partition_is_a_partition": ("Iid*", "Contiguous*", "*alpha=0.0001*", "*alpha=0.1,*", "*alpha=1000000.0, min_size=1, balanced=True*"),
    "data/test_fuzz_files.py::test_pickles_that_mean_harm_to_cifar100": ("a call*", "64 GB*", "an instance", "a huge frame"),
    # One case of a kind each: where an earlier and a later one meet the same lines.
    "cluster/test_exits.py::test_it_names_client_and_round_and_leaves_the_actors_usable": ("in-process", "packed"),
    "cluster/test_population.py::test_any_number_of_actors_gives_the_bits_of_one_process": ("1 actor", "an actor per client"),
    "cluster/test_population.py::test_a_killed_actor_costs_a_retry_and_no_bit": ("training-1", "idle-2"),
    "test_golden.py::test_a_run_that_0_3_0_left_goes_on_from_its_checkpoint": ("scaffold-False-2", "fedavgm-True-4"),
    "run/test_fresh.py::test_whatever_there_was_is_moved_whole_and_the_run_starts_over": ("finished", "damaged"),
    "run/test_storage.py::test_on_a_full_disk_the_run_ends_in_a_sentence_and_goes_on_later": ("150",),
    "run/test_storage.py::test_a_folder_that_is_gone_is_a_sentence_and_what_is_there_stays": ("journal", "rounds"),
    "run/test_run.py::test_an_interrupted_run_goes_on_to_the_same_tables": ("1", "3"),
    "run/test_resume.py::test_a_kill_at_each_step_of_a_save_leaves_a_good_checkpoint": ("0", "2", "5"),
    "run/test_client_evaluation.py::test_an_interrupted_run_goes_on_to_the_same_tables": ("scaffold", "ditto"),
    "run/test_segments.py::test_a_run_that_goes_on_is_one_that_was_not_stopped": ("7",),
    "run/test_best_model.py::test_after_an_interrupt_it_is_the_best_so_far_and_in_the_end_the_best": ("2", "5"),
    "run/test_played.py::test_what_is_asked_for_never_takes_over_what_auto_played_otherwise": ("*-cpu:0-*",),
    "server/test_participation.py::test_when_memories_are_lost_the_run_goes_back_to_its_checkpoint": ("2",),
    "results/test_results.py::test_a_truncated_file_is_left_out_by_its_name_and_the_rest_loads": (
        "runs-*", "rounds--1", "clients-0", "population-7", "metrics--100", "evaluations--1", "confusion-7", "events-0",
    ),
    "results/test_analysis.py::test_a_flawed_run_takes_its_configuration_out_while_there_is_another": (
        "failed", "diverged", "running",
    ),
    "inventory/test_inventory.py::test_exactly_the_files_of_these_runs_go": ("words0-*", "words2-*", "words4-*"),
    "cli/test_verbosity.py::test_a_sweep_says_on_stderr_what_failed": ("words0",),
    "cluster/test_edited_models.py::test_actors_that_come_after_it_do_not_train_another_model_under_the_runs_name": ("1",),
    "cluster/test_lost_actors.py::test_by_setting_the_clients_of_a_lost_actor_are_left_out_and_the_others_weigh_more": ("2",),
    "cluster/test_sharing.py::test_runs_at_once_give_the_bits_that_each_has_alone": ("packed",),
    "cluster/test_start.py::test_an_address_where_no_ray_is_gives_one_sentence": ("127*",),
    "run/test_longer.py::test_three_rounds_and_three_more_are_six": (
        "fedavg", "scaffold*", "adam at the server", "fedper*", "each client evaluated",
    ),
    "test_golden.py::test_the_report_shows_the_results_of_0_3_0": ("stopped",),
}  # fmt: skip


SELDOM: dict[str, str] = {
    "cli/test_verbosity.py::test_a_stdout_that_is_lost_in_mid_run_ends_it_as_an_interrupt_does": "a closed pipe and a full disk do",
    "cluster/test_evaluate_clients.py::test_what_is_sent_in_many_calls_is_copied_to_a_device_once": "test_transfer counts copies",
    "cluster/test_forks.py::test_the_driver_never_imports_torch": "test_own_models sees it of a run with a model of one's own",
    "cluster/test_printed.py::test_what_actors_on_other_nodes_print_is_waited_for": "those of this node are",
    "cluster/test_start.py::test_a_token_that_is_missing_or_wrong_gives_a_sentence_that_says_what_to_do": "a cluster of its own, for tokens",
    "cluster/test_start.py::test_auto_is_what_ray_start_was_last_used_for_and_shows_its_token": "the same cluster",
    "cluster/test_start.py::test_what_other_jobs_hold_of_a_cluster_is_not_counted_on": "test_plan has the arithmetic",
    "experiments/test_gpu_benchmark.py::test_a_part_that_fails_or_takes_too_long_costs_its_own_lines_only": "only of the benchmark",
    "run/test_interrupt.py::test_a_resume_after_signals_ends_in_the_same_tables": "one after kill -9 does, in test_run",
    "run/test_interrupt.py::test_on_a_terminal_the_sentence_does_not_garble_the_bar": "only of the bar",
    "run/test_prepared.py::test_what_any_run_of_a_sweep_imports_is_imported_before_actors_are_forked": "only of speed",
}  # fmt: skip
"""Each with what stays in its place, or why it is not missed every time."""


def split(test: str) -> tuple[str, str]:
    """A test's name below tests/, and the words in its brackets."""
    name, _, words = test.removeprefix("tests/").partition("[")
    return name, words.removesuffix("]")


def is_rare(test: str) -> bool:
    """Whether a test is one that only `make test-all` plays."""
    name, words = split(test)
    return name in SELDOM or (name in OFTEN and not any(fnmatchcase(words, pattern) for pattern in OFTEN[name]))


def stale(tests: Iterable[str]) -> list[str]:
    """The names and patterns that fit none of these tests, which are all there are."""
    cases: dict[str, set[str]] = {name: set() for name in (*OFTEN, *SELDOM)}
    for name, words in map(split, tests):
        if name in cases:
            cases[name].add(words)
    gone = [name for name in SELDOM if not cases[name]]
    return gone + [
        f"{name}[{pattern}]"
        for name, patterns in OFTEN.items()
        for pattern in patterns
        if not any(fnmatchcase(words, pattern) for words in cases[name])
    ]
