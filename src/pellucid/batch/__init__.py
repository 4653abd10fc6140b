"""Rows of a file through a model, each exactly once: what `pellucid batch` does.

`source.py` reads rows, `target.py` keeps what was made of them, `tasks.py` turns a row into work and a result into a
line, `run.py` does it.
"""
