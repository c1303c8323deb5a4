"""Algorithms of the user's own: by address, or handed over as a class; tried before anything is written."""

import dataclasses
import importlib
import subprocess
import sys

import pytest
from small_runs import assert_same_tables, small

from fedray import results
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.own import content
from fedray.cli.command_line import options, read_command_line
from fedray.core.errors import BadInputError
from fedray.experiment import read_experiment
from fedray.run import run
from fedray.run.prepared import Job

TEXT = '''
from typing import ClassVar

from fedray.algorithms.fedavg import FedAvg
from fedray.settings import section, setting


@section
class Shorter(FedAvg):
    """FedAvg whose clients' gradients are made shorter by a factor."""

    name: ClassVar[str] = "shorter"
    factor: float = setting(0.5, "Factor of every gradient.", gt=0, le=1)

    def correct(self, grad, params, message, memory, lr):
        return self.factor * grad


class Plain(FedAvg):
    pass


number = 3
'''
TOML = """
rounds = 2
clients = 4
cohort = 3
data = {dataset = "synthetic", train_examples = 160, test_examples = 120}
algorithm = {name = "NAME", batch_size = 10}
cluster = {backend = "in-process"}
output = {name = "small", root = "ROOT"}
"""


@pytest.fixture
def module(request, tmp_path, monkeypatch):
    """The name of a new module in a folder that Python searches, and its file."""
    number = getattr(module, "number", 0) + 1
    module.number = number
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    name = f"own_algorithm_{number}"
    path = folder / f"{name}.py"
    path.write_text(TEXT)
    yield name, path
    sys.modules.pop(name, None)


def written(tmp_path, name, **settings):
    file = tmp_path / "small.toml"
    file.write_text(TOML.replace("NAME", name).replace("ROOT", str(tmp_path / "results")))
    return read_experiment(file, {key.replace("__", "."): value for key, value in settings.items()})


def test_by_address_and_as_a_class_it_is_one_run_with_one_name(tmp_path, module):
    name, _ = module
    by_address = written(tmp_path, f"{name}:Shorter", algorithm__factor=0.25)
    kind = importlib.import_module(name).Shorter
    plain = written(tmp_path, "fedavg")
    handed = dataclasses.replace(plain, algorithm=kind(batch_size=10, factor=0.25))
    assert Job(by_address).run == Job(handed).run
    assert Job(by_address).run.startswith(f"{name}.Shorter-seed0-")
    tables = run(by_address)
    assert set(tables.rounds["algorithm"]) == {f"{name}:Shorter"}
    assert tables.runs["algorithm.factor"][0] == 0.25
    assert tables.runs["algorithm_source_fingerprint"][0] == content(kind)
    finished = tables.runs["finished_at"][0]
    assert run(handed).runs["finished_at"][0] == finished  # it is not played again
    half = run(written(tmp_path, f"{name}:Shorter", algorithm__factor=1.0, output__name="one"))
    assert (
        half.runs["model_fingerprint"][0]
        == run(dataclasses.replace(plain, output=half_output(plain))).runs["model_fingerprint"][0]
    )
    assert tables.runs["model_fingerprint"][0] != half.runs["model_fingerprint"][0]


def half_output(experiment):
    return dataclasses.replace(experiment.output, name="plain")


def test_the_content_of_its_file_is_in_the_id(tmp_path, module):
    name, path = module
    first = Job(written(tmp_path, f"{name}:Shorter")).run
    assert Job(written(tmp_path, f"{name}:Shorter")).run == first
    run(written(tmp_path, f"{name}:Shorter"))
    path.write_text(TEXT.replace("self.factor * grad", "2 * self.factor * grad"))
    edited = written(tmp_path, f"{name}:Shorter")
    assert Job(edited).run != first
    tables = run(edited)
    assert len(results.load("small", tmp_path / "results").runs) == 2
    assert tables.runs["algorithm_source_fingerprint"].notna().all()
    path.write_text(TEXT)
    assert Job(written(tmp_path, f"{name}:Shorter")).run == first


