"""Nemotron 3 Nano and Super: the architecture name in GGUF files of Nemotron-H with experts."""

from __future__ import annotations

from collections.abc import Mapping

from pellucid.arch.nemotron_h import block as block
from pellucid.arch.nemotron_h import config as config
from pellucid.folder import Folder

FOLDERS: Mapping[str, Folder] = {}
