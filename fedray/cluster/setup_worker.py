"""The program that a Ray of fedray's own starts for each worker with a runtime_env, in place of Ray's of the same name.

Ray's imports Ray first, half a CPU second for each actor, only to start the shim. This one is the shim at once, and
gives way to Ray's wherever anything else is asked for. Ray knows the program by the name of its file.
"""

import json
import os
import shlex
import sys

import shim  # type: ignore[import-not-found]  # this program's folder is the first of its path

CONTEXT = "--serialized-runtime-env-context="
READ_HERE = (CONTEXT, "--language=")


def nursery_of(context: dict[str, object]) -> str:
    """The path of the nursery's socket where a runtime environment is the shim and nothing else; otherwise empty."""
    words = shlex.split(str(context.pop("py_executable", None) or ""))
    alone = words[-2:-1] == [shim.__file__] and not any(context.values())
    return words[-1] if alone else ""


def main() -> None:
    words = sys.argv[1:]
    contexts = [word.removeprefix(CONTEXT) for word in words if word.startswith(CONTEXT)]
    nursery = nursery_of(json.loads(contexts[0])) if len(contexts) == 1 else ""
    if nursery:
        shim.become_worker(nursery, [word for word in words if not word.startswith(READ_HERE)])
    else:  # beside the worker's program is the one that sets it up
        theirs = os.path.join(os.path.dirname(words[0]), "setup_worker.py")  # noqa: PTH118, PTH120  as in the shim
        os.execv(sys.executable, [sys.executable, theirs, *words])


if __name__ == "__main__":
    main()
