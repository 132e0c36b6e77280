"""README and docs say what is so: their Python runs, their commands are ones that there are, their recipes load.

Python blocks of a page run in order, in one namespace and in a folder with the files that the page speaks of. Bash
blocks run too, with stand-ins for all programs that note what they were given. A block that cannot run here has a
comment on the line before it, which a reader does not see and which says why: <!-- not run: needs COCO -->
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from banet.commands import COMMANDS, GROUPS, find_command
from banet.data.scenes.generate import make_scene
from banet.engine.options import bracketed, load_recipe, parse_options
from banet.engine.recipe import recipe_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "api").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - set(REFERENCE) - set((DOCS / "studies").rglob("*.md")))]
EVERY_PAGE = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *DOCS.rglob("*.md")})
WEIGHTS = ROOT / "banet" / "weights" / "scenes.safetensors"


def name_of(page: Path) -> str:
    """Path of a page from the root: pages of two folders may have one name."""
    return page.relative_to(ROOT).as_posix()


MARK = r"(?:<!-- not run: (?P<reason>\S[^\n]*) -->\n)?"
FENCE = re.compile(MARK + r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
SHOWN = {"", "text", "bibtex"}  # languages of blocks that nobody would run
PROGRAMS = ("banet", "python", "pip", "make", "torchrun", "srun", "tensorboard")

# Names that a page takes as given, since the reader has them.
GIVEN = {
    "README.md": "masks scores labels semantic image categories",
    "docs/how_to/plug_in.md": "torchvision model masks scores classes mask_logits semantic_logits",
}


@dataclass(frozen=True)
class Block:
    """A fenced block. `reason` is why it is not run, None where it is."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], text.count("\n", 0, found.start("code")) + 1, found["reason"])
        for found in FENCE.finditer(text)
    ]


def run_bash(code: str, folder: Path) -> list[list[str]]:
    """Runs a block with bash and gives back the calls of programs, their names first."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        stand_in = programs / name
        stand_in.write_text('#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@" >> "$CALLS"\nprintf "\\n\\0" >> "$CALLS"\n')
        stand_in.chmod(0o755)
    calls.write_text("")
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env={"PATH": str(programs), "CALLS": str(calls), "OUT": "out"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [call.rstrip("\0").split("\0") for call in calls.read_text(encoding="utf-8").split("\0\n\0")[:-1]]


def check_banet(arguments: list[str]) -> None:
    """The parser of the command takes the arguments, and a recipe that is named by its name exists."""
    name = command_of(arguments)
    assert name in COMMANDS, f"no command {name}"
    rest = arguments[len(name.split()) :]
    if "--help" in rest:
        return
    parser = find_command(name).parser(name)
    options = parse_options(parser, bracketed(parser, rest))
    recipe = options.get("config")
    assert recipe is None or recipe.endswith(".yaml") or recipe in recipe_names(), f"no recipe {recipe}"


def command_of(words: list[str]) -> str:
    """The longest command or group that the words begin with."""
    names = (" ".join(words[:count]) for count in (3, 2, 1))
    return next((name for name in names if name in COMMANDS or name in GROUPS), " ".join(words[:1]))


def check_call(program: str, arguments: list[str]) -> None:
    """What a page tells to type is something that there is, as far as it is this project's."""
    words = [program, *arguments]
    if "-m" in words:
        words = words[words.index("-m") + 1 :]
    elif program == "srun":
        words = arguments
    if words[0] == "banet":
        check_banet(words[1:])
    elif program == "python":
        script = ROOT / arguments[0]
        assert script.is_file(), f"no script {arguments[0]}"
        shared = [script.with_name("harness.py")] if script.parent.name == "benchmarks" else []
        text = "".join(path.read_text(encoding="utf-8") for path in [script, *shared])
        unknown = [word for word in arguments[1:] if word.startswith("--") and f'"{word}"' not in text]
        assert not unknown, f"{arguments[0]} does not know {unknown}"
    elif program == "pip":
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        section = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
        known = re.findall(r"^([\w-]+) = \[", section, re.M)
        for word in arguments[1:]:
            named = re.fullmatch(r"(?:\.|banet-panoptic)(?:\[(.*)\])?", word)
            extras = named[1].split(",") if named and named[1] else []
            assert set(extras) <= set(known), f"no such extra: {word}"
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(arguments[0])}:", makefile, re.M), f"no target {arguments[0]}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images and weights that pages speak of."""
    picture = Image.fromarray(make_scene(3, 3).image)
    for name in (
        "street.jpg",
        "photo.jpg",
        "toy/images/0000_000000.png",
        "photos/val/1.png",
        "datasets/coco/test2017/000000000001.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / name)
    for run in ("mine", "coco_dcn101_3x"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "model.safetensors").symlink_to(WEIGHTS)
    (tmp_path / "datasets/coco/annotations").mkdir()
    images = {"images": [{"id": 1, "file_name": "000000000001.jpg", "width": 256, "height": 256}]}
    (tmp_path / "datasets/coco/annotations/image_info_test-dev2017.json").write_text(json.dumps(images))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(names: str) -> dict[str, Any]:
    """What a reader has: a detector's results, a label map, logits, a network."""
    import torch
    import torchvision

    scene = make_scene(3, 3)
    count = len(scene.masks)
    labels = np.array([segment.category_id for segment in scene.segments[:count]])
    detections = {
        "masks": torch.from_numpy(scene.masks[:, None]).float(),
        "scores": torch.linspace(0.7, 0.9, count),
        "labels": torch.from_numpy(labels),
    }
    values = {
        "torchvision": torchvision,
        "model": lambda images: [detections for _ in images],
        "masks": scene.masks,
        "scores": np.linspace(0.7, 0.9, count),
        "labels": labels,
        "semantic": np.array([0, *(segment.category_id for segment in scene.segments)])[scene.ids],
        "image": scene.image,
        "categories": scene.categories,
        "classes": np.zeros(count, dtype=int),
        "mask_logits": np.where(scene.masks, 1.0, -1.0),
        "semantic_logits": np.zeros((1, *scene.ids.shape)),
    }
    return {name: values[name] for name in names.split()}


