"""The program `python -m fedray.data`, which is another name of `python -m fedray.partition`."""

import runpy

runpy.run_module("fedray.partition", run_name="__main__", alter_sys=True)
