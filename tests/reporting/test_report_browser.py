"""The report in a real browser: Chromium, headless, from file://, without a network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from finemem_jax.evaluation.records import write_heldout
from finemem_jax.files import JsonLines
from finemem_jax.reporting.overlay import write_overlay
from finemem_jax.reporting.report import write_report
from finemem_jax.types import Answer, Chunk, Episode, Question, Retrieved, Rollout
from tests import fakes
from tests.reporting import runs
from tests.reporting.test_watch import serving

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
# Clicks and expectations wait for what they are about; on a busy machine that may take long.
MILLISECONDS = 180_000
playwright.expect.set_options(timeout=MILLISECONDS)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")  # while it is open, an event loop runs in this thread, in the way of `asyncio.run`
def browser():
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=MILLISECONDS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """A run whose every text is nasty; three questions an episode, of which the first is answered wrongly."""
    return write_report(runs.write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def visit(browser):
    """visit(path, width=…, …) -> a page; at the end no page has asked the network for anything or logged an error."""
    problems, pages, allowed = [], [], ["file:", "data:"]

    def open_page(path, *, width=1440, scheme="light", fragment="", port=None):
        """port: of `finemem watch`, in the place of a file."""
        address = f"http://127.0.0.1:{port}/" if port else f"file://{path}"
        allowed.extend([address] if port else [])
        size = {"width": width, "height": 900}
        page = browser.new_page(viewport=size, color_scheme=scheme, has_touch=width < 600)
        page.set_default_timeout(MILLISECONDS)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(tuple(allowed)) else problems.append(request.url),
        )
        page.goto(f"{address}{fragment}")
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
    bars = page.locator(".causes", has_text="All final questions").locator(".cause")
    assert [bar.get_attribute("aria-label") for bar in bars.all()] == [
        "before T=1: answering 12", "after T=1: right 8, answering 4",
        "before greedy: answering 12", "after greedy: right 8, answering 4",
    ]  # fmt: skip
    assert [bar.is_visible() for bar in bars.all()] == [True, True, False, False]  # one temperature at first
    page.locator("#charts details summary").first.click()
    rows = page.locator("#charts details table").first.locator("tbody tr")
    playwright.expect(rows).to_have_count(2)  # evaluations before and after


def test_a_term_has_one_colour_and_what_is_always_zero_is_folded(visit, tmp_path):
    run = runs.write_run(tmp_path, episodes=2, steps=8, paid=True)
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for step, line in enumerate(lines):
        line |= {
            "reward/compression": 0.0,
            "loss/clipped_dual": 0.0,
            "loss/ratio_max": 500.0 if step == 0 else 1.0 + step,
        }
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = visit(write_report(run), fragment="#g2")
    terms = page.locator("figure", has_text="Reward terms")
    assert "Always 0: compression" in terms.inner_text() and "reward/TERM" in terms.inner_text()
    paint = "node => getComputedStyle(node).getPropertyValue('--s')"
    (legend,) = [i.evaluate(paint) for i in terms.locator(".legend li").all() if i.inner_text().startswith("evidence")]
    share = page.locator("figure", has_text="Share of the advantage's variance")
    assert legend in [i.evaluate(paint) for i in share.locator(".legend li").all() if "evidence" in i.inner_text()]
    cell = page.locator("#g2c0t0")
    place = cell.locator(".bars span").all_inner_texts().index("evidence ×1")
    assert cell.locator(".bars i").nth(place).evaluate(paint) == legend == cell.locator(".flows").evaluate(paint)
    page.locator("#more > summary").click()
    assert "Tokens clipped twice (loss/clipped_dual in metrics.jsonl)" in page.locator("#more > .zeros").inner_text()
    peak = page.locator("#more figure", has_text="Importance ratio, largest")
    assert "logarithmic scale" in peak.inner_text()
    page.select_option("[name=log]", "off")
    assert "logarithmic scale" not in peak.inner_text()
    page.select_option("[name=smooth]", "6")
    expect_place(page, "&smooth=6&log=off")


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
    assert page.locator("#episode thead th b").all_inner_texts() == ["before T=1", "after T=1"]
    link = page.locator("#g1c2q1 a[data-item='#2']").first  # column 2, "after T=1"
    assert link.inner_text() == "step 1 #2"
    link.click()
    expect_place(page, "#g1c2t1")
    cell = page.locator("#g1c2t1")
    playwright.expect(cell).to_have_class("here")
    assert cell.locator(".hit").first.get_attribute("data-item") == "#2"
    assert page.evaluate("document.activeElement.id") == "g1c2t1"
    box = cell.bounding_box()
    assert 0 <= box["y"] < 900
    page.go_back()
    expect_place(page, "#g1")


def amounts(locator):
    return [float(text.replace("−", "-")) for text in locator.locator("output").all_inner_texts()]


def test_credit_is_shown_from_both_ends_and_adds_up(visit, tmp_path):
    """Training pays as logged: three questions of which two are right by s / 3, each from the item of one step."""
    run = tmp_path / "run"
    page = visit(write_report(runs.write_run(run, episodes=1, steps=1, nasty="", paid=True)), fragment="#g1")
    record = json.loads((run / "rollouts.jsonl").read_text())["samples"][3]
    assert record["rewards"]["evidence"] == pytest.approx([1 / 9, 5 / 18, 5 / 18])
    for t, paid in enumerate(record["rewards"]["evidence"]):
        flows = page.locator(f"#g1c3t{t} .flows")
        assert f"Evidence +{paid:.3f}, by question" in flows.inner_text()
        assert sum(amounts(flows)) == pytest.approx(paid, abs=0.002)
    share = page.locator("#g1c3q1 .flows")
    assert "Its share 0.333 went to" in share.inner_text() and sum(amounts(share)) == pytest.approx(1 / 3, abs=0.002)
    assert "Its share 0.000 went to" in page.locator("#g1c3q0 .flows").inner_text()
    page.locator("#g1c3t1 .flows a", has_text="question 2").click()
    expect_place(page, "#g1c3q1")
    playwright.expect(page.locator("#g1c3q1")).to_be_focused()
    share.locator("a", has_text="step 1").click()
    expect_place(page, "#g1c3t1")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_picture_lights_the_path_of_what_is_named(visit, report, width):
    page = visit(report, fragment="#g1", width=width)
    picture = page.locator("svg.picture")
    kinds = {kind: picture.locator(f".node.{kind}") for kind in ("step", "item", "question")}
    assert {kind: nodes.count() for kind, nodes in kinds.items()} == {"step": 3, "item": 3, "question": 3}
    page.locator(".canvas").focus()
    page.keyboard.press("Tab")  # into the picture: one stop
    assert page.evaluate("document.activeElement.getAttribute('class')").startswith("node step")
    page.keyboard.press("End")  # the last question
    reading = page.locator(".reading")
    playwright.expect(reading).to_contain_text("Question 3, right: what is 2 of 1?")
    lit = picture.locator(".node.on")
    assert [node.get_attribute("aria-label").split(":")[0] for node in lit.all()] == [
        "Step 2",
        "Item #3",
        "Question 3, right",
    ]
    assert picture.locator(".ribbon.on").count() == 1
    page.keyboard.press("ArrowUp")
    playwright.expect(reading).to_contain_text("Question 2")
    kinds["step"].nth(0).hover()
    playwright.expect(reading).to_contain_text("Step 0")
    if width < 600:  # a finger's first touch lights, its second follows
        kinds["question"].nth(1).tap()
        playwright.expect(reading).to_contain_text("Question 2")
        expect_place(page, "#g1")
        kinds["question"].nth(1).tap()
        expect_place(page, "#g1c2q1")
        return
    with page.expect_download() as saved:
        page.locator("button", has_text="Save as SVG").click()
    source = Path(saved.value.path()).read_text("utf-8")
    assert source.startswith("<svg") and "what is 2 of 1?" in source and "var(" not in source
    page.select_option("[name=picture]", "before T=1")
    expect_place(page, re.escape("#g1&of=before%20T%3D1"))


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
    page.fill("#search", "What is 1 of 2")
    assert count.inner_text() == "1 questions in 1 of 9 episodes match."
    asked = page.locator("#episode tr.lead", has_text="expected:")
    assert asked.count() == 1 and "what is 1 of 2?" in asked.inner_text()
    page.uncheck("[name=only]")
    assert asked.count() == 3
    page.select_option("[name=answers]", "right")
    assert page.locator("#episode").inner_text() == "No episode matches."


def test_everything_read_and_written_is_searched_and_the_address_says_so(visit, report):
    page = visit(report)
    count = page.locator("#count")
    page.fill("#search", "chunk 1 of episode 3")  # read in held-out episode 3 and training step 3
    assert count.inner_text() == "6 questions in 2 of 9 episodes match."
    page.fill("#search", "ANSWER 2 ")  # the answer of every third question
    assert count.inner_text() == "9 questions in 9 of 9 episodes match."
    page.select_option("[name=where]", "training")
    page.fill("#search", "fact 0 of 2")  # written to memory
    assert count.inner_text() == "3 questions in 1 of 9 episodes match."
    page.locator("#list a").first.click()
    expect_place(page, "#g6&where=training&search=fact%200%20of%202")
    other = visit(report, fragment=page.evaluate("location.hash"))
    assert other.locator("#count").inner_text() == "3 questions in 1 of 9 episodes match."
    assert other.locator("#search").input_value() == "fact 0 of 2"
    assert other.locator("#list a[aria-current]").get_attribute("href") == "#g6"


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
    page = visit(report, fragment="#&sort=recorded")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the episodes"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect_place(page, "#g1&sort=recorded")
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
    expect_place(page, "#g3&search=episode-3&sort=recorded")
    playwright.expect(page.locator("#episode")).to_be_focused()
    page.keyboard.press("Tab")  # from the episode into it: its first control
    assert page.evaluate("document.activeElement.closest('#episode') !== null")
    page.keyboard.press("Space")
    playwright.expect(page.locator("#episode thead th")).to_have_count(1)


SMALL = """() => [...document.querySelectorAll("a, button, select, input, summary")].filter((node) => {
  const box = node.getBoundingClientRect();
  return box.width && box.top > 0 && (box.width < 24 || box.height < 24);
}).map((node) => `${node.tagName} ${node.textContent.slice(0, 30)}`)"""

# Text against what is painted behind it: the nearest ancestor with a colour of its own.
PALE = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (color) => weights.reduce((sum, weight, i) => sum + weight * linear(parts(color)[i] / 255), 0);
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    if (node.closest("svg, option") || !node.getBoundingClientRect().width) continue;
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    let behind = node;
    const ground = (of) => getComputedStyle(of).backgroundColor;
    while (behind.parentElement && parts(ground(behind))[3] === 0) behind = behind.parentElement;
    const colors = [getComputedStyle(node).color, ground(behind)];
    const [a, b] = colors.map(light).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = `${node.tagName}.${node.className} ${node.textContent.slice(0, 20)}`;
    if (ratio < 4.5) found.push(`${name} ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_what_is_touched_is_large_enough(visit, report, width, scheme):
    page = visit(report, width=width, scheme=scheme, fragment="#g5")
    assert page.evaluate(PALE) == []
    assert page.evaluate(SMALL) == []


def test_a_followed_page_grows_and_keeps_what_is_chosen(visit, tmp_path):
    run = runs.write_run(tmp_path, episodes=2, steps=2, nasty="")
    with serving(run, seconds=0.05) as port:
        page = visit(None, port=port, fragment="#g3&where=training")
        assert page.locator("#count").inner_text() == "6 questions in 2 of 4 episodes match."
        page.locator("#g3c1t0 summary", has_text="as written").click()
        line = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
        JsonLines(run / "rollouts.jsonl").write(2, {**line, "episode": "one more"})
        playwright.expect(page.locator("#count")).to_have_text("9 questions in 3 of 5 episodes match.")
        playwright.expect(page.locator("#list")).to_contain_text("one more")
        assert page.locator("#g3c1t0 details[open]").count() == 1  # what is open stays
        playwright.expect(page.locator("#live")).to_contain_text("Following the run")
        page.close()


def test_prompts_are_folded_and_read_back(visit, tmp_path):
    run = runs.write_run(tmp_path, episodes=1, steps=1, nasty="")
    path = run / "rollouts.jsonl"
    record = json.loads(path.read_text())
    for step, prompt in zip(
        record["samples"][0]["steps"],
        ([0, "𝔉 one <b>\n𝔉 two\nchunk 0"], [11, "𝔉 more\nchunk 1"], [3, "!"]),
        strict=True,
    ):
        step["prompt"] = prompt
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n")
    page = visit(write_report(run), fragment="#g1")
    for t, prompt in enumerate(("𝔉 one <b>\n𝔉 two\nchunk 0", "𝔉 one <b>\n𝔉𝔉 more\nchunk 1", "𝔉 o!")):
        page.locator(f"#g1c0t{t} summary", has_text="prompt").click()
        found = page.locator(f"#g1c0t{t} details", has_text="prompt").locator(".raw")
        playwright.expect(found).to_have_count(1)
        assert found.evaluate("node => node.textContent") == prompt
    page.fill("#search", "𝔉 MORE".lower())
    assert page.locator("#count").inner_text() == "3 questions in 1 of 2 episodes match."


def test_runs_over_each_other_have_no_episodes(visit, tmp_path):
    folders = [runs.write_run(tmp_path / name, episodes=1, steps=3) for name in ("a", "b <i>")]
    page = visit(write_overlay(folders), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert [
        text.split(" ")[0] for text in page.locator("#charts figure").first.locator(".legend li").all_inner_texts()
    ] == [
        "a",
        "b",
    ]
    assert not page.locator("#episodes").is_visible() and page.locator("nav a:visible").count() == 3
    assert page.locator("#table tbody th").all_inner_texts() == ["a", "b <i>", "baseline oracle"]


PROSE = (
    "ذهبت مريم إلى السوق صباحا واشترت سبعة كتب قديمة ",
    "玛雅在河边的旧书店买了七本关于茶的书，然后步行回家。",
    "Maya bought seven old books about tea and walked home along the river. ",
)


@pytest.mark.parametrize("width", [390, 1440])
def test_a_long_episode_with_a_thousand_items_of_prose_stays_readable(visit, tmp_path, width):
    """400 chunks, 1000 items, in scripts of either direction; the last item was written at the end."""
    run = runs.write_run(tmp_path, episodes=1, steps=0, nasty="")
    played = fakes.rollout([[f"{text * 12}{t}" for text in PROSE[: 3 if t < 200 else 2]] for t in range(400)])
    first, last = played.steps[-1].memory_after.items[0], played.steps[-1].memory_after.items[-1]
    question = Question("فين راحت مريم؟ 玛雅去哪了？", ("السوق",), kind="fact")
    found = tuple(Retrieved(item.id, item.written_at, item.writers, item.text, 1.0) for item in (first, last))
    chunks = tuple(Chunk(PROSE[t % 3] * 40, t) for t in range(400))
    told = Episode("long", "prose", chunks, (question,))
    rollout = Rollout(told, 0, 0, played.steps, (Answer(question, found, "السوق", 1.0),))
    write_heldout(run, "after", {"T=1": [rollout]}, 1)
    for path in (run / "heldout").glob("*.jsonl"):
        if path.name not in ("episodes.jsonl", "after T=1.jsonl"):
            path.unlink()
    page = visit(write_report(run), fragment="#g0", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.locator("svg.picture .node.step").count() == 400 and page.locator("svg.picture .node.item").count() == 40
    )
    assert page.locator("svg.picture .ribbon:not(.none)").count() == 2
    assert page.locator("#episode td[id*=t]").count() == 60 and page.locator("*").count() < 12_000
    box = page.locator("#g0c0t0 .diff .text").nth(1).bounding_box()
    assert box["height"] > 40 and box["width"] <= width  # long items wrap
    side = page.locator("#g0c0t0 .diff .text").nth(1).evaluate("node => getComputedStyle(node).direction")
    assert side == "rtl"
    page.locator("#g0c0q0 .flows a", has_text="step 399").click()  # not drawn yet
    playwright.expect(page.locator("#g0c0t399")).to_be_focused()
    assert "998 unchanged" in page.locator("#g0c0t399").inner_text()


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
        run = runs.write_run(tmp_path / str(episodes), episodes=episodes, questions=10, nasty="", policies=["T=1"])
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
