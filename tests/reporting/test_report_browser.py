"""The report in a real browser: Chromium, headless, from file://, without a network."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from finemem_jax.reporting.report import write_report
from tests.reporting import runs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
# Clicks and expectations wait for what they are about; on a busy machine that may take long.
MILLISECONDS = 180_000
playwright.expect.set_options(timeout=MILLISECONDS)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=MILLISECONDS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run whose every text is nasty; three questions an episode, of which the first is answered wrongly."""
    return write_report(runs.write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def visit(browser):
    """visit(path, width=…, …) -> a page; at the end no page has asked the network for anything or logged an error."""
    problems, pages = [], []

    def open_page(path, *, width=1440, scheme="light", fragment=""):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(MILLISECONDS)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url),
        )
        page.goto(f"file://{path}{fragment}")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []


def expect_place(page, fragment: str) -> None:
    """Waits until the address ends in it. Not by a script: waiting for one evaluates text, which the page forbids."""
    playwright.expect(page).to_have_url(re.compile(f"{fragment}$"))


def test_it_opens_with_its_sections(visit, report):
    page = visit(report)
    assert page.locator("#verdict").inner_text().startswith("Held-out accuracy went from 0.250 to 0.500")
    assert page.locator("#table tbody tr").count() == 5
    assert page.locator("#charts figure").count() >= 5
    assert page.locator("#phases span").first.inner_text() == "rollout"
    page.locator("#charts details summary").first.click()
    rows = page.locator("#charts details table").first.locator("tbody tr")
    playwright.expect(rows).to_have_count(2)  # evaluations before and after


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(visit, report, width, scheme, tmp_path):
    for fragment in ("", "#g0", "#g5"):
        page = visit(report, width=width, scheme=scheme, fragment=fragment)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        inside = page.evaluate(
            """() => [...document.querySelectorAll("main section > *")].filter((node) => {
                 const box = node.getBoundingClientRect();
                 return box.width && (box.left < -0.5 || box.right > innerWidth + 0.5);
               }).map((node) => node.id || node.className)"""
        )
        assert inside == []
        shot = page.screenshot(path=str(tmp_path / "shot.png"))
        assert len(shot) > 10_000  # something was drawn
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert dark == (scheme == "dark")


def test_text_is_shown_as_text(visit, report):
    page = visit(report, fragment="#g0")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#episode b b, #episode i i, h1 b").count() == 0
    assert page.locator("h1").evaluate("node => node.textContent") == f"run {runs.NASTY}"
    chunk = page.locator("#episode .chunk").first
    assert chunk.evaluate("node => node.textContent") == f"chunk 0 of episode 0 {runs.NASTY}"
    # The mark that reverses is named, and what it reverses ends with it: the text after stands to the right of it.
    assert chunk.locator("[data-mark='U+202E']").count() == 1
    assert page.locator("#list a small").first.inner_text().endswith("pubmed <i>")


def test_the_explorer_shows_steps_operations_and_rewards_of_all_samples(visit, report):
    page = visit(report, fragment="#g4")  # the first recorded training step
    assert page.locator("#episode thead th b").all_inner_texts() == [f"sample {s}" for s in range(4)]
    cell = page.locator("#g4c1t2")
    assert "INSERT fact 2 of 0" in cell.inner_text().replace("\n", " ")
    bars = dict(
        zip(cell.locator(".bars span").all_inner_texts(), cell.locator(".bars output").all_inner_texts(), strict=True)
    )
    record = json.loads((report.parent / "rollouts.jsonl").read_text("utf-8").splitlines()[0])["samples"][1]
    assert bars["format ×1"] == f"{record['rewards']['format'][2]:.3f}"
    assert bars["advantage"] == f"{record['advantage'][2]:.3f}"
    missing = page.locator("#g4c0t1")  # its chunk questions could not be answered
    assert missing.locator(".bars output").all_inner_texts()[list(bars).index("chunk_qa ×0.5")] == "–"
    assert "Questions about this chunk" in missing.inner_text()
    cell.locator("details summary", has_text="unchanged").click()
    playwright.expect(cell.locator("details[open]")).to_contain_text("fact 1 of 0")  # filled as it opens
    page.locator("#episode .columns input").nth(0).uncheck()
    assert page.locator("#episode thead th b").all_inner_texts() == [f"sample {s}" for s in range(1, 4)]


