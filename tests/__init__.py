"""Tests of Pellucid, one folder per area. They are a package so that test files can share helpers."""
