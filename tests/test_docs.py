"""What the documents show works: examples run, recipes parse, commands and links exist, every method has its page."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from decoct.cli import app
from decoct.method import all_methods
from decoct.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(page: Path, kind: str) -> list[str]:
    return [body for info, body in FENCE.findall(page.read_text(encoding="utf-8")) if info == kind]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def having(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", [page for page in PAGES if fences(page, kind)], ids=name)


@having("python")
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples of a page, one after the other, as a reader would."""
    monkeypatch.chdir(tmp_path)
    example = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)
    for code in fences(page, "python"):
        exec(compile(code, str(page), "exec", dont_inherit=True), vars(example))


@having("toml")
def test_recipes_parse(page: Path) -> None:
    for text in fences(page, "toml"):
        assert Recipe.parse(text, page).methods()


@having("sh")
def test_commands_exist(page: Path) -> None:
    """Each `decoct` line names a command and options that it has."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"^(?:accelerate .* -m )?decoct (.*)", "\n".join(fences(page, "sh")), re.MULTILINE)
    for command, *words in (shlex.split(line, comments=True) for line in shown):
        assert command in commands, command
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, (command, words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            path = (page.parent / target).resolve()
            assert path.exists(), f"{name(page)} links to {target}"


def test_every_method_has_its_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert pages == set(all_methods())
    index = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert all(f"methods/{method}.md" in index for method in pages)
