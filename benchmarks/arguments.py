"""Argument types of the programs in this folder: an invalid argument is a usage error, before anything is measured."""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentTypeError
from pathlib import Path


def count(text: str) -> int:
    """A number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"{text!r}: expected 1 or more")
    return number


def program(text: str) -> str:
    """A program: a path, or a name that PATH finds."""
    if not shutil.which(text):
        raise ArgumentTypeError(f"{text!r}: expected a program")
    return text


def page(text: str) -> Path:
    """A file into which a table is put."""
    path = Path(text)
    if not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        raise ArgumentTypeError(f"{text!r}: expected a file that can be read and written")
    return path


def target(text: str) -> Path:
    """A file to write, which need not exist yet."""
    path = Path(text)
    found = path if path.exists() else path.parent
    if not text or path.is_dir() or not found.exists() or not os.access(found, os.W_OK):
        raise ArgumentTypeError(f"{text!r}: expected a file that can be written")
    return path


def folder(text: str) -> Path:
    """A folder to write into."""
    path = Path(text)
    if not text or not path.is_dir() or not os.access(path, os.W_OK):
        raise ArgumentTypeError(f"{text!r}: expected a folder that can be written")
    return path