# --------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_a_page(page: Path, place: Path) -> None:
    namespace = given(GIVEN.get(name_of(page), ""))
    for block in blocks_of(page):
        where = f"{page}:{block.line}"
        try:
            if block.reason is not None:
                check_unrun(block)
            elif block.language == "python":
                exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
            elif block.language == "bash":
                for program, *arguments in run_bash(block.code, place):
                    check_call(program, arguments)
            elif block.language == "yaml":
                (place / "mine.yaml").write_text(block.code, encoding="utf-8")
                load_recipe("mine.yaml")
            else:
                assert block.language in SHOWN, f"nothing is known of {block.language}"
        except Exception as error:
            raise AssertionError(f"{where}: {error}") from error


def check_unrun(block: Block) -> None:
    """A marked block is one that would have been run, and it has no slip of the pen."""
    assert block.language in ("python", "bash"), "only Python and bash are run, so the mark says nothing here"
    if block.language == "python":
        compile(block.code, "block", "exec")
    else:
        subprocess.run(["/bin/bash", "-n", "-c", block.code], check=True, timeout=60)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_and_every_mark_is_seen(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks_of(page)), "a fence is indented, not closed, or names two words"
    marked = sum(block.reason is not None for block in blocks_of(page))
    assert len(re.findall("<!-- *not run", text)) == marked, "a mark stands before no block, or gives no reason"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md"], ids=name_of)
def test_commands_in_sentences_are_ones_that_there_are(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for sentence in re.findall(r"`banet ([a-z][^`]*)`", prose):
        words = shlex.split(sentence)
        name = command_of(words)
        assert name in COMMANDS or name in GROUPS, f"banet {sentence}"
        given_options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
        known = find_command(name).parser(name)._option_string_actions if name in COMMANDS else {}
        assert given_options <= set(known), f"banet {sentence}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("banet evalute scenes", "no command evalute"),
        ("banet predict a.jpg --weight scenes", "--weight: no such option"),
        ("banet train --config coco_r51", "no recipe coco_r51"),
        ("for rule in area best; do\n  banet evaluate w --config scenes_r18 --rule $rule\ndone", "--rule: must be one"),
        ("torchrun --nproc-per-node 8 -m banet train --config coco_r50_1x --bach 32", "--bach: no such option"),
        ("srun banet trian", "no command trian"),
        ("python benchmarks/none.py", "no script"),
        ("python benchmarks/quality.py --date DIR", "does not know"),
        ("pip install 'banet-panoptic[none]'", "no such extra"),
        ("make tests", "no target tests"),
        ("rm -r /tmp/nothing", "command not found"),
    ],
)
def test_wrong_commands_are_noticed(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError), match=re.escape(said)):
        for program, *arguments in run_bash(code, tmp_path):
            check_call(program, arguments)


