"""A later fedray, made from this one by a few edits of its text: it has more settings, sections, columns and tables."""

import shutil
from pathlib import Path

import fedray

EXPERIMENT, SCHEMA, JOB = "experiment/experiment.py", "results/schema.py", "run/run_columns.py"
EDITS = [
    # (file in fedray/, what stands there once, what is put behind it)
    ("core/newer.py", "NEWER: dict[str, Newer] = {", '''
    "evaluation.bins": Newer(10),
    "protocol.name": Newer("rounds"),
    "protocol.period": Newer(0.0),
    "algorithm.warm_up": Newer(0, only=("fedprox",)),
    "cluster.zone": Newer(None),
    '''),
    ("experiment/evaluation.py", '''    every: int = setting(1, "Evaluate after every so many rounds, and after the last.", unit="rounds", ge=1)
''', '''    bins: int = setting(10, "Bins of the calibration.", ge=1)
'''),
    (EXPERIMENT, "    skew: Skew = Skew()\n", "    protocol: Protocol = Protocol()\n"),
    (EXPERIMENT, "from fedray.server.participation import Faults\n", '''

@section
class Protocol:
    name: Literal["rounds", "gossip"] = setting("rounds", "Who talks to whom.")
    period: float = setting(0.0, "How often.", ge=0)

'''),
    ("algorithms/fedprox.py", 'name: ClassVar[str] = "fedprox"\n', '''
    warm_up: int = setting(0, "Rounds without the term.", ge=0)
'''),
    ("cluster/settings.py", "class Cluster:\n", '''    zone: Maybe[str] = setting(None, "Where it runs.")
'''),
    (SCHEMA, '"weighting": STRING,\n', '    "protocol": STRING,\n'),
    (SCHEMA, 'REPEATS = {\n', '    "protocol": "protocol.name",\n'),
    (SCHEMA, '"best_round": INT,\n', '        "virtual_seconds": FLOAT,\n'),
    (SCHEMA, '"update_norm": FLOAT,\n', '        "clipped": INT,\n'),
    (SCHEMA, '    "metrics": {"round": INT, "name": STRING, "value": FLOAT},\n', '    "attacks": {"round": INT, "kind": STRING},\n'),
    (SCHEMA, 'BY_ROUND = (', '"attacks", '),
    ("results/frames.py", '    events: "pd.DataFrame"\n', '    attacks: "pd.DataFrame"\n'),
    (JOB, '"weighting": a.weighting,\n', '        "protocol": e.protocol.name,\n'),
    (JOB, '"rounds_planned": job.experiment.rounds,\n', '        "virtual_seconds": 1.5,\n'),
    ("run/round_rows.py", '"update_norm": norm(done.delta),\n', '        "clipped": 3,\n'),
    ("core/version.py", '__version__ = "', "9."),
]  # fmt: skip


def make_later(folder: Path) -> Path:
    """The later fedray in a folder, which goes onto a Python path."""
    package = Path(fedray.__file__).parent
    shutil.copytree(package, folder / "fedray", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in EDITS:
        path = folder / "fedray" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands in {file} {text.count(old)} times"
        path.write_text(text.replace(old, old + new))
    if "Maybe" not in (settings := folder / "fedray/cluster/settings.py").read_text().partition("class Cluster")[0]:
        settings.write_text(settings.read_text().replace("import Auto,", "import Auto, Maybe,"))
    return folder
