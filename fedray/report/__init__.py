"""python -m fedray.report results/NAME      one page for what runs left there, and its figures for papers

`study` says what is compared, `answer` and the `*_figures` modules say it in words, a table and charts, `page` sets it.
Altair and pandas are imported here alone, so that a run starts without them.
"""
