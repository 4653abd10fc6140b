"""What a release depends on: the tag's check, recipes that ask for what the package needs, workflows that pin."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml  # gguf needs it

import pellucid

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def release(tag: str, root: Path) -> str:
    """What packaging/release.py says about a tag; "" if it may be released."""
    done = subprocess.run([sys.executable, root / "packaging/release.py", tag], capture_output=True, text=True)
    assert (done.returncode == 0) == (not done.stderr), done.stderr
    return done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("packaging", "src/pellucid"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "packaging/release.py").write_bytes((ROOT / "packaging/release.py").read_bytes())
    (tmp_path / "src/pellucid/__init__.py").write_text('"""Pellucid."""\n__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.2.0 (2027-01-31)\n\n- More.\n\n## 1.1.0 (2026-12-01)\n\n- A.\n"
    )
    return tmp_path


def test_a_tag_that_may_be_released(project: Path) -> None:
    assert release("v1.2.0", project) == ""


@pytest.mark.parametrize(
    "tag, changelog, says",
    [
        ("v1.1.0", "## 1.2.0 (2027-01-31)\n\n- More.\n", "the tag is v1.1.0 and the version 1.2.0"),
        ("1.2.0", "## 1.2.0 (2027-01-31)\n\n- More.\n", "the tag is 1.2.0 and the version 1.2.0"),
        ("v1.2.0", "## 1.1.0 (2027-01-31)\n\n- More.\n", "no section `## 1.2.0"),
        ("v1.2.0", "## 1.2.0 (unreleased)\n\n- More.\n", "gives 1.2.0 as (unreleased), expected the date"),
        ("v1.2.0", "## 1.2.0 (2027-01-31)\n\n## 1.1.0 (2026-12-01)\n\n- A.\n", "section on 1.2.0 is empty"),
    ],
)
def test_a_tag_that_may_not(project: Path, tag: str, changelog: str, says: str) -> None:
    (project / "CHANGELOG.md").write_text(changelog)
    assert says in release(tag, project)


def test_the_version_is_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"] and "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pellucid.__version__"}
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", changelog, re.M)
    assert newest and newest[1] == pellucid.__version__


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_actions_are_named_by_a_commit(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d[\d.]*", one) for one in used), used


def test_one_commit_for_each_action() -> None:
    named: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, commit in re.findall(r"uses: ([\w./-]+)@(\S+)", path.read_text()):
            named.setdefault(name, set()).add(commit)
    assert {name: commits for name, commits in named.items() if len(commits) > 1} == {}


def test_publishing_can_be_repeated() -> None:
    """After a failure at any step of it: the release's page comes last, and each step accepts what is there already."""
    steps = yaml.safe_load((ROOT / ".github/workflows/wheels.yml").read_text())["jobs"]["publish"]["steps"]
    (upload,) = [i for i, step in enumerate(steps) if "pypi-publish" in step.get("uses", "")]
    assert steps[upload]["with"] == {"attestations": True, "skip-existing": True}
    (page,) = [i for i, step in enumerate(steps) if "gh release" in step.get("run", "")]
    assert page > upload
    command = " ".join(steps[page]["run"].split())
    assert command.startswith('gh release view "$GITHUB_REF_NAME" || gh release create "$GITHUB_REF_NAME" --verify')
    assert command.endswith(" dist/*.whl dist/*.tar.gz sbom/*")  # without the attestations that the upload leaves


def test_recipes_follow_the_project() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text()
    needs = re.findall(r"^    - ([\w-]+) >=(\S+)$", recipe.partition("  run:")[2], re.M)
    assert sorted(f"{name}>={least}" for name, least in needs) == sorted(project["dependencies"])
    assert f'version: "{pellucid.__version__}"' in recipe
    assert project["requires-python"] == ">=" + re.findall(r'python_min: "(.*)"', recipe)[0]
    debian = ROOT / "packaging/debian"
    assert (debian / "changelog").read_text().startswith(f"pellucid ({pellucid.__version__}-1) ")
    control = (debian / "control").read_text()
    for need in project["dependencies"]:
        name, _, least = need.partition(">=")
        assert re.search(rf" python3-{name} \(>= (\d+:)?{re.escape(least)}\)", control), need  # perhaps with an epoch
    for need in settings["build-system"]["requires"]:
        name, _, least = need.partition(">=")
        assert f"    - {name} >={least}\n" in recipe
        assert re.search(rf" (python3-{name}|{name}3) \(>= {re.escape(least)}\)", control), need


def test_the_recipes_name_files_that_exist() -> None:
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text()
    licences = re.findall(r"^    - ([\w./]+)$", recipe.partition("  license_file:")[2], re.M)
    assert len(licences) == 2 and all((ROOT / path).is_file() for path in licences)
    copyright = (ROOT / "packaging/debian/copyright").read_text()
    files = re.findall(r"^Files: ([^*\s]+)$", copyright, re.M)
    bundled = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src/pellucid/page/static/vendor").glob("*.js")}
    assert set(files) == bundled != set()
