"""Runs the rows of a file through a model, each exactly once: what `pellucid batch` does.

`source.py` reads rows, `target.py` writes their results, `tasks.py` turns a row into work and a result into a line,
`run.py` runs it all.
"""
