"""The program `python -m fedray.results`, which is another name of `python -m fedray.inventory`."""

import runpy

runpy.run_module("fedray.inventory", run_name="__main__", alter_sys=True)
