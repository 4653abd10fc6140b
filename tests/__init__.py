"""Tests of Pellucid, a folder per area; a package so that test files can share helpers."""
