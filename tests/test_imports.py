"""The import graph, and the names that a package gives without importing what they need."""

import ast
import graphlib
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import grimp
import pytest

import fedray

PACKAGES = ["fedray", *(found.name for found in pkgutil.walk_packages(fedray.__path__, "fedray.") if found.ispkg)]
LAZY = [name for name in PACKAGES if "__getattr__" in vars(import_module(name))]
FACE = {
    "__version__": "fedray.core.version.__version__",
    "ConsoleWatch": "fedray.cli.console.ConsoleWatch",
    "FedAvg": "fedray.algorithms.fedavg.FedAvg",
    "load": "fedray.results.load",
    "read_experiment": "fedray.experiment.read_experiment",
    "section": "fedray.settings.section",
    "session": "fedray.run.session.session",
    "setting": "fedray.settings.setting",
    "simulate": "fedray.run.run",
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("fedray", exclude_type_checking_imports=False, cache_dir=None)


def test_no_module_imports_itself_by_way_of_others(graph):
    """Imports for types alone count."""
    modules = graph.modules
    arrows = {module: graph.find_modules_directly_imported_by(module) & modules - {module} for module in modules}
    assert sum(map(len, arrows.values())) > len(modules) > 100
    graphlib.TopologicalSorter(arrows).prepare()  # CycleError names the circle


def test_no_room_asks_the_face(graph):
    """What it gives would be an import upwards."""
    assert not graph.find_modules_that_directly_import("fedray")


def test_import_fedray_imports_no_library():
    program = "import sys, fedray; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "fedray" in said.split()
    assert not {"numpy", "pandas", "pyarrow", "pydantic", "ray", "rich", "torch"} & set(said.split())


def test_fedray_gives_what_a_first_script_needs():
    assert sorted(fedray.__all__) == sorted(FACE)
    for name, path in FACE.items():
        module, _, attribute = path.rpartition(".")
        assert getattr(fedray, name) is getattr(import_module(module), attribute)


def test_everything_from_fedray():
    names: dict[str, object] = {}
    exec("from fedray import *", names)
    assert set(names) - {"__builtins__"} == set(FACE)
    assert names["load"] is fedray.load


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_name_is_what_type_checkers_take_it_for(package):
    module = import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    (types,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    declared = {alias.asname or alias.name: (node.module, alias.name) for node in types.body for alias in node.names}
    assert set(declared) == set(module.__all__) - {"__version__"} <= set(dir(module))
    for name, (where, original) in declared.items():
        assert getattr(module, name) is getattr(import_module(where), original)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_submodule_is_called_what_its_package_gives(package):
    """The submodule would replace it, once imported."""
    module = import_module(package)
    public = {name for name, value in vars(module).items() if not isinstance(value, ModuleType)}
    given = {name for name in {*public, *getattr(module, "__all__", ())} if not name.startswith("_")}
    assert not given & {found.name for found in pkgutil.iter_modules(module.__path__)}


@pytest.mark.parametrize("package", LAZY)
def test_an_unknown_name_is_refused_as_pythons_own(package):
    with pytest.raises(AttributeError, match=rf"^module '{package}' has no attribute 'nothing'$"):
        import_module(package).nothing  # noqa: B018
    assert not hasattr(import_module(package), "nothing")
