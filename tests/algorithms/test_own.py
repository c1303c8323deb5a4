"""Algorithms of the user's own: by address, or handed over as a class; tried before anything is written."""

import dataclasses
import importlib
import linecache
import subprocess
import sys
import types

import pytest
from small_runs import assert_same_tables, small

from fedray import results
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import options, read_command_line
from fedray.core.errors import BadInputError
from fedray.core.own_classes import content
from fedray.experiment import read_experiment
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.sweep.__main__ import main as sweep

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
    assert tables.runs["algorithm_source_fingerprint"][0] == content(kind, "algorithm.name")
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
    before = content(kind, "algorithm.name")
    path.write_text(TEXT + "# edited\n")
    assert content(kind, "algorithm.name") == before
    assert content(importlib.reload(sys.modules[name]).Shorter, "algorithm.name") != before


def test_content_is_what_the_class_is_made_of(module):
    kind = importlib.import_module(module[0]).Shorter

    class Below(kind):
        pass

    class Beside(FedAvg):
        pass

    assert len({content(each, "algorithm.name") for each in (kind, Below, Beside)}) == 3
    assert content(kind, "algorithm.name") == content(
        importlib.import_module(module[0]).Plain, "algorithm.name"
    )  # of one file


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


def test_a_class_without_a_source_is_refused(tmp_path):
    """One that was typed into a Python which keeps no text, or made by `exec`; its text could not tell an edit."""
    space = {"FedAvg": FedAvg, "__name__": "__main__"}
    exec("class Typed(FedAvg):\n    def correct(self, grad, *rest):\n        return grad", space)
    experiment = dataclasses.replace(written(tmp_path, "fedavg"), algorithm=space["Typed"]())
    said = "^algorithm.name = __main__:Typed: Python keeps no source text of this class, [^.]*$"
    with pytest.raises(BadInputError, match=said):
        run(experiment)
    assert not (tmp_path / "results").exists()


HALVES = '''
from typing import ClassVar

import numpy as np

from fedray.settings import section


@section
class Halves:
    """The examples in their order, each client the same number."""

    name: ClassVar[str] = "halves"

    def split(self, labels, clients, seed):
        return np.array_split(np.arange(len(labels)), clients)
'''
MEDIAN = """
import numpy as np

from fedray.server.aggregators import Aggregator


class Median(Aggregator):
    name = "median"

    def aggregate(self, updates, denominator=None):
        return {name: np.median([each[name] for each in updates.each], axis=0) for name in updates.each[0]}
"""
TURNED = """
from fedray.data.skew import Skew
from fedray.settings import section


@section
class Turned(Skew):
    def apply(self, images, seed, client, clients, drawn=0):
        return images[..., ::-1]
"""
OTHERS = {
    "partition": ("Halves", HALVES, "np.arange(len(labels))", "np.arange(len(labels))[::-1]"),
    "aggregator": ("Median", MEDIAN, "np.median", "np.mean"),
    "skew": ("Turned", TURNED, "[..., ::-1]", "[..., ::-1, :]"),
}


@pytest.mark.parametrize("section", OTHERS)
@pytest.mark.parametrize("place", ["file", "cell"])
def test_an_edit_of_any_own_class_is_another_run(tmp_path, module, cell, section, place):
    kind, text, old, new = OTHERS[section]
    plain = written(tmp_path, "fedavg")

    def job():
        return Job(dataclasses.replace(plain, **{section: getattr(made, kind)()}))

    def make(text):
        if place == "cell":
            return cell(text)
        module[1].write_text(text)
        return importlib.reload(importlib.import_module(module[0]))

    assert text.replace(old, new) != text
    made = make(text)
    first = job()
    assert len({first.run, Job(plain).run}) == 2
    made = make(text.replace(old, new))
    assert job().run != first.run and list(job().own_code) == [section]
    made = make(text)
    assert job().run == first.run


