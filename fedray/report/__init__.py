"""python -m fedray.report results/NAME      one page about all runs there, and its figures for papers

`study` groups the runs into configurations. `answer` and the `*_figures` modules compare them in words, a table and
charts. `page` makes the HTML, and `latex` the table for papers. `measured` says whether the answer in an experiment's
header is that of these runs, and `labels` has the user's names for configurations. Altair is imported in this folder
alone, so a run starts without it.
"""
