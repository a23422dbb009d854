"""What the documents name exists, and the site that is made of them has no dead link and needs nobody else's server."""

import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium import webdriver

from app.settings import ENV_PREFIX, FOR_DEVELOPMENT, Settings
from devstack.diagrams import mermaid_into
from tests import named_in_documents as named
from tests.waiting import wait_until

ROOT = named.ROOT
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md"))
DOCUMENTS = [*sorted(p.name for p in ROOT.glob("*.md")), *PAGES]
DECISIONS = sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
SETTINGS = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | FOR_DEVELOPMENT | {"TRS_LAW_RUNS"}
TARGETS = set(re.findall(r"^([a-z-]+):", named.read("Makefile"), re.MULTILINE))
OTHERS_OPTIONS = {"--only", "--long"}
"""Of `python -m benchmarks`, which documents name without it."""

every_document = pytest.mark.parametrize("name", DOCUMENTS)


@every_document
def test_commands_and_options_that_a_document_names_exist(name: str) -> None:
    text = named.read(name)
    wrong = [f"{line!r}: {fault}" for line, words in named.commands(text) if (fault := named.wrong_with(words))]
    known = named.all_options() | OTHERS_OPTIONS
    assert wrong + [option for option in named.bare_options(text) if option not in known] == []


@every_document
def test_settings_that_a_document_names_exist(name: str) -> None:
    wrong = []
    for setting in named.settings(named.read(name)):
        family = setting.rstrip("*")
        known = setting in SETTINGS if family == setting else any(s.startswith(family) for s in SETTINGS)
        wrong += [] if known else [setting]
    assert wrong == []


@every_document
def test_targets_and_modules_that_a_document_names_exist(name: str) -> None:
    text = named.read(name)
    wrong = [f"make {target}" for target in named.targets(text) if target not in TARGETS]
    places = {m: ROOT / m.replace(".", "/") for m in named.modules(text) if m.partition(".")[0] in named.FOLDERS}
    wrong += [m for m, p in places.items() if not (p.with_suffix(".py").exists() or (p / "__main__.py").exists())]
    assert wrong == []


@every_document
def test_tests_files_and_names_in_files_that_a_document_names_exist(name: str) -> None:
    text = named.read(name)
    wrong = [f"{f}::{t}" for f, t in named.tests(text) if f"\ndef {t}(" not in _content(ROOT / f)]
    wrong += [path for path in named.paths(text) if not (ROOT / path).exists()]
    wrong += [f"{f}, {n}" for f, n in named.names_in_files(text) if not re.search(rf"\b{n}\b", _content(ROOT / f))]
    assert wrong == []


@every_document
def test_links_and_anchors_of_a_document_lead_somewhere(name: str) -> None:
    text = named.read(name)
    wrong = []
    for file, anchor in named.links(text):
        target = (ROOT / name).parent / file if file else ROOT / name
        if not target.exists() or (anchor and anchor not in named.anchors(_content(target))):
            wrong.append(f"{file}#{anchor}")
    assert wrong == []


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("`trs lake fould`", "no command trs lake fould"),
        ("`trs\nlake fold --dispite-checks`", "trs lake fold has no --dispite-checks"),
        ('```sh\nX=1 trs status && trs sql "a --b" \\\n  --format csv --nowhere\n```\n', "trs sql has no --nowhere"),
        ("    .venv/bin/trs demmo  # words\n", "no command trs demmo"),
    ],
)
def test_guard_finds_a_command_that_is_wrong(written: str, fault: str) -> None:
    assert [found for _, words in named.commands(written) if (found := named.wrong_with(words))] == [fault]


def test_guard_finds_each_kind_of_name() -> None:
    text = "`tests/a.py::b` `TRS_A*` TRS_B_C (`app/x.py`, `Y`) `deploy/z.json` `--opt=1` `make A=1 b` "
    text += "`python -m app.q` [t](u.md#v)"
    assert named.tests(text) == [("tests/a.py", "b")]
    assert named.settings(text) == ["TRS_A*", "TRS_B_C"]
    assert named.names_in_files(text) == [("app/x.py", "Y")]
    assert named.paths(text) == ["tests/a.py", "app/x.py", "deploy/z.json"]
    assert (named.bare_options(text), named.targets(text), named.modules(text)) == (["--opt"], ["b"], ["app.q"])
    assert named.links(text) == [("u.md", "v")]
    assert named.anchors("# The `trs` [way](x.md), really\n") == {"the-trs-way-really"}