@pytest.fixture
def cell(monkeypatch):
    """A function that runs text as a notebook's cell does: in `__main__`, with its lines in `linecache` alone."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)

    def run_cell(text):
        name = f"<cell {len(linecache.cache)}>"
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
        exec(compile(text, name, "exec", dont_inherit=True), main.__dict__)
        return main

    return run_cell


def test_a_cell_is_known_by_the_text_of_its_class_and_of_its_bases(tmp_path, cell):
    """By the text alone: not by what is around it, nor, where it has no methods, by what pickles of it."""
    head = "from fedray.algorithms.fedavg import FedAvg\n"
    texts = {
        "base": "class Base(FedAvg):\n    name = 'base'\n    table = {'a': object()}\n",
        "kind": "class Kind(Base):\n    def correct(self, grad, *rest):\n        return grad\n",
    }

    def run_of(**changed):
        for text in (texts | changed).values():
            made = cell(head + text)
        return Job(dataclasses.replace(written(tmp_path, "fedavg"), algorithm=made.Kind())).run

    first = run_of()
    assert run_of() == first == run_of(kind=texts["kind"] + "\nunrelated = 3\n")
    assert (
        len({first, run_of(base=texts["base"].replace("'a'", "'b'")), run_of(kind=texts["kind"] + "    x = 1\n")}) == 3
    )


def test_a_class_of_a_file_counts_with_its_bases_and_as_it_was_when_it_was_made(tmp_path, module):
    """Edited after its import and before its first run, the old class plays: its id is that of the old file."""
    name, path = module
    mixin = path.with_name(f"{name}_mixin.py")
    mixin.write_text("class Mixin:\n    strength = 1\n")
    text = f"from {mixin.stem} import Mixin\n" + TEXT.replace("class Plain(FedAvg)", "class Plain(Mixin, FedAvg)")
    path.write_text(text)
    first = Job(written(tmp_path, f"{name}:Plain")).run
    for each in (name, mixin.stem):
        sys.modules.pop(each)
    stale = importlib.import_module(name).Plain
    mixin.write_text("class Mixin:\n    strength = 2\n")
    plain = written(tmp_path, "fedavg")
    assert Job(dataclasses.replace(plain, algorithm=stale(batch_size=10))).run == first
    importlib.reload(sys.modules[mixin.stem])
    fresh = importlib.reload(sys.modules[name]).Plain
    assert Job(dataclasses.replace(plain, algorithm=fresh(batch_size=10))).run != first
    sys.modules.pop(mixin.stem)


def test_methods_that_are_replaced_in_place_are_an_edit(tmp_path, module):
    """As IPython's autoreload does it, so that a class which was imported by name is the new one, too."""
    name, path = module
    kind = importlib.import_module(name).Shorter
    before = content(kind, "algorithm.name")
    path.write_text(TEXT.replace("self.factor * grad", "2 * self.factor * grad"))
    new = importlib.reload(sys.modules[name]).Shorter
    assert content(kind, "algorithm.name") == before
    kind.correct = new.correct
    assert content(kind, "algorithm.name") == content(new, "algorithm.name") != before


def test_a_function_that_makes_classes_makes_different_ones(tmp_path):
    def make(strength):
        class Made(FedAvg):
            def correct(self, grad, params, message, memory, lr):
                return strength * grad

        return Made

    ids = [Job(dataclasses.replace(written(tmp_path, "fedavg"), algorithm=make(each)())).run for each in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_a_setting_that_is_no_plain_value_is_refused(tmp_path, module):
    name, path = module
    text = TEXT.replace("factor: float = setting(0.5, ", "factor: object = setting(print, ")
    path.write_text(text.replace(", gt=0, le=1)", ")"))
    with pytest.raises(BadInputError, match=r"algorithm.factor = <built-in function print> is not a plain value"):
        written(tmp_path, f"{name}:Shorter")


class Bare:
    name = "bare"

    def split(self, labels, clients, seed):
        return []


def test_a_class_that_is_no_section_is_refused(tmp_path):
    with pytest.raises(ValueError, match="partition = test_own:Bare has no settings; declare it with @section"):
        dataclasses.replace(written(tmp_path, "fedavg"), partition=Bare())


class Heard(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def test_one_line_names_the_run_that_was_played_before_the_edit(tmp_path, module, caplog):
    """Also where `run` has no watch: Python then shows it as a warning of `logging`, as it does that nothing is played."""
    name, path = module
    settings = {"model__name": "logistic", "rounds": 1}
    first = run(written(tmp_path, f"{name}:Shorter", **settings)).runs["run"][0]
    run(written(tmp_path, f"{name}:Shorter", algorithm__factor=0.25, **settings))
    assert caplog.messages == []
    run(written(tmp_path, f"{name}:Shorter", **settings))
    assert caplog.messages == [f"run {first} was finished before and is not repeated"]
    caplog.clear()
    path.write_text(TEXT.replace("self.factor * grad", "2 * self.factor * grad"))
    second = run(written(tmp_path, f"{name}:Shorter", **settings)).runs["run"][0]
    said = f"{name}:Shorter was edited since run {first}, so that run {second} is another one"
    assert caplog.messages == [said]
    assert first != second
    path.write_text(TEXT.replace("self.factor * grad", "3 * self.factor * grad"))
    heard = Heard()
    third = run(written(tmp_path, f"{name}:Shorter", **settings), heard).runs["run"][0]
    assert heard.notices == [f"{name}:Shorter was edited since run {second}, so that run {third} is another one"]
    heard.notices.clear()
    run(written(tmp_path, f"{name}:Shorter", **settings), heard)
    assert heard.notices == []


def test_a_sweep_tells_of_an_edit_once(tmp_path, module, capsys):
    name, path = module
    (tmp_path / "small.toml").write_text(
        TOML.replace("NAME", f"{name}:Shorter").replace("ROOT", str(tmp_path / "results"))
    )
    words = [str(tmp_path / "small.toml"), "--grid", "seed=0,1", "--model.name", "logistic", "--rounds", "1"]
    assert sweep(words) == 0
    assert "edited" not in capsys.readouterr().out
    path.write_text(TEXT.replace("self.factor * grad", "2 * self.factor * grad"))
    assert sweep(words) == 0
    said = capsys.readouterr().out
    assert said.count(f"note      {name}:Shorter was edited since run ") == 1
    assert len(results.load("small", tmp_path / "results").runs) == 4


def test_enrolled_classes_have_no_content_in_their_ids(tmp_path):
    job = Job(small(tmp_path))
    assert job.algorithm_source == ""
    assert_same_tables(run(small(tmp_path / "a")), run(small(tmp_path / "b")))
