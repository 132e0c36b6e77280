"""Files that only other programs read: workflows, issue forms, hubconf.py, the Dockerfile, the list of the sdist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from banet.commands import find_command

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_there_is(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"}, "more than reading is granted job by job"
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 120
        needed = [job["needs"]] if isinstance(job.get("needs", []), str) else job.get("needs", [])
        assert set(needed) <= set(content["jobs"])
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])
        for word in re.findall(r"(?:\./|\.ci/|examples/|benchmarks/|tests/)[\w./-]+", step.get("run", "")):
            assert (ROOT / word).exists(), word
        for name in step.get("with", {}).get("cache-dependency-path", "").split():
            assert (ROOT / name).is_file(), name


def test_ci_is_the_script_that_runs_locally() -> None:
    assert ".ci/run" in [step.get("run") for step in steps(ROOT / ".github" / "workflows" / "ci.yml")]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_a_release_is_published_without_a_token() -> None:
    path = ROOT / ".github" / "workflows" / "release.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert content["jobs"]["publish"]["environment"] == "pypi"
    assert all("permissions" not in job for name, job in content["jobs"].items() if name != "publish")
    assert "secrets." not in path.read_text(encoding="utf-8")
    built = " ".join(step.get("run", "") for step in content["jobs"]["build"]["steps"])
    backend = re.search(r'requires = \["(.*?)"\]', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert backend is not None and backend[1] in built and "hatchling build" in built


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_a_form_needs(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_hubconf_loads_the_bundled_weights() -> None:
    torch = pytest.importorskip("torch")
    model = torch.hub.load(str(ROOT), "banet", source="local", weights="scenes")
    assert type(model).__name__ == "BANet" and not model.training
    with pytest.raises(ValueError, match="no-such-weights"):
        torch.hub.load(str(ROOT), "banet", source="local", weights="no-such-weights")


def test_hubconf_names_what_must_be_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("\ndependencies = [\n")[1].split("\n]")[0]
    distributions = re.findall(r'^ +"([\w-]+)', section, re.M)
    named = re.search(r"dependencies = (\[.*?\])", (ROOT / "hubconf.py").read_text(encoding="utf-8"))
    assert named is not None
    modules = {"pillow": "PIL", "PyYAML": "yaml"}
    assert sorted(json.loads(named[1])) == sorted(modules.get(name, name) for name in distributions)


def test_the_dockerfile_serves_the_page_as_a_user_without_privileges() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    of = {name: [rest for other, rest in instructions if other == name] for name, _ in instructions}
    assert of["FROM"] == ["python:3.11-slim"]
    copied = {source.removeprefix("./") for line in of["COPY"] for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied == {line[1:] for line in kept if line.startswith("!")}, "the rest is not sent to the builder"
    names = [name for name, _ in instructions]
    assert of["USER"] == ["banet"] and names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]
    program, *arguments = json.loads(of["ENTRYPOINT"][0]) + json.loads(of["CMD"][0])
    command = find_command("app").parse("app", arguments[1:])
    assert (program, arguments[0]) == ("banet", "app")
    assert str(command.port) == of["EXPOSE"][0] and command.host == "0.0.0.0"


def test_the_sdist_has_every_tracked_folder_that_the_docs_speak_of() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    included = re.findall(r'"/([\w./-]+)"', project.split("[tool.hatch.build.targets.sdist]")[1].split("]\n")[0])
    assert all((ROOT / name).exists() for name in included)
    assert {"examples", "benchmarks", "docs", "tests", "hubconf.py", "CONTRIBUTING.md", "Dockerfile"} <= set(included)