def test_decision_is_in_the_index_with_its_title() -> None:
    index = named.read("docs/decisions/index.md")
    lines = [f"[{p.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}]({p.name})" for p in DECISIONS]
    assert [line for line in lines if line not in index] == []


def test_page_is_in_the_navigation_or_linked_from_a_page_that_is() -> None:
    nav = tomllib.loads(named.read("zensical.toml"))["project"]["nav"]
    waiting, reached = [f"docs/{page}" for page in _pages_of(nav)], set[str]()
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = (((ROOT / page).parent / file).resolve() for file, _ in named.links(named.read(page)) if file)
        inside = (t.relative_to(ROOT).as_posix() for t in targets if t.is_relative_to(ROOT / "docs"))
        waiting += [target for target in inside if target.endswith(".md")]
    assert [page for page in PAGES if page not in reached] == []


@pytest.mark.parametrize(
    "question",
    [
        "What happens if a worker dies?",
        "How old is what I query?",
        "How do I add a feature?",
        "What does a month of history cost?",
        "How do we switch change data capture on?",
    ],
)
def test_stranger_finds_question_on_the_first_page_and_a_figure_behind_it(question: str) -> None:
    ((page, anchor),) = re.findall(
        rf"\| \[{re.escape(question)}\]\(([a-z_]+\.md)#([a-z-]+)\)", named.read("docs/index.md")
    )
    answers = dict(re.findall(r"^### (.+)\n((?:(?!#).*\n)+)", named.read(f"docs/{page}"), re.MULTILINE))
    assert anchor in named.anchors(f"# {question}\n")
    assert named.links(answers[question])
    assert re.search(r"\d", answers[question])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    config = named.read("zensical.toml").replace('"build/site"', '"site"')
    (folder / "zensical.toml").write_text(config, encoding="utf-8")
    shutil.copytree(ROOT / "docs", folder / "docs")
    mermaid_into(folder / "docs" / "assets")
    build = [Path(sys.executable).with_name("zensical"), "build", "--strict"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_site_has_no_dead_link_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)  # and the one that says that there is no such page
    assert {page.name: found for page in pages if (found := _loaded_from_elsewhere(page))} == {}


def test_diagrams_are_drawn_where_no_other_server_can_be_reached(site: Path, tmp_path: Path) -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    drawn = [page for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text(encoding="utf-8")]
    assert drawn
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = ("headless", "no-sandbox", "disable-gpu", "host-resolver-rules=MAP * ~NOTFOUND")
    for switch in (*switches, f"user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(f"--{switch}")
    # The text of a diagram is a <pre>; what is drawn takes its place as a <div>.
    script = "return ['pre', 'div'].map(tag => document.querySelectorAll(tag + '.mermaid').length)"
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        for page in drawn:
            browser.get(page.as_uri())
            wait_until(partial(_is_drawn, browser, script), timeout_s=30, what=f"{page.name} is drawn")


def _is_drawn(browser: webdriver.Chrome, script: str) -> bool:
    waiting, drawn = browser.execute_script(script)
    return waiting == 0 and drawn > 0


def _pages_of(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    values = nav.values() if isinstance(nav, dict) else nav
    assert not isinstance(values, str | None)
    return [page for value in values for page in _pages_of(value)]


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


class _Loaded(HTMLParser):
    """Addresses that a browser asks for by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        loads = tag in ("script", "img", "iframe", "source", "video") or values.get("rel") in ("stylesheet", "icon")
        self.found += [a for a in (values.get("src"), values.get("href")) if loads and a and "//" in a]


def _loaded_from_elsewhere(page: Path) -> list[str]:
    parser = _Loaded()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found