def test_a_class_that_was_there_before_its_file_was_edited_keeps_its_id(tmp_path, module):
    name, path = module
    kind = importlib.import_module(name).Shorter
    before = content(kind)
    path.write_text(TEXT + "# edited\n")
    assert content(kind) == before
    assert content(importlib.reload(sys.modules[name]).Shorter) != before


def test_content_is_what_the_class_is_made_of(module):
    kind = importlib.import_module(module[0]).Shorter

    class Below(kind):
        pass

    class Beside(FedAvg):
        pass

    assert len({content(each) for each in (kind, Below, Beside)}) == 3
    assert content(kind) == content(importlib.import_module(module[0]).Plain)  # of one file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere_at_all:Shorter", "there is no module nowhere_at_all"),
        ("MODULE:Shortest", "has no class Shortest; did you mean Shorter?"),
        ("MODULE:number", "is no class below fedray's FedAvg"),
        ("MODULE:ClassVar", "is no class below fedray's FedAvg"),
        ("fedavgg", "algorithm.name = 'fedavgg' is not one of fedavg"),
    ],
)
def test_a_wrong_address_is_one_sentence(tmp_path, module, name, said):
    with pytest.raises(BadInputError, match=said.replace("?", r"\?")) as error:
        written(tmp_path, name.replace("MODULE", module[0]))
    assert "\n" not in str(error.value)


def test_a_module_that_fails_says_where(tmp_path, module):
    name, path = module
    path.write_text("import os\n1 / 0\n")
    said = f"algorithm.name = {name}:Shorter: {name} cannot be imported .ZeroDivisionError.*line 2"
    with pytest.raises(BadInputError, match=said):
        written(tmp_path, f"{name}:Shorter")