# ----------------------------------------------------------------------------------------------------------------- site


def pages_in(entries: list[Any]) -> list[str]:
    """Files that a list of mkdocs' navigation names."""
    found: list[str] = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += pages_in(value) if isinstance(value, list) else [value]
    return found


def test_every_page_has_one_place_in_the_site() -> None:
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = {path.relative_to(DOCS).as_posix() for pattern in ("*.md", "*.ipynb") for path in DOCS.rglob(pattern)}
    assert sorted(pages_in(configuration["nav"])) == sorted(there)


def test_what_is_returned_is_one_row_of_the_reference() -> None:
    """With the options of mkdocs.yml, all lines of a Returns section describe one value of the function's type."""
    griffe = pytest.importorskip("griffe")
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    (handlers,) = (p["mkdocstrings"]["handlers"] for p in settings["plugins"] if "mkdocstrings" in p)
    given = handlers["python"]["options"]["docstring_options"]
    options = {name: value == "true" for name, value in given.items()}
    found, wrong = 0, []
    stack = [griffe.load("banet", search_paths=[str(ROOT)])]
    while stack:
        for member in stack.pop().members.values():
            if member.is_alias:
                continue
            if member.is_module or member.is_class:
                stack.append(member)
            for section in member.docstring.parse("google", warnings=False, **options) if member.docstring else ():
                if section.kind.value in ("returns", "yields"):
                    found += 1
                    (row,) = section.value
                    typed = str(row.annotation) in str(getattr(member, "returns", getattr(member, "annotation", None)))
                    lines = [line.strip() for line in row.description.splitlines()]
                    if row.name or not typed or any(line and line not in member.docstring.value for line in lines):
                        wrong.append(member.path)
    assert found > 100 and wrong == []


def test_every_module_is_in_the_reference() -> None:
    named = re.findall(r"^::: (\S+)", "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE), re.M)
    assert len(named) == len(set(named))
    rooms = ("files", "panoptic", "ops", "data", "modeling", "checkpoint", "inference", "composed", "engine", "app")
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in (*rooms, "commands")
        for path in (ROOT / "banet" / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(named) - {"banet", "banet.errors"} == modules


def test_every_public_name_has_a_link_in_the_reference() -> None:
    import banet

    page = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert [name for name in banet.__all__ if f"[`banet.{name}`][" not in page and name != "__version__"] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=name_of)
def test_links_outside_of_the_site_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#\S*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=name_of)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|html|md|toml))`", FENCE.sub("", page.read_text(encoding="utf-8")))
    places = (ROOT, ROOT / "banet", DOCS)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=name_of)
def test_prose_is_wrapped(page: Path) -> None:
    """Tables, code, links that are longer than a line, and images stay as they are."""
    prose = FENCE.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))
    lines = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "#", "!", "<!--"))]
    assert [line for line in lines if " " in re.sub(r"`[^`]*`", "", line[:120]).strip()] == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=name_of)
def test_metrics_of_things_and_stuff_are_typeset(page: Path) -> None:
    """PQ<sup>Th</sup>, as GitHub and the site both show it; code keeps what programs print."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    assert re.findall(r"\b(?:PQ|SQ|RQ|AP|mIoU)[\^ _]?(?:Th|St)\b", prose) == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=name_of)
def test_tables_have_a_head_and_rows(page: Path) -> None:
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    wrong = [
        f"{head} {row}"
        for head, rule, row in zip(lines, lines[1:], [*lines[2:], ""], strict=False)
        if re.fullmatch(r"\|[\s:|-]+\|", rule) and not all(re.search(r"\w", line) for line in (head, row))
    ]
    assert wrong == []


# ----------------------------------------------------------------------------------------------------------------- tour


def test_the_tour_is_kept_without_results() -> None:
    cells = json.loads((DOCS / "tutorials" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len(code) >= 8


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(DOCS / "tutorials" / "tour.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
def test_the_figures_of_the_method_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["method.py", "--out", str(tmp_path)])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    runpy.run_path(str(DOCS / "figures" / "method.py"), run_name="__main__")
    shown = set(
        re.findall(r"images/(method_\w+\.png)", (DOCS / "explanation" / "method.md").read_text(encoding="utf-8"))
    )
    assert {path.name for path in tmp_path.iterdir()} == shown
    for name in shown:
        with Image.open(tmp_path / name) as new, Image.open(DOCS / "images" / name) as kept:
            assert new.size == kept.size
