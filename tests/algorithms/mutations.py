"""Mistakes that the tests of algorithms must catch: python tests/algorithms/mutations.py [part of a file's name].

Each is made in a copy of the package, one at a time, and QUICK_TESTS run there until one fails: twenty minutes for
all. Exit status 1: one was not caught, or what it replaces is no longer there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

AVG, SERVER, CLIENT, FUSED = "algorithms/fedavg.py", "server.py", "client.py", "fused.py"
PROX, SCAFFOLD, NOVA, DYN = (f"algorithms/{name}.py" for name in ("fedprox", "scaffold", "fednova", "feddyn"))
FAR, OPTIMIZER, MOON = (f"algorithms/{name}.py" for name in ("effective_steps", "server_optimizer", "moon"))
OPT, AVGM, SGD = (f"algorithms/{name}.py" for name in ("fedopt", "fedavgm", "fedsgd"))

MUTATIONS = [
    # (file in fedray/, what stands there once, what to put in its place, the mistake)
    (AVG, 'return {"params": end - start}, memory', 'return {"params": start - end}, memory', "server minus client"),
    (AVG, 'self.weighting == "num_examples" else 1.0', 'self.weighting != "uniform" else 2.0', "weights of 2"),
    (AVG, "return float(num_examples) if", "return 1.0 if", "all clients weigh the same"),
    (AVG, "np.float32(updates.sum.weight)", "np.float32(len(updates.reports) or 1)", "divided by the cohort's size"),
    (AVG, 'params += state["params"]', 'params -= state["params"]', "the old model is subtracted"),
    (AVG, 'if self.weighting == "sum" else 1.0', "", "buffers are scaled by server_lr"),
    (AVG, "self.correct if self.corrects else None", "None", "the correction is left out"),
    (AVG, 'end["params"], steps, lr, message', 'end["params"], steps, self.lr, message', "lr of round 1 in finish"),
    (AVG, "np.float32(self.server_lr) * direction", "1.0 * direction", "server_lr is left out"),
    (SERVER, "math.fsum(algorithm.weight(report.num_examples) for report in updates.reports) / all_weights",
     "len(members) / len(population)", "|S|/N whatever the weights are"),
    (SERVER, "/ all_weights", "/ all_weights * len(population) / len(members)", "the share is not of all clients"),
    (CLIENT, "images, labels, received, remembered, t, lr)\n        with",
     "images, labels, received, remembered, t, algorithm.lr)\n        with", "clients train with the lr of round 1"),
    (CLIENT, "velocity.mul_(algorithm.momentum).add_(direction)",
     "velocity.mul_(algorithm.momentum).add_(direction, alpha=1 - algorithm.momentum)", "momentum with dampening"),
    (CLIENT, "direction = correct(direction, flat.params, self.message, self.memory, self.lr)",
     'direction = correct(direction, start["params"], self.message, self.memory, self.lr)',
     "corrected at w_t, not at w"),
    (CLIENT, 'flat.load(at["params"], at["buffers"])\n', "\n", "option I: the gradient at y, not at x"),
    (CLIENT, "alpha=len(targets) / n", "alpha=1.0", "option I: a sum over batches, not their mean"),
    (CLIENT, "for i in range(batches):", "for i in range(1):", "option I: one batch"),
    (CLIENT, "self.rivals[name].module.eval()", "self.rivals[name].module.train()", "references in training mode"),
    (CLIENT, 'self.rivals[name].load(model["params"], model["buffers"])',
     'self.rivals[name].load(model["params"], self.flat.buffers)',
     "references with the statistics of the model in training"),
    (CLIENT, "isinstance(layer, nn.Linear)][-1]", "isinstance(layer, nn.Linear)][-2]", "features of another layer"),
    (CLIENT, "loss = loss + algorithm.penalty(features, rivals)",
     "loss = loss + algorithm.penalty(features.detach(), rivals)", "the features are detached"),
    (CLIENT, "loss = loss + algorithm.penalty(features, rivals)",
     "loss = algorithm.penalty(features, rivals)", "no cross-entropy"),
    (CLIENT, 'algorithm.init_memory(self.initial["params"], self.initial["buffers"])',
     'algorithm.init_memory(received["params"], received["buffers"])', "a memory begins with the round's model"),
    (CLIENT,
     "losses += loss.detach().double() * len(targets)\n"
     "            if algorithm.compares:\n"
     "                rivals = {name: trainer.features(model, inputs) for name, model in references.items()}\n"
     "                loss = loss + algorithm.penalty(features, rivals)\n",
     "if algorithm.compares:\n"
     "                rivals = {name: trainer.features(model, inputs) for name, model in references.items()}\n"
     "                loss = loss + algorithm.penalty(features, rivals)\n"
     "            losses += loss.detach().double() * len(targets)\n",
     "the reported loss has the penalty in it"),
    (FUSED, "np.array([[share.steps] for share", "np.array([[share.per_epoch] for share", "steps of one epoch"),
    (FUSED, "direction = algorithm.correct(grad, now, received, memory, lr)",
     'direction = algorithm.correct(grad, received["params"], received, memory, lr)',
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
    (NOVA, 'mean["params"] *= mean["tau"]', "", "without tau_eff"),
    (NOVA, 'mean["params"] *= mean["tau"]', 'mean["params"] *= np.float32(self.epochs)', "epochs for tau_eff"),
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
    (OPTIMIZER, "m / (np.sqrt(v) + np.float32(settings.server_tau))",
     "m / np.sqrt(v + np.float32(settings.server_tau))", "tau under the root"),
    (OPTIMIZER, "m / (np.sqrt(v) + np.float32(settings.server_tau))",
     "m / (1 - beta1) / (np.sqrt(v) + np.float32(settings.server_tau))", "m is corrected for its start"),
    (OPTIMIZER, "m / (np.sqrt(v) + np.float32(settings.server_tau))",
     'm / (np.sqrt(state["v"]) + np.float32(settings.server_tau))', "the v of the round before"),
    (OPTIMIZER, '{"m": m, "v": v}', '{"m": delta, "v": v}', "m forgets"),
    (OPTIMIZER, '{"m": m, "v": v}', '{"m": m, "v": state["v"]}', "v stays as it was"),
    (OPT, "server_beta1: float = setting(0.0,",
     "server_beta1: float = setting(0.9,", "momentum where the paper's Adagrad has none"),
    (AVGM, "setting(0.9,", "setting(0.0,", "FedAvgM without momentum"),
    (SGD, "batch_size: Literal[0] = setting(0,", "batch_size: Literal[8] = setting(8,", "batches"),
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

QUICK_TESTS = ("fedprox", "scaffold", "fednova", "feddyn", "fedopt", "fedsgd", "moon", "references", "laws", "fedavg")
ROOT = Path(__file__).parents[2]


def main() -> int:
    wanted = [mutation for mutation in MUTATIONS if (sys.argv[1:] or [""])[0] in mutation[0]]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for name in ("fedray", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        assert not first_failure(copy), "the tests fail without any mistake"
        for file, old, new, mistake in wanted:
            path = copy / "fedray" / file
            right = path.read_text()
            if right.count(old) == 1:
                path.write_text(right.replace(old, new))
                found = first_failure(copy)
                path.write_text(right)
            else:
                found = ""
                mistake += f" (stands there {right.count(old)} times: {old!r})"
            missed += not found
            print(f"{'caught' if found else 'NOT CAUGHT':12}{file:34}{mistake:50}{found}", flush=True)
    print(f"{len(wanted) - missed} of {len(wanted)} caught")
    return int(missed > 0)


def first_failure(copy: Path) -> str:
    """The first test that fails in a copy of the tree; empty if none does."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "--durations=0", "-p", "no:cacheprovider"]
    command += [f"tests/algorithms/test_{name}.py" for name in QUICK_TESTS]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not lines:
        return f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
    return lines[0].split(" - ")[0].rpartition("/")[2] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