MISTAKES = {
    "finish": ("def finish(self, start, end, steps, lr, message, memory):\n        return {'params': end[1:]}, memory",
               "gave (an update|updates) "),
    "broadcast": ("def broadcast(self, state, t):\n        return {'params': state['nothing'], 'buffers': 0}", "KeyError"),
    "server_update": ("def server_update(self, state, mean, participation):\n        return {}", "gave a state with {}"),
    "metrics": ("def metrics(self, state, mean, updates):\n        return {'x': 'text'}", "could not convert"),
    "memory": ("def init_memory(self, params, buffers):\n        return {'m': params}\n\n"
               "    def correct(self, grad, params, message, memory, lr):\n        return grad + memory['n']", "KeyError: 'n'"),
    "loss": ("def loss(self, output, targets):\n        return output.sum() + targets.nothing", "nothing"),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["plain", "fused"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_is_tried_before_anything_is_written(tmp_path, module, mistake, engine):
    name, path = module
    hook, said = MISTAKES[mistake]
    path.write_text(TEXT.replace("class Plain(FedAvg):\n    pass", f"class Plain(FedAvg):\n    {hook}"))
    with pytest.raises(BadInputError, match=said) as error:
        run(written(tmp_path, f"{name}:Plain", engine=engine, model__name="logistic"))
    assert "\n" not in str(error.value)
    assert f"algorithm.name = {name}:Plain fails when it is tried: " in str(error.value)
    assert not (tmp_path / "results").exists()


STATE = "def {}:\n        state = super().{}\n        return {{**state, {}}}"
INIT, UPDATE = "init(self, params, buffers)", "server_update(self, state, mean, participation)"


def with_state(hook, entries):
    return STATE.format(hook, hook.replace("self, ", ""), entries)


STATES = {
    "a number": (with_state(INIT, "'k': 3"), "init gave a state whose 'k' is of type int, and a checkpoint holds NumPy arrays only; np.array"),
    "a tensor": (with_state(INIT, "'k': __import__('torch').zeros(2)"), "init gave a state whose 'k' is of type Tensor, and a ch"),
    "complex": (with_state(INIT, "'k': params * 1j"), "init gave a state whose 'k' is of type complex64, and a checkpoint holds float64, float32"),
    "float64": (with_state(INIT, "'params': params.astype(float)"), r"init gave a state whose 'params' are float64, and a model is float32; .astype.np.float32. makes it so"),
    "float64 later": (with_state(UPDATE, "'params': state['params'].astype(float)"), "server_update gave a state whose 'params' are float64"),
    "a number later": ("def init(self, params, buffers):\n        return {**super().init(params, buffers), 'k': __import__('numpy').zeros(())}\n\n    "
                       + with_state(UPDATE, "'k': 4.5"), "server_update gave a state whose 'k' is of type float"),
    "float64 sent": ("def broadcast(self, state, t):\n        return {**state, 'params': state['params'] * __import__('numpy').float64(1)}",
                     "broadcast gave a message whose 'params' are float64"),
    "float64 measured": ("def global_model(self, state):\n        return {**state, 'params': state['params'].astype(float)}",
                         "global_model gave a model whose 'params' are float64"),
    "half a model": ("def global_model(self, state):\n        return {'params': state['params'][1:], 'buffers': state['buffers']}",
                     r"global_model gave a model whose 'params' have the shape .30729,., and the model's are .30730,."),
    "no model": ("def global_model(self, state):\n        return {'params': state['params']}", "global_model gave a model without 'buffers'"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_no_checkpoint_or_model_can_be_is_one_sentence_before_round_1(tmp_path, module, case):
    name, path = module
    hook, said = STATES[case]
    path.write_text(TEXT.replace("class Plain(FedAvg):\n    pass", f"class Plain(FedAvg):\n    {hook}"))
    with pytest.raises(BadInputError, match=f"algorithm.name = {name}:Plain fails when it is tried: .*{said}") as error:
        run(written(tmp_path, f"{name}:Plain", model__name="logistic"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


def test_a_state_with_numbers_as_arrays_is_saved_and_goes_on(tmp_path, module):
    name, path = module
    hooks = (
        "def init(self, params, buffers):\n        return {**super().init(params, buffers), 'k': np.array(0), 'wide': params.astype(float)}\n\n    "
        "def server_update(self, state, mean, participation):\n"
        "        more = {'k': state['k'] + 1, 'wide': state['wide'] + mean['params']}\n"
        "        return {**super().server_update(state, mean, participation), **more}\n\n    "
        "def metrics(self, state, mean, updates):\n        return {'k': state['k']}"
    )
    path.write_text(
        "import numpy as np\n" + TEXT.replace("class Plain(FedAvg):\n    pass", f"class Plain(FedAvg):\n    {hooks}")
    )
    plain = written(tmp_path, f"{name}:Plain", model__name="logistic", output__checkpoint_every=1)
    run(plain, until=1)
    assert run(plain).metrics["value"].tolist() == [1, 2]


UNDECLARED = TEXT.replace(
    "class Plain(FedAvg):\n    pass", "class Mine(FedAvg):\n    rate: float = 0.5\n\n\nclass Below(Mine):\n    pass"
)


def test_a_class_with_settings_and_without_section_is_refused_by_its_own_name(tmp_path, module):
    name, path = module
    path.write_text(UNDECLARED.replace("@section\nclass Shorter", "class Shorter"))
    said = (
        f"class Mine of {name} declares rate without @section above it, so that no setting comes of it; write @section"
    )
    for kind in ("Mine", "Below"):
        with pytest.raises(BadInputError, match=said):
            written(tmp_path, f"{name}:{kind}", algorithm__rate=0.1)
        with pytest.raises(BadInputError, match=f"^{said}"):
            getattr(importlib.import_module(name), kind)(rate=0.1)
    with pytest.raises(BadInputError, match=f"class Shorter of {name} declares factor without @section"):
        written(tmp_path, f"{name}:Shorter")


FORMER = {
    "aggregate": ("def aggregate(self, updates):\n        return updates.sum.vectors", "defines `aggregate`"),
    "linear": ("linear = False", "defines `linear`"),
    "metrics": ("def metrics(self, state, updates):\n        return {}",
                r"defines metrics\(self, state, updates\), and since fedray 0.4 it is metrics\(self, state, mean, updates\)"),
}  # fmt: skip


@pytest.mark.parametrize("former", FORMER)
def test_a_class_for_0_3_is_refused_by_name_with_what_to_do(tmp_path, module, former):
    name, path = module
    hook, said = FORMER[former]
    path.write_text(TEXT.replace("class Plain(FedAvg):\n    pass", f"class Plain(FedAvg):\n    {hook}"))
    with pytest.raises(BadInputError, match=said):
        written(tmp_path, f"{name}:Plain")
    with pytest.raises(ValueError, match="algorithm Plain defines"):
        importlib.import_module(name).Plain()


def test_its_settings_are_options_of_the_command_line_and_of_the_help(tmp_path, module, capsys):
    name, _ = module
    words = [f"--algorithm.name={name}:Shorter", "--algorithm.factor", "0.125"]
    line = read_command_line(words, "fedray", "")
    assert line.overrides["algorithm.factor"] == "0.125"
    with pytest.raises(SystemExit):
        read_command_line([*words, "--help"], "fedray", "")
    assert "Factor of every gradient." in capsys.readouterr().out
    with pytest.raises(BadInputError, match="factor"):
        read_command_line(["--algorithm.factor", "0.125"], "fedray", "")
    assert "algorithm.factor" not in options()


PROGRAM = (
    TEXT
    + """
from fedray.experiment import read_experiment
from fedray.run import run

if __name__ == "__main__":
    import dataclasses
    import sys

    experiment = read_experiment(sys.argv[1])
    if len(sys.argv) > 2:
        Shorter.correct = lambda self, grad, params, message, memory, lr: grad
    found = run(dataclasses.replace(experiment, algorithm=Shorter(batch_size=10)))
    print(found.runs["run"][0], found.runs["algorithm"][0], found.runs["model_fingerprint"][0])
"""
)


AS_PROGRAMS = """
import os, runpy, sys
import fedray.training.trainer  # torch, once for all
for program in sys.argv[2:]:
    if not os.fork():
        sys.argv[:] = program, sys.argv[1]
        runpy.run_path(program, run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
    assert not os.wait()[1]
"""


def test_a_class_of_a_script_is_known_by_its_source_text(tmp_path, module):
    """Twice the same run, which is played once; another one once the class's text differs, and not where the rest does."""
    written(tmp_path, "fedavg")
    texts = [PROGRAM, PROGRAM + "\n# the end", PROGRAM.replace("shorter by a factor", "a little shorter")]
    programs = [tmp_path / str(number) / "script.py" for number in range(3)]
    for program, text in zip(programs, texts, strict=True):
        program.parent.mkdir()
        program.write_text(text)
    command = [sys.executable, "-c", AS_PROGRAMS, tmp_path / "small.toml", *programs]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    said = [line.split() for line in done.stdout.splitlines() if "__main__" in line]
    assert len(said) == 3
    assert said[0] == said[1]
    assert said[0][0].startswith("__main__.Shorter-seed0-")
    assert said[0][1] == "__main__:Shorter"
    assert said[2][0] != said[0][0]
    assert said[2][2] == said[0][2]


def test_an_unknown_text_is_told_by_what_it_does():
    """As for a class that was typed into a Python which keeps no text."""
    made = []
    for body in ("return grad", "return grad", "return 2 * grad"):
        space = {"FedAvg": FedAvg, "__name__": "__main__"}
        exec(f"class Typed(FedAvg):\n    def correct(self, grad, *rest):\n        {body}", space)
        made.append(content(space["Typed"]))
    assert made[0] == made[1] != made[2]


def test_enrolled_classes_have_no_content_in_their_ids(tmp_path):
    job = Job(small(tmp_path))
    assert job.algorithm_source == ""
    assert_same_tables(run(small(tmp_path / "a")), run(small(tmp_path / "b")))
