"""python later_facts.py GOLDEN      what a later fedray (later.py) makes of the files of 0.3.0 in this folder, as JSON

It runs in a folder with the golden settings files, and their results in results/.
"""

import importlib
import json
import sys
from pathlib import Path

import fedray
from fedray.experiment import read_experiment
from fedray.report.measured import read_settings
from fedray.report.study import make_study
from fedray.results import compare, load, varied
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch

HERE = {"cluster.backend": "in-process"}
IID = {"algorithm": "fedavg", "partition": "iid"}


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def ids(golden):
    """The ids of golden settings, by the golden ids."""
    Path("golden.toml").write_text("")
    found = {}
    for each in json.loads((golden / "run_ids.json").read_text())["ids"]:
        if "own_class" not in each:
            of_parquet = {"data.root": str(golden / "parquet")} if each["settings"]["data.dataset"] == "parquet" else {}
            experiment = read_experiment("golden.toml", {**each["settings"], **of_parquet})
            found[each["id"]] = Job(experiment, writes=False).run
    return found


def other_ids():
    """The ids of one experiment with a newer setting that is not neutral, and the newer settings that are stored."""
    found = {}
    for name, value in (
        ("evaluation.bins", 11), ("protocol.name", "gossip"), ("protocol.period", 0.1), ("algorithm.warm_up", 2),
        ("cluster.zone", "b"), ("seed", 3),
    ):  # fmt: skip
        settings = {"algorithm.name": "fedprox", "partition.name": "iid", name: value}
        job = Job(read_experiment("study.toml", settings), writes=False)
        stored = json.loads(job.settings_json)
        newer = {
            "bins": stored["evaluation"].get("bins"), "protocol": stored.get("protocol"),
            "warm_up": stored["algorithm"].get("warm_up"), "zone": stored["cluster"].get("zone"),
        }  # fmt: skip
        found[name] = [job.run, {key: each for key, each in newer.items() if each is not None}]
    return found


def continued(algorithm):
    """The stopped run of an algorithm, which is played to its end."""
    watch = Noting()
    results = run(read_experiment("stopped.toml", {"algorithm.name": algorithm}), watch)
    return {
        "notices": watch.notices,
        "status": results.runs["status"].tolist(),
        "rounds": results.rounds["round"].tolist(),
        "clipped": results.rounds["clipped"].fillna(-1).tolist(),
        "protocol": results.rounds["protocol"].tolist(),
        "virtual_seconds": results.runs["virtual_seconds"].tolist(),
    }


def refused():
    """The sentence for the stopped run of 0.3.0 with a newer setting that is not neutral, under the golden id."""
    from fedray.run import resume

    there = Job(read_experiment("stopped.toml", {}))
    other = Job(read_experiment("stopped.toml", {"protocol.name": "gossip"}))
    try:
        resume.read_checkpoint(other, there.checkpoint)
    except ValueError as error:
        return str(error)
    return ""


def mixed():
    """The results of 0.3.0 with two runs of the later fedray beside them, one of them not neutral."""
    chosen = {"algorithm.name": "fedavg", "seed": 4, **HERE}
    neutral = run(read_experiment("study.toml", chosen)).runs["run"][0]
    other = run(read_experiment("study.toml", {**chosen, "protocol.name": "gossip"})).runs["run"][0]
    found = load("study")
    names = ["run", "protocol", "protocol.name", "protocol.period", "evaluation.bins", "algorithm.warm_up"]
    rows = found.runs[[*names, "algorithm"]].astype(object).where(found.runs[[*names, "algorithm"]].notna(), None)
    of_rounds = found.rounds.groupby("run")["protocol"].agg(lambda each: sorted(set(each)))
    same = found.runs["run"].isin([neutral, other])
    pairs = {name: getattr(found, name) for name in vars(found)} | {"runs": found.runs[same]}
    return {
        "neutral": neutral,
        "other": other,
        "runs": rows.to_dict("records"),
        "rounds": of_rounds.to_dict(),
        "clipped": {run: each["clipped"].tolist() for run, each in found.rounds.fillna({"clipped": -1}).groupby("run")},
        "varied": varied(found),
        "varied_beside": varied(type(found)(**pairs)),
        "attacks": len(found.attacks),
        "axes": list(make_study("study", found).varied),
        "pairs": compare(found, IID | {"protocol": "rounds"}, IID | {"protocol": "gossip"}, value="train_loss").pairs,
    }


def main(golden):
    sys.path.insert(0, str(golden))
    importlib.invalidate_caches()
    before = load("study")
    facts = {
        "version": fedray.__version__,
        "ids": ids(golden),
        "other_ids": other_ids(),
        "loaded": {"runs": before.runs["virtual_seconds"].isna().all().item(), "varied": varied(before)},
        "refused": refused(),
        "continued": {algorithm: continued(algorithm) for algorithm in ("scaffold", "fedavgm")},
        "mixed": mixed(),
        "digests": {name: read_settings(Path(f"{name}.toml")).digest for name in ("single", "study")},
    }
    Path("facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