def test_a_retrieved_item_links_to_the_step_that_wrote_it(visit, report):
    page = visit(report, fragment="#g1")
    link = page.locator("#episode a[data-item='#2']").nth(2)  # column 2, "after T=1"
    assert link.inner_text() == "step 1 #2"
    link.click()
    expect_place(page, "#g1c2t1")
    cell = page.locator("#g1c2t1")
    playwright.expect(cell).to_have_class("here")
    assert cell.locator(".hit").get_attribute("data-item") == "#2"
    assert page.evaluate("document.activeElement.id") == "g1c2t1"
    box = cell.bounding_box()
    assert 0 <= box["y"] < 900
    page.go_back()
    expect_place(page, "#g1")


def test_filters_filter(visit, report):
    page = visit(report)
    count = page.locator("#count")
    assert count.inner_text() == "27 questions in 9 of 9 episodes match."
    page.select_option("[name=where]", "held-out")
    assert count.inner_text() == "12 questions in 4 of 9 episodes match."
    page.select_option("[name=answers]", "wrong")  # after training only the first question of each is wrong
    assert count.inner_text() == "4 questions in 4 of 9 episodes match."
    page.select_option("[name=policy]", "before T=1")
    assert count.inner_text() == "12 questions in 4 of 9 episodes match."
    page.select_option("[name=source]", "squad")
    assert count.inner_text() == "6 questions in 2 of 9 episodes match."
    page.fill("#search", "what is 1 of 2")
    assert count.inner_text() == "1 questions in 1 of 9 episodes match."
    asked = page.locator("#episode tr.lead", has_text="expected:")
    assert asked.count() == 1 and "what is 1 of 2?" in asked.inner_text()
    page.uncheck("[name=only]")
    assert asked.count() == 3
    page.select_option("[name=answers]", "right")
    assert page.locator("#episode").inner_text() == "No episode matches."


def test_failures_are_a_filter(visit, tmp_path):
    run = runs.write_run(tmp_path)
    path = run / "heldout" / "after T=1.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    assert {r["samples"][0]["answers"][0]["failure"] for r in records} == {"answering"}
    records[2]["samples"][0]["answers"][0]["failure"] = "retrieval"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = visit(write_report(run))
    page.select_option("[name=failure]", "answering")
    assert page.locator("#count").inner_text() == "18 questions in 8 of 9 episodes match."
    page.select_option("[name=failure]", "retrieval")
    assert page.locator("#count").inner_text() == "1 questions in 1 of 9 episodes match."
    assert page.locator("#episode td .bad", has_text="retrieval").count() == 1


def test_the_keyboard_is_enough(visit, report):
    page = visit(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the episodes"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect_place(page, "#g1")
    assert page.locator("#list a[aria-current]").get_attribute("href") == "#g1"
    page.go_back()
    playwright.expect(page.locator("#list a[aria-current]")).to_have_attribute("href", "#g2")
    page.go_forward()
    playwright.expect(page.locator("#list a[aria-current]")).to_have_attribute("href", "#g1")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("episode-3")
    assert page.evaluate("document.activeElement.id") == "search"  # filtering does not take the focus away
    page.locator("#list a").first.focus()
    page.keyboard.press("Enter")
    expect_place(page, "#g3")
    playwright.expect(page.locator("#episode")).to_be_focused()
    page.keyboard.press("Tab")  # from the episode into it: its first control
    assert page.evaluate("document.activeElement.closest('#episode') !== null")
    page.keyboard.press("Space")
    playwright.expect(page.locator("#episode thead th")).to_have_count(4)


def work_of_opening(page, path) -> int:
    """How many times the blocks of a page's scripts run until it is shown: the same on every machine."""
    session = page.context.new_cdp_session(page)
    session.send("Profiler.enable")
    session.send("Profiler.startPreciseCoverage", {"callCount": True, "detailed": True})
    page.goto(f"file://{path}")
    page.locator("#list a").first.wait_for()
    scripts = session.send("Profiler.takePreciseCoverage")["result"]
    return sum(part["count"] for script in scripts for function in script["functions"] for part in function["ranges"])


def test_what_opening_costs_grows_with_the_questions_and_what_is_shown_does_not(visit, tmp_path):
    work, nodes = [], []
    for episodes in (125, 1000):
        run = runs.write_run(tmp_path / str(episodes), episodes=episodes, questions=10, nasty="")
        path = write_report(run)
        page = visit(path)
        work.append(work_of_opening(page, path))
        nodes.append(page.locator("*").count())
    assert path.stat().st_size <= 20_000_000
    assert page.locator("#count").inner_text() == "10,015 questions in 1,005 of 1,005 episodes match."
    assert page.locator("#list a").count() == 100
    page.locator("#list-more").click()
    assert page.locator("#list a").count() == 200
    print(f"{path.stat().st_size / 1e6:.1f} MB; blocks run: {work}; nodes: {nodes}")
    assert 10_000 < work[1] < 4 * work[0]  # 8 times the questions, beside what is always there
    assert nodes[0] == nodes[1]
