"""Mistakes that the tests of algorithms must catch: python tests/algorithms/mutations.py [part of a file's name].

Each is made in a copy of the package, one at a time, and the tests that it belongs to run there until one fails: twenty
minutes for all. Exit status 1: one was not caught, or what it replaces is no longer there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

AVG, SERVER, FUSED = "algorithms/fedavg.py", "server/rounds.py", "training/fused/together.py"
LOSSES, BATCHES, STACKED = "training/fused/losses.py", "training/fused/batches.py", "training/fused/stacked.py"
CLIENT, TRAINER, PART = "training/client.py", "training/trainer.py", "training/personal.py"
STEP, CAPTURED, OBJECTIVE = "training/step.py", "training/captured.py", "training/objective.py"
NETWORK, ROUND, EVALUATE = "training/network.py", "training/batches.py", "training/evaluate.py"
PROX, SCAFFOLD, NOVA, DYN = (f"algorithms/{name}.py" for name in ("fedprox", "scaffold", "fednova", "feddyn"))
FAR, OPTIMIZER, MOON = (f"algorithms/{name}.py" for name in ("effective_steps", "server_optimizer", "moon"))
OPT, AVGM, SGD = (f"algorithms/{name}.py" for name in ("fedopt", "fedavgm", "fedsgd"))
DITTO, TUNE, LOCAL, PER = (f"algorithms/{name}.py" for name in ("ditto", "finetune", "local", "fedper"))
RUN, JOB, EXP, HERE, OWN = (
    "run/simulation.py",
    "run/prepared.py",
    "experiment/experiment.py",
    "training/in_process.py",
    "data/own_tests.py",
)
ROWS, ENDING, OPENING = "run/round_rows.py", "run/stopping.py", "run/opening.py"
EVALUATION = "experiment/evaluation.py"
ATTEMPT, CHECKS = "run/attempt.py", "run/checks.py"
STEPS, ADAM, AUGMENT = "algorithms/local_training.py", "algorithms/local_optimizer.py", "data/augment.py"
POP, ACTOR = "cluster/population.py", "cluster/actor.py"
TRANSFER, SHARDS, RECIPE = "training/transfer.py", "training/shards.py", "training/spec.py"
DROPOUT = "models/dropout.py"
NEUTRAL, NORMS, ABLE = (f"algorithms/{name}.py" for name in ("hooks", "norms", "capabilities"))
MEMORIES, GATHERING, MEAN = (f"server/{name}.py" for name in ("memories", "gathering", "aggregators"))
OUTGOING, TAPS, ROOM = "training/outgoing.py", "training/taps.py", "training/fused/room.py"

GLOBAL = [
    # (file in fedray/, what stands there once, what to put in its place, the mistake)
    (NEUTRAL, 'return {"params": end - start}, memory', 'return {"params": start - end}, memory', "server minus client"),
    (AVG, 'self.weighting == "num_examples" else 1.0', 'self.weighting != "uniform" else 2.0', "weights of 2"),
    (AVG, "return float(num_examples) if", "return 1.0 if", "all clients weigh the same"),
    (MEAN, "updates.sum.weight if denominator is None else denominator", "len(updates.reports) or 1", "divided by the cohort's size"),
    (AVG, 'np.add(step, state["params"]', 'np.subtract(step, state["params"]', "the old model is subtracted"),
    (AVG, 'if self.weighting == "sum" else 1.0', "", "buffers are scaled by server_lr"),
    (NEUTRAL, "self.correct if self.corrects else None", "None", "the correction is left out"),
    (NEUTRAL, 'end["params"], steps, lr, message', 'end["params"], steps, self.lr, message', "lr of round 1 in finish"),
    (AVG, "np.float32(self.server_lr) * direction", "1.0 * direction", "server_lr is left out"),
    (SERVER, "math.fsum(updates.weights) / all_weights",
     "len(members) / len(population)", "|S|/N whatever the weights are"),
    (SERVER, "/ all_weights", "/ all_weights * len(population) / len(members)", "the share is not of all clients"),
    (CLIENT, "self.t, self.lr, self.attempt = task.t, task.lr,", "self.t, self.lr, self.attempt = task.t, task.algorithm.lr,",
     "clients train with the lr of round 1"),
    (STEP, "velocity.mul_(algorithm.momentum).add_(direction)",
     "velocity.mul_(algorithm.momentum).add_(direction, alpha=1 - algorithm.momentum)", "momentum with dampening"),
    (STEP, "direction = self.correct(direction, flat.params, self.message, self.memory, self.lr)",
     'direction = self.correct(direction, self.message["params"], self.message, self.memory, self.lr)',
     "corrected at w_t, not at w"),
    (CLIENT, 'flat.load(at["params"], at["buffers"])\n', "\n", "option I: the gradient at y, not at x"),
    (CLIENT, "alpha=len(targets) / n", "alpha=1.0", "option I: a sum over batches, not their mean"),
    (CLIENT, "self.masked(range(batches), batches)", "self.masked(range(1), 1)", "option I: one batch"),
    (NETWORK, "self.rivals[name].module.eval()", "self.rivals[name].module.train()", "references in training mode"),
    (NETWORK, 'self.rivals[name].load(model["params"], model["buffers"])',
     'self.rivals[name].load(model["params"], self.flat.buffers)',
     "references with the statistics of the model in training"),
    (NETWORK, "isinstance(layer, nn.Linear)][-1]", "isinstance(layer, nn.Linear)][-2]", "features of another layer"),
    (STEP, "loss = loss + algorithm.penalty(features, rivals)",
     "loss = loss + algorithm.penalty(features.detach(), rivals)", "the features are detached"),
    (STEP, "loss = loss + algorithm.penalty(features, rivals)",
     "loss = algorithm.penalty(features, rivals)", "no cross-entropy"),
    (TRAINER, 'algorithm.init_memory(self.network.initial["params"], self.network.initial["buffers"])',
     'algorithm.init_memory(received["params"], received["buffers"])', "a memory begins with the round's model"),
    (STEP,
     "self.losses.add_(main.detach(), alpha=len(targets))  # in float64, where the product is exact\n"
     "        if algorithm.compares:\n"
     "            rivals = {name: network.features(model, inputs) for name, model in self.references.items()}\n"
     "            loss = loss + algorithm.penalty(features, rivals)\n",
     "if algorithm.compares:\n"
     "            rivals = {name: network.features(model, inputs) for name, model in self.references.items()}\n"
     "            loss = loss + algorithm.penalty(features, rivals)\n"
     "        self.losses.add_(loss.detach(), alpha=len(targets))\n",
     "the reported loss has the penalty in it"),
    (BATCHES, "np.array([[share.steps] for share", "np.array([[share.per_epoch] for share", "steps of one epoch"),
    (FUSED, "direction = algorithm.correct(grad, now, message, memory, lr)",
     'direction = algorithm.correct(grad, message["params"], message, memory, lr)',
     "fused: corrected at w_t, not at w"),
    (PROX, 'grad + self.mu * (params - message["params"])',
     'grad - self.mu * (params - message["params"])', "pushed away"),
    (PROX, 'self.mu * (params - message["params"])', "self.mu * params", "pulled to 0"),
    (PROX, 'self.mu * (params - message["params"])', 'self.mu / 2 * (params - message["params"])', "half the pull"),
    (PROX, 'self.mu * (params - message["params"])',
     "self.mu * (params - params.detach())", "the anchor is the local model"),
    (PROX, 'self.mu * (params - message["params"])', 'lr * self.mu * (params - message["params"])', "lr twice"),
    (SCAFFOLD, 'grad - memory["c_i"] + message["c"]', 'grad + memory["c_i"] - message["c"]', "both signs"),
    (SCAFFOLD, 'grad - memory["c_i"] + message["c"]', 'grad - memory["c_i"]', "without c"),
    (SCAFFOLD, 'grad - memory["c_i"] + message["c"]', 'grad + message["c"]', "without c_i"),
    (SCAFFOLD, 'memory["c_i"] - message["c"] + (start - end)', 'memory["c_i"] + (start - end)', "option II without c"),
    (SCAFFOLD, 'memory["c_i"] - message["c"] + (start - end)',
     'memory["c_i"] - message["c"] + (end - start)', "option II: y - x"),
    (SCAFFOLD, 'memory["c_i"] - message["c"] + (start - end)',
     '-message["c"] + (start - end)', "option II without c_i"),
    (SCAFFOLD, "(effective_steps(steps, self.momentum) * lr)", "(steps * lr)", "momentum is left out of the steps"),
    (SCAFFOLD, "(effective_steps(steps, self.momentum) * lr)",
     "(effective_steps(steps, self.momentum) * self.lr)", "the setting's lr"),
    (SCAFFOLD, "(effective_steps(steps, self.momentum) * lr)",
     "effective_steps(steps, self.momentum)", "option II without lr"),
    (SCAFFOLD, "(effective_steps(steps, self.momentum) * lr)",
     "(effective_steps(self.epochs, self.momentum) * lr)", "epochs, not steps"),
    (SCAFFOLD, '"c": c_i - memory["c_i"]}', '"c": c_i}', "option II sends c_i+, not its change"),
    (SCAFFOLD, 'update["c"] = renewed["c_i"] - memory["c_i"]', 'update["c"] = renewed["c_i"]', "option I sends c_i+"),
    (SCAFFOLD, 'update["c"] = renewed["c_i"] - memory["c_i"]',
     'update["c"] = update["c"]', "option I sends option II's change"),
    (SCAFFOLD, 'if self.option == "I":\n            renewed',
     'if self.option == "none":\n            renewed', "option I is option II"),
    (SCAFFOLD, 'np.float32(participation) * mean["c"]', 'mean["c"]', "without |S|/N"),
    (SCAFFOLD, 'np.float32(participation) * mean["c"]',
     'np.float32(participation * self.server_lr) * mean["c"]', "server_lr in c"),
    (SCAFFOLD, 'state["c"] + np.float32', '0 * state["c"] + np.float32', "c forgets"),
    (SCAFFOLD, '"c": np.zeros_like(params)}', '"c": params}', "c starts at the model"),
    (SCAFFOLD, '{"c_i": params.new_zeros(params.shape)}', '{"c_i": params}', "c_i starts at the model"),
    (SCAFFOLD, 'if self.option == "I":\n            return', 'if not self.option:\n            return', "option I is fused"),
    (NOVA, '"params": (end - start) / slowed', '"params": (end - start) / far', "mu is left out of the normalisation"),
    (NOVA, '"tau": far +', '"tau": slowed +', "mu in tau_eff"),
    (NOVA, '"params": (end - start) / slowed', '"params": end - start', "not normalised"),
    (NOVA, "far = effective_steps(steps, self.momentum)", "far = effective_steps(steps, 0.0)", "without momentum"),
    (NOVA, "far = effective_steps(steps, self.momentum)",
     "far = effective_steps(self.epochs, self.momentum)", "epochs, not steps"),
    (NOVA, "self.momentum, lr * self.mu)", "self.momentum, self.lr * self.mu)", "the setting's lr"),
    (NOVA, "self.momentum, lr * self.mu)", "self.momentum, self.mu)", "mu without lr"),
    (NOVA, "self.momentum, lr * self.mu)", "0.0, lr * self.mu)", "mu without momentum"),
    (NOVA, 'mean["params"] * mean["tau"]', 'mean["params"]', "without tau_eff"),
    (NOVA, 'mean["params"] * mean["tau"]', 'mean["params"] * np.float32(self.epochs)', "epochs for tau_eff"),
    (NOVA, 'grad + self.mu * (params - message["params"]) if self.mu else grad', "grad", "no proximal term"),
    (FAR, "momentum * speed + 1.0", "momentum * (speed + 1.0)", "the gradient is damped, too"),
    (FAR, "speed = momentum * speed + 1.0 - pull", "speed = 1.0 - pull", "no momentum"),
    (FAR, "- pull * distance[-1]", "+ pull * distance[-1]", "pushed on"),
    (FAR, "- pull * distance[-1]", "- pull", "pulled before it has moved"),
    (FAR, "steps.new_tensor(distance)[steps.long()]",
     "steps.new_tensor(distance)[steps.long() - 1]", "many clients: a step less"),
    (FAR, "steps.new_tensor(distance)[steps.long()]", "steps", "many clients: plain steps"),
    (DYN, 'grad - memory["g_k"]', 'grad + memory["g_k"]', "the sign of g_k"),
    (DYN, 'grad - memory["g_k"]', "grad", "without g_k: FedProx"),
    (DYN, 'self.alpha * (params - message["params"])', "0 * params", "no regulariser"),
    (DYN, 'self.alpha * (params - message["params"])', "self.alpha * params", "regularised towards 0"),
    (DYN, 'memory["g_k"] - self.alpha * (end - start)',
     'memory["g_k"] + self.alpha * (end - start)', "g_k goes the wrong way"),
    (DYN, 'memory["g_k"] - self.alpha * (end - start)', "-self.alpha * (end - start)", "g_k forgets"),
    (DYN, 'state["h"] - alpha *', 'state["h"] + alpha *', "h goes the wrong way"),
    (DYN, 'np.float32(participation) * mean["params"]', 'mean["params"]', "without |S|/N"),
    (DYN, 'mean["params"] - h / alpha if', 'mean["params"] + h / alpha if', "the sign of h"),
    (DYN, 'mean["params"] - h / alpha if', 'mean["params"] - state["h"] / alpha if', "the h of the round before"),
    (DYN, 'mean["params"] - h / alpha if', 'mean["params"] - h if', "h is not divided by alpha"),
    (DYN, "if alpha else", "if True else", "a division by alpha = 0"),
    (DYN, '{**mean, "params": moved}', "mean", "h does not move the model"),
    (OPTIMIZER, "np.full_like(params, settings.server_tau**2)", "np.zeros_like(params)", "v starts at 0"),
    (OPTIMIZER, "np.full_like(params, settings.server_tau**2)",
     "np.full_like(params, settings.server_tau)", "v starts at tau"),
    (OPTIMIZER, 'v = beta * state["v"] + delta',
     'v = beta * state["v"] + (1 - beta) * delta', "server momentum with dampening"),
    (OPTIMIZER, "return delta + beta * v if settings.server_nesterov",
     'return delta + beta * state["v"] if settings.server_nesterov', "Nesterov is plain momentum"),
    (OPTIMIZER, "if settings.server_nesterov else v, ",
     "if settings.server_nesterov else delta, ", "no server momentum"),
    (OPTIMIZER, 'else v, {"v": v}', 'else v, {"v": state["v"]}', "server momentum forgets"),
    (OPTIMIZER, 'state["m"] + (1 - beta1) * delta', 'state["m"] + delta', "m without 1 - beta1"),
    (OPTIMIZER, 'm, square, v = beta1 * state["m"] + (1 - beta1)',
     'm, square, v = (1 - beta1) * state["m"] + beta1', "beta1 the wrong way"),
    (OPTIMIZER, "v = v + square", "v = beta2 * v + (1 - beta2) * square", "Adagrad is Adam"),
    (OPTIMIZER, "v = beta2 * v + (1 - beta2) * square", "v = (1 - beta2) * v + beta2 * square", "beta2 the wrong way"),
    (OPTIMIZER, "v = v - (1 - beta2) * square * np.sign(v - square)",
     "v = v + (1 - beta2) * square * np.sign(v - square)", "Yogi's sign"),
    (OPTIMIZER, "v = v - (1 - beta2) * square * np.sign(v - square)",
     "v = v - (1 - beta2) * (v - square)", "Yogi is Adam"),
    (OPTIMIZER, "m / (np.sqrt(v) + tau)",
     "m / np.sqrt(v + tau)", "tau under the root"),
    (OPTIMIZER, "m / (np.sqrt(v) + tau)",
     "m / (1 - beta1) / (np.sqrt(v) + tau)", "m is corrected for its start"),
    (OPTIMIZER, "m / (np.sqrt(v) + tau)",
     'm / (np.sqrt(state["v"]) + tau)', "the v of the round before"),
    (OPTIMIZER, '{"m": m, "v": v}', '{"m": delta, "v": v}', "m forgets"),
    (OPTIMIZER, '{"m": m, "v": v}', '{"m": m, "v": state["v"]}', "v stays as it was"),
    (OPT, "server_beta1: float = setting(0.0,",
     "server_beta1: float = setting(0.9,", "momentum where the paper's Adagrad has none"),
    (AVGM, "setting(0.9,", "setting(0.0,", "FedAvgM without momentum"),
    (SGD, "batch_size: Annotated[Literal[0], AsNumber] = setting(0,", "batch_size: int = setting(8,", "batches"),
    (MOON, "F.softplus(far - near)", "F.softplus(near - far)", "drawn to the last own model"),
    (MOON, 'F.cosine_similarity(features, references["glob"], dim=-1) / self.tau',
     'F.cosine_similarity(features, references["glob"], dim=-1) * self.tau', "multiplied by the temperature"),
    (MOON, 'F.cosine_similarity(features, references["glob"], dim=-1)',
     '(features * references["glob"]).sum(-1)', "a product, not a cosine"),
    (MOON, "(far - near).mean()", "(far - near).sum()", "a sum over the batch"),
    (MOON, "self.mu * F.softplus", "F.softplus", "without mu"),
    (MOON, "F.softplus(far - near)", "F.relu(far - near)", "a hinge"),
    (MOON, '{"glob": message, "prev": memory}', '{"glob": memory, "prev": message}', "global and own are swapped"),
    (MOON, '{"glob": message, "prev": memory}', '{"glob": message, "prev": message}', "z_prev is z_glob"),
    (MOON, "{name: message[name] + update[name] for",
     "{name: message[name] for", "the last global model is remembered"),
    (MOON, "{name: message[name] + update[name] for",
     "{name: memory[name] for", "the initial model is remembered for ever"),
    (MOON, 'return {"params": params, "buffers": buffers}',
     'return {"params": 0 * params, "buffers": buffers}', "the first z_prev is nobody's"),
]  # fmt: skip

PERSONAL = [
    (DITTO, "grad + self.lam *", "grad - self.lam *", "pushed away from the global model"),
    (DITTO, '(params - message["params"])',
     '(params - memory["params"])',
     "the anchor is the personal model's own start"),
    (DITTO, '(params - message["params"])', "params", "pulled to 0"),
    (DITTO, "self.lam * (params", "self.lam / 2 * (params", "half the pull"),
    (DITTO, "self.lam * (params", "lr * self.lam * (params", "lr twice"),
    (DITTO, "client.descend(memory, self.draw,",
     "client.descend(message, self.draw,",
     "the personal model starts from the global one"),
    (DITTO, "client.descend(memory, self.draw,", "client.descend(memory, None,", "no pull"),
    (DITTO, ", epochs=self.personal_epochs)[0]", ")[0]", "personal_epochs is ignored"),
    (DITTO, "epochs=self.personal_epochs)[0]",
     "epochs=self.personal_epochs or 1)[0]",
     "one personal epoch where none is said"),
    (DITTO, 'return {"params": params, "buffers": buffers}',
     'return {"params": 0 * params, "buffers": buffers}',
     "a personal model begins as 0"),
    (DITTO, "        return memory\n", "        return message\n", "the global model is evaluated"),
    (DITTO, "update, _ = super().local_round(client, message, memory, lr)\n"
     "        return update, client.descend(memory, self.draw, epochs=self.personal_epochs)[0]",
     "own = {n: x.clone() for n, x in client.descend(memory, self.draw, "
     "epochs=self.personal_epochs)[0].items()}\n"
     "        return super().local_round(client, message, memory, lr)[0], own",
     "the personal model goes first, and takes FedAvg's batches"),
    (DITTO, "return update, client",
     'update = {**update, "params": update["params"] * 0.5}\n        return update, client',
     "half the update"),
    (TUNE, "client.descend(message, None, epochs=self.fine_tune_epochs)[0]",
     "client.descend(message, None)[0]",
     "as many steps as in a round"),
    (TUNE, "epochs=self.fine_tune_epochs)[0]", "epochs=1)[0]", "one epoch, whatever is said"),
    (TUNE, "if not self.fine_tune_epochs:", "if self.fine_tune_epochs:", "no fine-tuning"),
    (TUNE, "client.descend(message, None,",
     'client.descend({**message, "params": client.network.initial["params"]}, None,',
     "fine-tuned from the initial model"),
    (TUNE, "        return client.descend(message",
     "        client.lr = self.lr\n        return client.descend(message",
     "fine-tuned with the lr of round 1"),
    (LOCAL, "return names\n", "return names[1:]\n", "one tensor is shared"),
    (NORMS, "        return norms\n", "        return [name for name in norms if 'running' not in name]\n", "the statistics are averaged"),
    (NORMS, "        return norms\n", "        return [name for name in norms if 'running' in name]\n", "only the statistics stay"),
    (NORMS, "if not norms:", "if False:", "FedBN takes any model"),
    (PER, "names[-1].rpartition", "names[0].rpartition", "the first layer is personal"),
    (PER, 'return f"{layer}.*" if layer else names[-1]', "return names[-1]", "only the last layer's bias is personal"),
    (PER, "if name in kept or any(fnmatchcase(name, pattern) for pattern in patterns)]",
     "if not any(fnmatchcase(name, pattern) for pattern in patterns)]",
     "personal and shared are swapped"),
    (PER, "if name in kept or any(fnmatchcase(name, pattern) for pattern in patterns)]",
     "if fnmatchcase(name, patterns[0])]",
     "only the first pattern counts"),
    (PER, "if not any(fnmatchcase(name, pattern) for name in names):",
     "if False:",
     "a pattern that matches nothing is taken"),
    (PER, "if not any(fnmatchcase(name, pattern) for name in names):",
     "if not any(fnmatchcase(name, p) for name in names for p in patterns):",
     "one matching pattern is enough"),
    (PER, "pattern.strip() for", "pattern for", "spaces count"),
    (PART, "update[name].index_fill(0, places, 0.0)", "update[name]", "the own part is sent and averaged"),
    (PART, "start[name] + update[name] for name in self.places",
     "start[name] for name in self.places",
     "the own part is not kept"),
    (PART, "self.of({name: start[name] + update[name]",
     "self.of({name: update[name]",
     "the own part's change is kept"),
    (TRAINER, "update, kept = own.split(message, update)",
     "update, kept = own.split(self.network.initial, update)",
     "the own part begins anew each round"),
    (PART, 'message[name].index_copy(0, at, memory[f"own_{name}"])',
     "message[name]",
     "the own part comes from the server"),
    (TRAINER, "**(own.of(self.network.initial) if own else {})",
     "**(own.of({n: 0 * x for n, x in self.network.initial.items()}) if own else {})",
     "the own part begins as 0"),
    (TRAINER, "**(own.of(self.network.initial) if own else {})",
     "**(own.of(received) if own else {})",
     "the own part begins as the round's message"),
    (TRAINER, "bytes_down=received.bytes_down - unsent", "bytes_down=received.bytes_down", "bytes down with the own part"),
    (TRAINER, "bytes_up=num_bytes(update) - unsent", "bytes_up=num_bytes(update)", "bytes up with the own part"),
    (PART, "for places in self.places.values())",
     'for places in [self.places["params"]])',
     "buffers are not counted among the own bytes"),
    (CLIENT, "self.epoch += -(-steps // per_epoch)", "pass", "the second training sees the first's order"),
    (CLIENT, "steps = epochs * per_epoch if epochs else", "steps = epochs if epochs else", "epochs are steps"),
    (CLIENT, "        if not self.steps:\n", "        if True:\n", "the report is of the personal model"),
    (EVALUATE, "network.flat.module.eval()\n        for first",
     "network.flat.module.train()\n        for first",
     "evaluated in training mode"),
    (EVALUATE, "message, remembered, _ = trainer.receive(task.algorithm, received.message, memory)",
     "message, remembered, _ = trainer.receive(task.algorithm, received.message, {})",
     "evaluated without the memory"),
    (EVALUATE, "found, count = measure(network, model, *test), len(test[1])",
     "test = shard\n    found, count = measure(network, model, *test), len(test[1])",
     "evaluated on the shard"),
    (EVALUATE, ", first_epoch=FINE_TUNING)", ")", "fine-tuning sees the round's batches again"),
    (EVALUATE, '    with torch.random.fork_rng(devices=[]):\n'
     '        torch.manual_seed(torch_seed(network.recipe.seed, "fine-tune", t=task.t, client=client))\n'
     '        model = task',
     "    if True:\n        model = task",
     "fine-tuning draws from torch's own generator"),
    (NEUTRAL, 'return {"params": message["params"], "buffers": message["buffers"]}',
     'return {"params": 0 * message["params"], "buffers": message["buffers"]}',
     "a model of zeros is evaluated"),
]  # fmt: skip

EVALUATION = [
    (ROWS, "np.quantile(trained, 0.1)", "np.quantile(trained, 0.9)", "the 90th percentile"),
    (ROWS, "np.quantile(trained, 0.1)", "np.min(trained)", "the least"),
    (ROWS, "np.std(trained)", "np.std(trained, ddof=1)", "standard deviation over n - 1"),
    (ROWS, "np.std(trained)", "np.std(losses)", "the losses' deviation"),
    (ROWS, "client_means(losses, accuracies, np.isin(np.arange(len(clients)), np.asarray(unseen, np.int64)))",
     "client_means(np.repeat(losses, counts), list(np.repeat(accuracies, counts)), np.zeros(sum(counts), bool))",
     "clients count by their test images"),
    (ROWS, "np.mean(trained), np.std(trained)", "np.median(trained), np.std(trained)", "the median"),
    (ROWS, "e.algorithm.global_model(done.state)",
     "e.algorithm.global_model({n: v - np.float32(0.5) * done.mean.get(n, 0) for n, v in done.state.items()})",
     "the state before the round, half of it"),
    (ROWS, "if due(evaluation.every) and not e.algorithm.personalises:",
     "if due(evaluation.every):",
     "a global model that nobody has is evaluated"),
    (ROWS, "or done.t == e.rounds)", ")", "the last round is not evaluated"),
    (ROWS, "if due(evaluation.clients_every or 0):",
     "if due(evaluation.every) and evaluation.clients_every:",
     "clients are evaluated with the global model"),
    (ATTEMPT, "judged = job.judged",
     'judged = "test_accuracy"',
     "personalised runs have no target"),
    (ATTEMPT, "judged = job.judged",
     'judged = "client_accuracy"',
     "the clients' accuracy goes first"),
    (ENDING, ', "validation_loss", "client_loss"', ', "validation_loss"', "a client's loss may be infinite"),
    (OPENING, "recipe, played.blocks, job.own_tests", "recipe, played.blocks, job.own_tests and job.own_tests[::-1]",
     "another client's test images"),
    (ROWS, "done.t, done.lr)\n", "done.t, e.algorithm.lr)\n", "the lr of round 1 in the evaluation"),
    (ATTEMPT, "            clients.remember(client, memory)\n", "", "memories are lost in a resume"),
    (EVALUATION, "clients_every=self.every if looks else 0",
     "clients_every=self.every",
     "auto evaluates everyone always"),
    (EVALUATION, "clients_every=self.every if looks else 0",
     "clients_every=1 if own_models else 0",
     "auto is every round"),
    (EVALUATION, "if self.clients_every is not None:", "if self.clients_every:", "0 is auto"),
    (ABLE, 'return self.personalises or self.has_own("own_model")',
     "return self.personalises",
     "auto overlooks ditto and finetune"),
    (HERE, "[self.memory.of(client) or {} for client in everyone]",
     "[dict(self.memories(task.t - 1)).get(client, {}) for client in everyone]",
     "evaluated with the memories of the round before"),
    (HERE, "[self.memory.of(client) or {} for client in everyone]",
     "[self.memory.of((client + 1) % len(self)) or {} for client in everyone]",
     "another client's memory"),
    (SERVER, "        population.keep(handle)\n", "", "nothing is kept"),
]  # fmt: skip

OWN_TESTS = [
    (OWN, "min(1000, max(10, test_examples // clients))", "max(10, test_examples // clients)", "more than 1000 images"),
    (JOB, "e.evaluation.client_examples or own", "own", "client_examples is ignored"),
    (CHECKS, "if any(len(rows) == 0 for rows in job.own_tests or ()):",
     "if False:",
     "a client without images is evaluated"),
    (OWN, "replace=False", "replace=True", "rows repeat"),
    (OWN, "client=client)", "client=0)", "all clients draw alike"),
    (OWN, 'generator(seed, "client-test"', 'generator(0, "client-test"', "the seed is ignored"),
    (OWN, "rng = generator(seed", "rng = drawn and rng or generator(seed", "one stream for all clients"),
    (OWN, "np.where(available > 0, own, 0)", "own", "labels that the test set lacks count"),
    (OWN, "np.where(available > 0, own, 0)", "available", "the test set's distribution"),
    (OWN, "min(size, int(np.min(available[held] * total // weights[held])))", "size", "not scaled down"),
    (OWN, 'np.argsort(-left, kind="stable")',
     'np.argsort(left, kind="stable")',
     "the smallest remainders are rounded up"),
    (OWN, "[: size - whole.sum()]", "[: 0]", "all are rounded down"),
    (OWN, "np.sort(np.concatenate(rows))", "np.concatenate(rows)", "not sorted"),
]  # fmt: skip

ON_RAY = [
    (POP, "        orders, errand = as_sent(task), Errand(self.traffic, self.plan.lanes)\n",
     "        orders, errand = as_sent(replace(task, t=1)), Errand(self.traffic, self.plan.lanes)\n",
     "Ray: the round is always 1"),
    (POP, "clients, *memories)]\n", "clients, *[{} for _ in memories])]\n", "Ray: no memories"),
    (POP, "own_test = self.own_tests[client] if",
     "own_test = self.own_tests[0] if", "Ray: client 0's test images"),
    (ACTOR, "self.rows[self.ends[place - 1] if place else 0 : self.ends[place]]",
     "self.rows[: self.ends[0]]", "Ray, packed: client 0's images"),
    (SHARDS, "self.copy(client, self.rows[client])", "self.copy(client, self.rows[0])", "all have client 0's images"),
    ("cluster/pool.py", "            use.enrol(slot.handle)\n", "            pass\n", "Ray: a new actor is not enrolled"),
]  # fmt: skip

HOOKS = ("fedprox", "scaffold", "fednova", "feddyn", "fedopt", "fedsgd", "moon", "references", "laws", "fedavg")
FAULTS, DISPATCH, UPDATES = "server/participation.py", "cluster/dispatch.py", "core/updates.py"

WITH_FAULTS = [
    (FAULTS, "< faults.dropout", "< 0", "nobody drops out"),
    (FAULTS, "order[~silent[order]][:cohort]", "order[:cohort]", "who is silent is taken, too"),
    (FAULTS, 'generator(seed, "arrival", t=t)', 'generator(seed, "arrival", t=1)', "the same are late in all rounds"),
    (FAULTS, 'generator(seed, "silence", t=t)', 'generator(seed, "silence", t=1)', "the same are silent in all rounds"),
    (SERVER, "cohort + faults.over_selection", "cohort", "nobody more is asked"),
    (SERVER, "        if updates.reports:\n", "        if True:\n", "a round without updates is aggregated"),
    (SERVER, "    for _ in range(2):\n", "    for _ in range(1):\n", "no second attempt"),
    (SERVER, "retries=updates.retries + retries", "retries=retries", "the retries are forgotten"),
    (OUTGOING, "if not counts:\n            return", "if False:\n            return", "what is not finite is summed"),
    (GATHERING, ', strict=True) if report.status == "ok"}', ", strict=True)}", "what is rejected is remembered"),
    (
        ROWS,
        '"bytes_down": sent * len(done.cohort)',
        '"bytes_down": sent * len(reports)',
        "only those who answer are sent it",
    ),
    (ENDING, 'faults.non_finite == "stop" or not left', 'faults.non_finite == "stop"', "goes on without any update"),
    (RUN, "carried += [*clients.events(), Event", "carried = [Event", "events before going back are forgotten"),
    (
        MEMORIES,
        "found |= self.replaced",
        "pass",
        "an interrupt saves the next round's memories",
    ),
    (
        MEMORIES,
        "self.replaced.setdefault(client, (self.known.get(client), self.kept_in.get(client, 0)))",
        "self.replaced[client] = self.known.get(client), self.kept_in.get(client, 0)",
        "the round before has what its own handles replaced",
    ),
]

LOST = [
    (
        SERVER,
        "        population.discard(handle)\n",
        "        population.keep(handle)\n",
        "a round that is repeated is remembered twice",
    ),
    (POP, "if not ticket.error]", "if True]", "a call that was dropped is remembered"),
    (POP, "if not ticket.drop:\n                raise", "raise", "clients are never left out"),
    (DISPATCH, "if ticket.drop and running:", "if ticket.drop:", "what only waited is left out, too"),
    (DISPATCH, "if ticket.drop and running:", "if False:", "nothing is left out"),
    ("cluster/tickets.py", "self.slowest = dict(self.measured)", "pass", "no deadline, ever"),
    (
        "cluster/tickets.py",
        "patience.factor * pace * ticket.cost",
        "patience.factor * pace",
        "a deadline whatever the size",
    ),
    (DISPATCH, "slot.lost, slot.where = True, {}", "slot.where = {}", "a new actor is no event"),
    (DISPATCH, 'return "out_of_memory"', 'return "actor_lost"', "want of memory is not told"),
]

LOCAL_TRAINING = [
    (STEP, "(algorithm.clip(flat.gradient(loss)),)", "(flat.gradient(loss),)", "no clipping"),
    (STEP, "any((*changes, algorithm.clip_norm,", "any((*changes,", "plain SGD is not clipped"),
    (STEP, "direction = self.correct(direction, flat.params, self.message, self.memory, self.lr)",
     "direction = algorithm.clip(self.correct(direction, flat.params, self.message, self.memory, self.lr))",
     "clipped after it was corrected, too"),
    (CLIENT, "self.algorithm.clip(flat.gradient(loss)), alpha", "flat.gradient(loss), alpha", "option I: no clipping"),
    (STEP, "make_optimizer(network.groups(lr), lr)", "make_optimizer(network.groups(lr), algorithm.lr)",
     "lr of round 1"),
    (CLIENT, "steps = epochs * per_epoch if epochs else drawn", "steps = drawn", "fine-tuning's epochs are drawn"),
    ("models/flat.py", "self.grads.copy_(direction)  #", "pass  #", "torch's optimizer sees the gradient before `correct`"),
    (FUSED, "        algorithm.clip(grad)\n", "", "fused: no clipping"),
    (FUSED, "direction = algorithm.correct(grad, now, message, memory, lr)",
     "direction = algorithm.clip(algorithm.correct(grad, now, message, memory, lr))",
     "fused: clipped after it was corrected, too"),
    (LOSSES, "weights, algorithm.label_smoothing", "weights, 0.0", "fused: no label smoothing"),
    (LOSSES, "(smoothing - 1) * weights", "-weights", "fused: the gradient is not smoothed"),
    (LOSSES, "smoothing / output.shape[classes] * weights", "smoothing * weights", "fused: smoothing for each class"),
    (BATCHES, "local_steps(seed, task.t, client, per_epoch", "local_steps(seed, task.t, place, per_epoch", "fused: drawn by place"),
    (BATCHES, "self.recipe.cutout, self.recipe.mean)", "16, self.recipe.mean)", "fused: squares of 16"),
    (BATCHES, '"cutout", task, places, lambda', '"augment", t, places, lambda', "fused: cutout draws crop-flip's numbers"),
    (STEPS, '"local-work", t=t, client=client', '"local-work", t=t', "all clients draw the same"),
    (STEPS, '"local-work", t=t, client=client', '"local-work", client=client', "all rounds draw the same"),
    (STEPS, 'generator(seed, "local-work"', 'generator(0, "local-work"', "the seed is ignored"),
    (STEPS, "integers(least, most + 1)", "integers(least, most)", "the most is never drawn"),
    (STEPS, "return most if self.steps else", "return most * per_epoch if self.steps else", "steps are epochs"),
    (STEPS, "(self.clip_norm / norm).clamp(max=1.0)", "(self.clip_norm / norm)", "short gradients are made longer"),
    (STEPS, "grad.square().sum(-1, keepdim=True)", "grad.square().sum()", "one norm for all clients"),
    (STEPS, "if self.needs_sgd and self.local_optimizer:", "if False:", "SCAFFOLD takes Adam"),
    (ADAM, 'given["momentum"] = wanted.momentum', "pass", "torch's sgd has no momentum"),
    (ADAM, '"weight_decay": wanted.weight_decay', '"weight_decay": 0.0', "no weight decay"),
    (ADAM, ", **read_options(wanted.options))", ")", "options are ignored"),
    (NEUTRAL, "label_smoothing=self.label_smoothing", "label_smoothing=0.0", "no label smoothing"),
    (OBJECTIVE, 'return F.cross_entropy(output, targets, reduction', 'return F.cross_entropy(output, targets, label_smoothing=0.1, reduction',
     "evaluation is smoothed"),
    (ROUND, "recipe.cutout, recipe.mean)", "16, recipe.mean)", "squares of 16"),
    (ROUND, '"cutout", **at, epoch=epoch', '"cutout", **at', "one square for all epochs"),
    (AUGMENT, "first = centre - side // 2", "first = (centre - side // 2).clamp(min=0)", "squares stay inside"),
    (AUGMENT, "round(255 * channel)", "0", "black squares"),
    (AUGMENT, "covered(centre // width, side", "covered(centre % width, side", "squares on the diagonal"),
]  # fmt: skip

MASKS = [
    (CLIENT, "        self.call += 1\n", "", "a client that descends again has the same masks"),
    (
        CLIENT,
        "self.number, steps, layers, call,",
        "0, steps, layers, call,",
        "the same masks for all clients",
    ),
    (CLIENT, "self.masked(range(batches), batches)", "range(batches)", "a full gradient's masks are not keyed"),
    (DROPOUT, "    return call + 1\n", "    return call\n", "keys are torch's seed, too"),
    (DROPOUT, "keys[..., 0] |= 1\n", "pass\n", "even multipliers"),
    (DROPOUT, "        if self.calls:", "        if False:", "a layer that is used twice has one mask"),
    (DROPOUT, "        layer.calls = 0\n", "        pass\n", "the next pass is another use"),
    (DROPOUT, "        self.calls += 1\n", "", "uses are not counted"),
    (
        DROPOUT,
        "words = words.bitwise_xor_(words >> 16)",
        "words = words",
        "a word's high half does not reach the low one",
    ),
    (DROPOUT, ".add_(summand)", "", "half a key"),
    (DROPOUT, "* (1 / (1 - self.p))", "* 1.0", "what is kept is not scaled"),
    (DROPOUT, "round((1 - p)", "round(p", "p is what is kept"),
    (DROPOUT, "or len(found) < rows", "", "positions of the first batch only"),
    (DROPOUT, "permute(*np.argsort(order).tolist())", "permute(*order)", "positions as they lie in memory"),
    (DROPOUT, "with torch._C._DisableFuncTorch():", "if True:", "positions that do not outlive a transform"),
    (DROPOUT, "or len(self.positions) < SHAPES", "or True", "positions for ever more shapes"),
    (DROPOUT, "if place in self.positions or len", "if len", "positions of many shapes do not grow any more"),
    (DROPOUT, ".train(layer.training)", "", "a layer in evaluation mode is put into training mode"),
    (DROPOUT, "type(layer) is nn.Dropout and", "isinstance(layer, nn.Dropout) and", "derived classes are replaced"),
    (DROPOUT, "            if layer not in made:\n                made", "            made", "two layers out of one"),
    (DROPOUT, "layers:\n        layer.key = None", "layers:\n        pass", "keys that outlive their steps"),
    ("models/activations.py", "        flat.train()\n", "        module.train()\n", "frozen layers draw"),
]


LAYERS, REPLAYED = "training/fused/layers.py", "training/fused/replayed.py"
CONVOLUTIONS = "training/fused/convolutions.py"

FORMS = [
    (LAYERS, "-(-(i + 1) * length // wanted)", "(i + 1) * length // wanted", "averages end too early"),
    (CONVOLUTIONS, "] += windows[:, :, :, :, i, j]", "] = windows[:, :, :, :, i, j]", "windows do not add up"),
    (CONVOLUTIONS, "top, left = i * dilation[0], j * dilation[1]", "top, left = i, j", "a gradient without dilation"),
    (CONVOLUTIONS, "made.add_(biases)", "made", "no bias"),
    (CONVOLUTIONS, "if groups != 1 or", "if", "groups are left out"),
    (CONVOLUTIONS, "torch.arange(length - 1, -1, -1, device=device)", "torch.arange(length, device=device)", "kernels are not mirrored"),
    (CONVOLUTIONS, "words.bitwise_and_(-0x2000)\n", "pass\n", "a high part of all bits"),
    (CONVOLUTIONS, "out=words)  # half", "out=words).sub_(0x1000)  # half", "high parts are cut, not rounded"),
    (CONVOLUTIONS, 'conv.fp32_precision = "tf32"', "pass", "three products of float32"),
]  # fmt: skip

KERNELS = [
    (TAPS, "return (first, last) if same else (0, kernel)", "return first, last", "outputs are lost with the padding"),
    (TAPS, "(p - first * d for p,", "(p for p,", "the padding stays"),
    (TAPS, " and around == (0, 0):", ":", "a product where there is padding"),
    (TAPS, "i * dilation - padding < side", "i - padding < side", "places without dilation"),
]  # fmt: skip

FUSED_MODELS = [
    (LAYERS, "{F.adaptive_avg_pool2d: average_pool}", "{}", "adaptive pooling is torch's"),
    (STACKED, "found = torch.autograd.grad([main, *others], leaves, slopes,",
     "found = torch.autograd.grad([main], leaves, slopes[:1],", "auxiliary classifiers do not train"),
    (STACKED, "slope.mul_(self.recipe.model.aux_weight)", "slope", "auxiliary classifiers weigh as the main one"),
    (STACKED, 'model.precision == "bfloat16", cache', "False, cache", "all in float32"),
    (STACKED, "zip(self.dropouts, keys.unbind(1), strict=True)", "zip(self.dropouts, keys.roll(1, 0).unbind(1), strict=True)",
     "a client has another's masks"),
    (REPLAYED, "            static.copy_(given)\n", "            pass\n", "the first batch for ever"),
    (REPLAYED, "batch.targets.shape, algorithm", "algorithm", "one graph for all widths"),
    (REPLAYED, "        self.program.forget()\n", "", "what is given up is looked at"),
    (REPLAYED, "        self.captured.clear()\n", "        pass\n", "graphs outlive their memory"),
    (BATCHES, "rows += firsts[:, None]", "rows += 0", "everybody's images are the first client's"),
    (BATCHES, "/ np.maximum(self.sizes, 1)[:, :, None]", "/ shares[0].width", "a mean over the padding, too"),
    (BATCHES, "np.minimum(size, used - step % per_epoch * size)", "size", "the last batch of an epoch has no padding"),
    (BATCHES, "keys[: share.steps, i] =", "keys[: share.steps, 0] =", "all masks are the first client's"),
    (BATCHES, "deal(batches[steps, i]", "deal(batches[steps, 0]", "all batches are the first client's"),
    (BATCHES, "share_epochs(share):\n            deal", "[*share_epochs(share)][:1]:\n            deal", "one epoch"),
    (FUSED, "        params.copy_(start)\n", "", "they begin where the last ones ended"),
    (FUSED, "tensor.clone() if tensor.untyped_storage().data_ptr() in kept else tensor", "tensor",
     "the next group overwrites the ends"),
    (ROOM, "self.blocks[name].copy_(value)", "self.blocks[name]", "blocks begin where the last ones ended"),
    (ROOM, "first = -(-last // ALIGNED) * ALIGNED", "first = last - 1", "blocks overlap"),
    (ROOM, "torch.cat([block[:count].flatten(1)", "torch.cat([block[-count:].flatten(1)", "other clients' ends"),
    (FUSED, "part, began, cpu_began = portion[: self.at_once],", "part, began, cpu_began = portion,", "as many are tried again"),
    (FUSED, "                    self.forget()\n", "", "memory is not given back"),
    (FUSED, "if active != before:", "if not before:", "who has no steps left goes on"),
    (FUSED, "sorted(groups, key=len, reverse=True)", "groups", "the narrow groups first"),
]  # fmt: skip

AS_GRAPHS = [
    (CAPTURED, "tensor.copy_(message[name])", "pass", "the first message for ever"),
    (CAPTURED, "tensor.copy_(memory[name])", "pass", "the first client's memory for ever"),
    (CAPTURED, "room.lr, room.losses, references", "lr, room.losses, references", "the first learning rate for ever"),
    (CAPTURED, ".velocity.fill_(-0.0)", ".velocity.mul_(1.0)", "one client's momentum is the next one's"),
    (CAPTURED, 'numbers: dict[str, Any] = {"losses": 0.0, "lr": self.lr}', 'numbers: dict[str, Any] = {"lr": self.lr}',
     "losses of all clients add up"),
    (CAPTURED, "            numbers = {}\n", "", "losses of the last epoch alone"),
    (CAPTURED, "keys[len(batches) :]", "keys", "an epoch's masks are the first one's"),
    (CAPTURED, "        room.step.add_(1)\n", "", "the first batch for ever"),
    (CAPTURED, "alpha=full)", "alpha=size)", "a rest begins too early"),
    (CAPTURED, "sizes = batch.stop - batch.start, self.full", "sizes = self.full, self.full", "a rest is as a full batch"),
    (CAPTURED, "key = algorithm, whole, correct", "key = whole, correct", "one algorithm's steps are another's"),
    (CAPTURED, "correct.__func__ if whole and isinstance(correct, MethodType) else None", "None",
     "one training's correction is another's"),
    (CAPTURED, "own = correct is not None and not (", "own = correct is not None and (", "own hooks are captured"),
    (CAPTURED, "hooks = algorithm.loss, ", "hooks = ", "own losses are captured"),
    (CAPTURED, "not own and not algorithm.local_optimizer", "not own", "optimizers are left out"),
    (CAPTURED, "if waits or python_state(self.network.flat.module) != before:", "if waits:", "a state is captured"),
    (CAPTURED, "if self.room is None or self.room.rows < examples:", "if self.room is None:", "no room for more images"),
    (CAPTURED, "            program.captured.clear()\n", "            pass\n", "graphs outlive their memory"),
    (CAPTURED, "self.pixels[:n].copy_(augmented", "(augmented", "images are not augmented"),
    (CAPTURED, " and owner.made < MOST_GRAPHS", "", "ever more graphs"),
    (TRANSFER, "end += -(-self.places[name].stop // 8) * 8 - end", "end = self.places[name].stop", "numbers across words"),
]  # fmt: skip

ON_A_DEVICE = [
    (UPDATES, "float(np.float32(weight))", "float(weight)", "weights are not rounded"),
    (OUTGOING, ".masked_fill(~counts, -0.0)", ".masked_fill(~counts, 0.0)", "a zero loses its sign"),
    (OUTGOING, ".masked_fill(~counts, -0.0)", "", "the device sums what is not finite"),
    (OUTGOING, "torch.isfinite(loss) & all_finite(update)", "torch.isfinite(norm) & all_finite(update)",
     "a loss may be infinite there"),
    (OUTGOING, "torch.isfinite(loss) & all_finite(update)", "torch.isfinite(loss)", "an update may be infinite there"),
    (OUTGOING, "zip(self.reports, counts, strict=True) if ok", "zip(self.reports, counts, strict=True)",
     "what is left out has a weight"),
    (SHARDS, "recipe.seen_by(client, images[mine], drawn)", "images[mine]", "what is kept is not skewed"),
    (SHARDS, "images[mine], drawn)", "images[mine])", "own tests are skewed as the shards are"),
    (SHARDS, "self.ends[client - 1] if client else 0", "0", "a client's images begin with the first one's"),
    (TRANSFER, "dtype=torch.float64, device=device", "device=device", "a loss is rounded on its way"),
    (TRAINER, "if vector.size):\n            places = None", "if vector.size):\n            pass",
     "a message that was written to is taken for itself"),
    (TRAINER, "vector.__array_interface__ if vector.size else 0", "vector.shape", "one message is taken for another"),
    (NETWORK, 'if self.recipe.model.precision == "tf32" else "ieee"', 'if True else "ieee"', "TF32 is always on"),
    (NETWORK, "                flag.fp32_precision = precision\n", "                pass\n", "TF32 is left on"),
    (ACTOR, "self.last_orders[0] != orders:", "False:", "the first message is taken for all"),
    (RECIPE, 'if device.startswith("cpu")', "if True", "GPUs evaluate as few images as a CPU"),
]  # fmt: skip

CHAIN = [
    (OUTGOING, "            renewed |= {own + name: tensor for name, tensor in mine.items()}\n", "", "the chain remembers nothing"),
    (OUTGOING, "for transform in self.task.chain:", "for transform in self.task.chain[::-1]:", "the chain backwards"),
    (OUTGOING, "sent = transform.encoded_bytes(update, sent)", "transform.encoded_bytes(update, sent)", "bytes as they were"),
    (OUTGOING, "            counts = counts and finite(update)\n", "", "what the chain made infinite is summed"),
    (OUTGOING, "counts = counts & all_finite(update)", "pass", "what the chain made infinite is summed on a device"),
    (OUTGOING, "self.task.address(self.trainer.recipe.seed, report.client)", "self.task.address(self.trainer.recipe.seed, 0)",
     "all clients draw alike"),
    (OUTGOING, "self.memories.append({**done.memory, **memory})", "self.memories.append(done.memory)",
     "the chain remembers nothing on a device"),
    ("server/task.py", "self.algorithm.remembers or any(transform.remembers for transform in self.chain)",
     "self.algorithm.remembers", "only algorithms remember"),
    (MEMORIES, "in self.learned.pop(handle, {}).items():", "in {}.items():", "nothing is kept"),
]  # fmt: skip

HANDLES = [
    (POP, "if handle.tickets:\n                self.dispatcher.cancel(handle.errand)", "pass", "what is discarded goes on"),
    (DISPATCH, "ask_to_stop(errand.name)", "pass", "the call that runs goes on"),
    (DISPATCH, "            self.queue = [ticket for ticket in self.queue if ticket.errand is not errand]\n", "",
     "calls that wait are made all the same"),
    (ACTOR, "        enrolment.trainer.heed_by(heeding(errand))\n", "", "nobody asks whether the call is wanted"),
    (MEMORIES, "if busy := sorted(clients & self.at_work.keys()):", "if busy := []:", "a client has two handles"),
    (POP, "retries=handle.errand.retries", "retries=0", "the retries of a handle are forgotten"),
    (ACTOR, "memories = vectors[inputs:]", "memories = vectors", "inputs are taken for memories"),
    (POP, "[ticket.refs[1 + i] for i in counted]", "[ticket.refs[1] for i in counted]", "the first client's for everyone's"),
    ("core/randomness.py", " + (attempt << 32)", "", "another attempt draws the same"),
]  # fmt: skip
PASSES = [
    (STEP, "buffers_stay=not first", "buffers_stay=False", "each pass of a step moves BatchNorm's statistics"),
    (STEP, "counts=first", "counts=True", "the loss of each pass is reported"),
    (STEP, "counts=first)).clone()", "counts=first))", "the next pass overwrites a gradient"),
    (STEP, "(algorithm.clip(found.clone()),)", "(found.clone(),)", "a gradient of several passes is not clipped"),
    ("models/flat.py", "                tensor.copy_(before)\n", "                pass\n", "a pass leaves the network elsewhere"),
    (SCAFFOLD, "if self.fusable and not self.has_own_gradient", "if self.fusable", "SCAFFOLD fuses steps of one's own"),
]  # fmt: skip


WITH_LOSSES = [
    (OBJECTIVE, "label_smoothing=algorithm.label_smoothing", "label_smoothing=0.0", "weighted: no label smoothing"),
    (OBJECTIVE, "each * self.weights[targets]", "each * self.weights[targets] / self.weights[targets].mean()", "weighted: torch's mean"),
    (LOSSES, "positive * F.logsigmoid(x), negative", "positive * F.logsigmoid(x), 1", "fused: bce's slope"),
    (LOSSES, "error.square(), error.mul_(2)", "error.square(), error", "fused: half the slope of mse"),
    (LOSSES, "clamp_(-delta, delta)", "clamp_(-1, 1)", "fused: delta is 1 in huber's slope"),
    (LOSSES, "batch.weights.unsqueeze(classes) / output.shape[classes]", "batch.weights.unsqueeze(classes)",
     "fused: a sum over the outputs"),
    (OBJECTIVE, 'reduction="none", pos_weight=self.weights', 'reduction="none"', "positives are not weighted"),
    (ROUND, "rng.integers(0, len(counts), n)", "np.zeros(n, int)", "balanced: always the first class"),
    (ROUND, "+ rng.integers(0, counts[drawn])]", "]", "balanced: always the first example of a class"),
]  # fmt: skip

FOUND_BY: list[tuple[list[str], list[tuple[str, str, str, str]]]] = [
    ([f"algorithms/test_{name}.py" for name in HOOKS], GLOBAL),
    (["algorithms/test_personal.py"], PERSONAL),
    (["data/test_own_tests.py"], OWN_TESTS),
    (["run/test_client_evaluation.py"], EVALUATION),
    (["cluster/test_evaluate_clients.py"], ON_RAY),
    (["algorithms/test_local_training.py", "data/test_augment.py", "training/test_fused.py"], LOCAL_TRAINING),
    (["models/test_dropout.py"], MASKS),
    (["server/test_participation.py"], WITH_FAULTS),
    (["training/test_transfer.py"], ON_A_DEVICE),
    (["training/test_forms.py"], FORMS),
    (["training/test_captured.py"], AS_GRAPHS),
    (["training/test_taps.py"], KERNELS),
    (["training/test_fused_models.py"], FUSED_MODELS),
    (["cluster/test_lost_actors.py"], LOST),
    (["training/test_outgoing.py"], CHAIN),
    (["cluster/test_handles.py"], HANDLES),
    (["algorithms/test_local_gradient.py"], PASSES),
    (["training/test_losses.py", "training/test_balanced.py"], WITH_LOSSES),
]
ROOT = Path(__file__).parents[2]


def main() -> int:
    part, count, missed = (sys.argv[1:] or [""])[0], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for name in ("fedray", "tests", "experiments"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for tests, mutations in FOUND_BY:
            wanted = [mutation for mutation in mutations if part in mutation[0]]
            assert not wanted or not first_failure(copy, tests), "the tests fail without any mistake"
            for file, old, new, mistake in wanted:
                path = copy / "fedray" / file
                right = path.read_text()
                if right.count(old) == 1:
                    path.write_text(right.replace(old, new))
                    found = first_failure(copy, tests)
                    path.write_text(right)
                else:
                    found = ""
                    mistake += f" (stands there {right.count(old)} times: {old!r})"
                count, missed = count + 1, missed + (not found)
                print(f"{'caught' if found else 'NOT CAUGHT':12}{file:34}{mistake:60}{found}", flush=True)
    print(f"{count - missed} of {count} caught")
    return int(missed > 0)


def first_failure(copy: Path, tests: list[str]) -> str:
    """The first of the tests that fails in a copy of the tree; empty if none does."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "--durations=0", "-p", "no:cacheprovider"]
    command += [f"tests/{name}" for name in tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not lines:
        return f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
    return lines[0].split(" - ")[0].rpartition("/")[2] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
