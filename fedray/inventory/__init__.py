"""python -m fedray.results list lr status=failed      lists, shows, removes and archives the runs on disk"""
