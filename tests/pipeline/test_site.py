"""The report site in a browser: built by the pipeline from a small problem with hostile text."""

import itertools
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from ldebm.data.chatter import generate
from pipelines.compare.compare import compare
from pipelines.site.comparing import comparison_data
from pipelines.site.pages import build
from tests.pipeline.project_copy import ProjectCopy
from tests.yaml_params import written_out

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
HOSTILE = "<script>window.broken=1</script>"
LABEL = "<img/src=x/onerror=window.broken=2>"
PARAMS = written_out("""\
run:
  datasets: [dots, talk]
  experiments: [small, other, talk]
  seeds: [0, 1]
  epochs: null
data:
  dots: {kind: points, source: gaussians16, train: 600, valid: 100, test: 100, labels: [mode]}
  talk: {kind: sentences, source: file, path: talk.csv, columns: {text: body, label: topic},
         labels: [topic], lowercase: false, vocab_size: 400, max_len: 24}
  copies: {kind: sentences, source: file, path: copies.txt, vocab_size: 50, max_len: 24}
experiments:
  small: &small
    data: dots
    description: "small & <b>plain</b>"
    backbone: {arch: mlp, latent: 2, hidden: 16, noise: 0.5, training: {updates: 20, batch: 64}}
    cluster: {labels: gc, dims: 2}
    prior: &prior
      kind: diffusion
      classes: 16
      levels: 3
      energy: {hidden: 8, blocks: 1, spectral_norm: false}
      sampler: {steps: 2}
      training: {updates: 12, batch: 64}
    evaluate: {samples: 200, rows: 50, importance: 8, inner: 8}
  other: {<<: *small, prior: {<<: *prior, classes: 8}}
  talk:
    data: talk
    backbone: {arch: gru, latent: 4, hidden: 24, embed: 16, training: {updates: 60, batch: 32}}
    cluster: {labels: given, column: topic}
    prior: {<<: *prior, classes: 4}
    evaluate: {samples: 100, rows: 12, importance: 8, inner: 8, reverse_lm: none, per_label: 20}
""")


# The stages in one process: what `dvc repro` runs in forty, without their starts.
BUILD = """\
import itertools, runpy, sys
sys.path.insert(0, "")
data = [["--data", name] for name in ("dots", "talk", "copies")]
names = ("small", "other", "talk")
runs = [["--experiment", name, "--seed", seed] for name in names for seed in "01"]
steps = [(stage, keys) for stage in ("fetch", "prepare", "validate") for keys in data]
steps += [(stage, keys) for stage in ("pack", "judge") for keys in data[:2]]
steps += [("bind", ["--experiment", name]) for name in names]
steps += itertools.product(("backbone", "cluster", "prior", "evaluate"), runs)
for stage, keys in [("code", []), *steps, ("report", [])]:
    sys.argv = [stage, *keys]
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert not stop.code, (stage, keys, stop.code)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """Two experiments on points and one on text, two seeds each; and data that are not valid."""
    project = ProjectCopy(tmp_path_factory.mktemp("site") / "project", PARAMS)
    topics = {"ask_weather": LABEL, "farewell": "bye", "order_food": "food", "play_music": "music"}
    turns = [turn for turn in generate(seed=3) if turn.intent in topics][:500]
    rows = [f"{turn.text} {HOSTILE},{topics[turn.intent]}\n" for turn in turns]
    (project.folder / "talk.csv").write_text("body,topic\n" + "".join(rows))
    (project.folder / "copies.txt").write_text(f"the same {HOSTILE}\n" * 300)
    (project.folder / "build.py").write_text(BUILD)
    project.call([project.interpreter, "-P", "build.py"])
    project.dvc("commit", "--force", "--quiet")
    project.python("stages.report")
    return project


@pytest.fixture(scope="module")
def site(project: ProjectCopy) -> Path:
    return project.folder / "site"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Visit:
    """A browser context that blocks and records what leaves the site, and hears its errors."""

    def __init__(self, browser, site: Path, **options) -> None:
        self.site, self.outside, self.errors = site, [], []
        self.context = browser.new_context(**options)
        self.context.route(re.compile(r"^(?!file:|data:)"), self._blocked)

    def _blocked(self, route) -> None:
        self.outside.append(route.request.url)
        route.abort()

    def open(self, page: str):
        shown = self.context.new_page()
        shown.on("console", self._heard)
        shown.on("pageerror", lambda error: self.errors.append(f"{page}: {error}"))
        shown.on("requestfailed", lambda request: self.errors.append(f"{page}: {request.url}"))
        shown.goto(f"{self.site.as_uri()}/{page}")
        return shown

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


@pytest.fixture
def visit(chromium, site: Path):
    """Makes visits, and checks after the test that they were quiet and asked nobody outside."""
    visits = []

    def make(**options) -> Visit:
        visits.append(
            Visit(chromium, site, **{"viewport": {"width": 1200, "height": 800}} | options)
        )
        return visits[-1]

    yield make
    for item in visits:
        item.context.close()
    assert [url for item in visits for url in item.outside] == []
    assert [error for item in visits for error in item.errors] == []


def pages(site: Path) -> list[str]:
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def test_the_site_has_a_page_for_every_run_and_is_light(site: Path):
    names = {f"runs/{name}-{seed}.html" for name in ("small", "other", "talk") for seed in (0, 1)}
    assert set(pages(site)) == names | {"index.html", "compare.html", "data.html", "lineage.html"}
    assert sum(path.stat().st_size for path in site.rglob("*")) < 8e6


def test_every_page_loads_without_an_error_or_a_request_outside(site: Path, visit):
    here = visit()
    for name in pages(site):
        page = here.open(name)
        for chart in page.locator(".chart").all():
            chart.scroll_into_view_if_needed()
        page.wait_for_selector(".chart:not(.live)", state="detached")
        page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
        page.close()


def test_no_page_scrolls_sideways(site: Path, visit):
    here = visit(viewport={"width": 390, "height": 700})
    for name in pages(site):
        page = here.open(name)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        measured = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        for width in (390, 360, 1200):
            page.set_viewport_size({"width": width, "height": 700})
            scroll, client = page.evaluate(measured)
            assert scroll <= client, (name, width)
        page.close()


CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return numbers(getComputedStyle(document.body).backgroundColor);
  };
  const found = [];
  for (const element of document.querySelectorAll("body, main *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = numbers(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  const page = light(numbers(getComputedStyle(document.body).backgroundColor));
  return { page, found: [...new Set(found)] };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark_which_is_really_dark(site: Path, visit, scheme):
    here = visit(color_scheme=scheme)
    for name in ("index.html", "compare.html", "data.html", "lineage.html", "runs/talk-0.html"):
        seen = here.open(name).evaluate(CONTRAST)
        assert seen["found"] == [], name
        assert seen["page"] < 0.02 if scheme == "dark" else seen["page"] > 0.9


def test_hostile_text_is_shown_and_never_run(site: Path, visit):
    here = visit()
    for name in pages(site):
        page = here.open(name)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("window.broken") is None, name
        own = "script[src], script[type='application/json']"
        assert page.locator("script").count() == page.locator(own).count(), name
        assert page.locator("img[src='x']").count() == 0, name
        page.close()
    assert "window.broken=1" in here.open("runs/talk-0.html").inner_text("main")
    assert LABEL in here.open("runs/talk-0.html").inner_text("main")
    assert "small & <b>plain</b>" in here.open("runs/small-0.html").inner_text("main")


def test_samples_are_filtered_by_class_and_by_words(visit):
    page = visit().open("runs/talk-0.html")
    rows = page.locator("#list li")
    everything = rows.count()
    assert everything > 5
    options = page.locator("#class option").evaluate_all("o => o.map(i => i.value)")
    page.select_option("#class", options[1])
    shown = page.locator("#list li:visible")
    assert 0 < shown.count() < everything
    assert set(shown.evaluate_all("l => l.map(i => i.dataset.class)")) == {options[1]}
    assert page.inner_text("#count") == f"{shown.count()} of {everything} samples"
    page.select_option("#class", "")
    word = page.locator("#list .said").first.inner_text().split()[0]
    page.fill("#search", word.upper())
    texts = page.locator("#list li:visible .said").all_inner_texts()
    assert texts
    assert all(word.lower() in text.lower() for text in texts)
    page.fill("#search", "no such word")
    assert page.inner_text("#count") == f"0 of {everything} samples"


def test_a_class_of_the_legend_stands_out_on_the_map(visit):
    page = visit().open("runs/small-0.html")
    dots = page.locator("#maps .chart.live .layer0_marks path")
    shown = "l => l.filter(i => i.getAttribute('opacity') > 0.5).length"
    button = page.locator("#legend button").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    until(page, lambda: page.locator("#maps .chart.live").count() == 2)
    everything = dots.count()
    until(page, lambda: 0 < dots.evaluate_all(shown) < everything)
    page.keyboard.press("Enter")
    until(page, lambda: dots.evaluate_all(shown) == everything)


def until(page, true, seconds: float = 20.0) -> None:
    """Waits for something; a page's own waiting would evaluate text, which its policy forbids."""
    for _ in range(round(20 * seconds)):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not after {seconds} s")


def live(page, selector: str = "#curves ~ .grid .chart"):
    """The first chart of a selector, drawn by the library."""
    chart = page.locator(selector).first
    chart.scroll_into_view_if_needed()
    until(page, lambda: "live" in chart.get_attribute("class"))
    return chart


def told(page) -> list[str]:
    """What the label beside the pointer says."""
    return page.locator("#vg-tooltip-element.visible").inner_text().split()


def test_charts_tell_values_under_the_pointer_and_by_the_arrow_keys(visit):
    page = visit().open("runs/small-0.html")
    assert page.locator("script[src$='vega.js']").count() == 0, "loaded before it is needed"
    chart = live(page)
    chart.hover()
    first = told(page)
    assert first[:3] == ["line", "training", "update"]
    chart.focus()
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    assert int(told(page)[3]) > int(first[3])
    assert page.locator("#vg-tooltip-element").get_attribute("role") == "status"
    assert page.locator(".chart:not([aria-label])").count() == 0
    assert page.locator("script[src$='vega.js']").count() == 1


def test_charts_zoom_with_ctrl_and_the_wheel_and_without_it_the_page_scrolls(visit):
    page = visit().open("runs/small-0.html")
    chart = live(page)
    labels = chart.locator(".role-axis-label").first
    before = labels.text_content()
    chart.hover()
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(200)
    assert labels.text_content() == before
    chart = live(page)
    chart.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_timeout(200)
    assert labels.text_content() != before
    chart.dblclick()
    page.wait_for_timeout(200)
    assert labels.text_content() == before


def test_the_vertical_axis_of_a_curve_can_be_logarithmic(visit):
    page = visit().open("runs/talk-0.html")
    chart = live(page)
    label = chart.locator("svg").get_attribute("aria-label")
    line = chart.locator(".mark-line path")
    linear = line.get_attribute("d")
    button = page.locator("#curves ~ .grid figure").first.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    until(page, lambda: line.get_attribute("d") != linear)
    assert button.get_attribute("aria-pressed") == "true"
    assert chart.locator("svg").get_attribute("aria-label") == label
    page.keyboard.press("Enter")
    until(page, lambda: line.get_attribute("d") == linear)


def test_the_drawn_chart_has_the_place_of_the_still_one_and_follows_the_window(site: Path, visit):
    still = visit(java_script_enabled=False).open("runs/small-0.html")
    selector = "#curves ~ .grid .chart"
    box = still.locator(selector).first.bounding_box()
    page = visit().open("runs/small-0.html")
    drawn = live(page).bounding_box()
    assert (drawn["width"], drawn["height"]) == pytest.approx((box["width"], box["height"]), abs=1)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    svg, card = (page.locator(s).first.bounding_box() for s in (f"{selector} svg", selector))
    assert svg["width"] == pytest.approx(card["width"], abs=1)


def test_a_page_with_all_that_it_loads_is_light(site: Path, visit):
    library = (site / "assets/vega.js").stat().st_size
    for name in pages(site):
        page = visit().open(name)
        page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
        names = page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
        files = {(site / name).resolve(), *(Path(unquote(urlsplit(n).path)) for n in names)}
        size = sum(file.stat().st_size for file in files if file.is_file())
        assert size - (library if site / "assets/vega.js" in files else 0) < 1.5e6, name
        page.close()


def cells(page, label: str) -> dict[str, list[str]]:
    """First cell -> the other cells of a table by its label."""
    rows = page.locator(f".scroll[aria-label='{label}'] tbody tr").all()
    texts = [[cell.strip() for cell in row.locator("th, td").all_inner_texts()] for row in rows]
    return {row[0].split()[0]: row[1:] for row in texts}


def test_the_compare_page_says_what_the_command_says(project: ProjectCopy, visit):
    page = visit().open("compare.html#a=small&b=other")
    page.wait_for_selector("#result .pair")
    (pair,) = compare("small", "other", project.folder).pairs
    params = cells(page, "Parameters that differ")
    assert {key: tuple(map(int, row)) for key, row in params.items()} == pair.params
    page.locator("summary", has_text="more metrics").click()
    shown = cells(page, "Metrics") | cells(page, "More metrics")
    assert shown.keys() == pair.metrics.keys()
    for name, row in pair.metrics.items():
        assert shown[name][3].split("\n")[0].rstrip("*") == row["verdict"], name
        assert float(shown[name][0]) == pytest.approx(row["first"], rel=1e-3, abs=1e-12), name
        assert float(shown[name][1]) == pytest.approx(row["second"], rel=1e-3, abs=1e-12), name
        if row["interval"] is not None:
            half = float(shown[name][2].split(" ± ")[1])
            assert half == pytest.approx(row["interval"], rel=1e-3), name
    samples = page.locator(".pair ol").nth(1).locator("li").all_inner_texts()
    assert samples == pair.samples[1]
    assert page.locator("#result .grid .chart").count() >= 4
    chart = page.locator("#result .grid .chart").first
    chart.scroll_into_view_if_needed()
    until(page, lambda: chart.locator(".mark-line path").count() == 2)


def test_exchanging_the_sides_turns_the_verdicts_and_single_seeds_have_none(visit):
    page = visit().open("compare.html#a=small&b=other")
    page.wait_for_selector("#result .pair")
    before = cells(page, "Metrics")
    page.click("#swap")
    after = cells(page, "Metrics")
    turned = {"better": "worse", "worse": "better"}
    for name, row in before.items():
        assert after[name][:2] == row[1::-1]
        verdict = row[3].rstrip("*")
        assert after[name][3].rstrip("*") == turned.get(verdict, verdict)
    page.select_option("#first-seed", "1")
    assert {row[3] for row in cells(page, "Metrics").values()} <= {"not judged", "equal"}
    assert "nothing is called better" in page.inner_text("#result")
    assert "as=1" in page.url
    page.reload()
    page.wait_for_selector("#result .pair")
    assert page.input_value("#first-seed") == "1"
    page.select_option("#second", "talk")
    page.wait_for_selector("#result h2:has-text('talk')")
    assert {row[3] for row in cells(page, "Metrics").values()} <= {"other data"}


def test_more_than_two_are_held_against_the_first(visit):
    page = visit().open("compare.html?a=small&b=other")
    page.wait_for_selector("#result .pair")
    alone = cells(page, "Metrics")["nll"]
    page.click("#add")
    page.select_option("#third", "other")
    page.select_option("#third-seed", "1")
    page.wait_for_selector("#result h2:has-text('other, seed 1')")
    row = cells(page, "Metrics")["nll"]
    assert row[:4] == alone
    assert row[6] == "not judged"
    page.reload()
    page.wait_for_selector("#result h2:has-text('other, seed 1')")
    page.get_by_role("button", name="Remove the third").click()
    assert cells(page, "Metrics")["nll"] == alone


def test_recorded_tables_are_sorted_and_filtered_and_names_are_links(project: ProjectCopy, visit):
    results = project.folder / "results"
    for place, name in enumerate(("b", "a", "c")):
        (results / name).mkdir(exist_ok=True)
        content = {"experiment": name, "seed": 0, "params": {"data": "dots"}}
        metrics = {"nll": (9.5, 10.25, 11.0)[place], "ami": 0.1}
        (results / name / "0.json").write_text(json.dumps({**content, "metrics": metrics}))
    build(project.folder)
    page = visit().open("index.html")
    rows = page.locator(".scroll[aria-label='Results on dots'] tbody tr")
    first = "l => l.filter(i => !i.hidden).map(i => i.cells[0].textContent.trim())"
    head = page.locator(".scroll[aria-label='Results on dots'] th").nth(2)
    button = head.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert rows.evaluate_all(first) == ["b", "a", "c"]
    assert head.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert rows.evaluate_all(first) == ["c", "a", "b"]
    page.fill("#words", "a dots")
    assert rows.evaluate_all(first) == ["a"]
    assert page.inner_text("#found") == "1 models"
    page.fill("#words", "nothing")
    assert not page.locator("#results-dots").is_visible()
    page.fill("#words", "")
    rows.locator("a", has_text="c").click()
    assert page.input_value("#first") == "c"


def test_compare_it_opens_the_comparison_of_this_very_run(project: ProjectCopy, site, visit):
    here = visit()
    page = here.open("runs/small-1.html")
    page.click("text=Compare it")
    page.wait_for_load_state("load")
    assert page.input_value("#first") == "small"
    assert page.input_value("#first-seed") == "1"
    assert page.input_value("#second") == "other"
    until(page, lambda: page.evaluate("window.scrollY") == 0)
    still = visit(java_script_enabled=False).open("runs/small-1.html")
    still.click("text=Compare it")
    entry = still.locator("#of-small-1")
    assert entry.get_attribute("data-group") == "small"
    entry.locator("a", has_text="other").click()
    assert still.locator(".scroll[aria-label='other against small']").is_visible()


def test_a_run_that_differs_from_the_recorded_one_of_its_name_is_compared_itself(
    project: ProjectCopy, tmp_path: Path
):
    recorded = {"experiment": "small", "seed": 0, "params": {"data": "dots"}, "metrics": {"nll": 9}}
    root = tmp_path / "project"
    for name in ("reports", "models"):
        shutil.copytree(project.folder / name, root / name)
    (root / "results/small").mkdir(parents=True)
    (root / "results/small/0.json").write_text(json.dumps(recorded))
    content = comparison_data(root)
    assert set(content["groups"]) == {"other", "small", "small (evaluated here)", "talk"}
    run = content["here"]["small-1"]
    assert (run["group"], run["seed"]) == ("small (evaluated here)", "1")
    pairs = [key for _, key in run["pairs"]]
    assert pairs == ["other|small (evaluated here)", "small|small (evaluated here)"]


def test_without_scripts_everything_can_still_be_read(project: ProjectCopy, visit):
    here = visit(java_script_enabled=False)
    page = here.open("compare.html")
    assert not page.is_visible("#choose")
    page.locator("summary", has_text="other → small").click()
    (pair,) = compare("other", "small", project.folder).pairs
    row = cells(page, "other against small")["nll"]
    assert float(row[0]) == pytest.approx(pair.metrics["nll"]["first"], rel=1e-3)
    assert row[3].rstrip("*") == pair.metrics["nll"]["verdict"]
    page = here.open("runs/talk-0.html")
    assert not page.is_visible("#filter")
    assert page.locator("#list li").count() == page.locator("#list li:visible").count() > 0


def test_data_that_failed_show_what_failed_with_the_offending_values(visit):
    page = visit().open("data.html")
    section = page.locator("section", has=page.locator("#data-copies")).inner_text()
    assert "not valid" in section
    assert re.search(r"\d+ expectations of sentences, [1-9]\d* failed", section)
    assert "valid" in page.locator("#data-dots .good").inner_text()


def test_the_lineage_graph_leads_from_raw_data_to_every_run(project: ProjectCopy, visit):
    page = visit().open("lineage.html")
    stages = set(page.locator("svg.graph a").evaluate_all("l => l.map(i => i.ariaLabel)"))
    assert {"fetch@dots", "pack@talk", "bind@small", "evaluate@other-1"} <= stages
    page.locator("svg.graph a[aria-label='prior@small-0']").press("Enter")
    entry = page.locator("#stage-prior-small-0")
    assert entry.evaluate("e => e.open")
    lock = json.dumps(project.outputs())
    shown = re.findall(r"[0-9a-f]{32}(?:\.dir)?", entry.inner_text())
    assert len(shown) >= 5
    assert all(md5 in lock for md5 in shown)


def test_links_lead_somewhere(site: Path, visit):
    here = visit()
    anchors, links = {}, []
    for name in pages(site):
        page = here.open(name)
        anchors[(site / name).resolve()] = set(
            page.locator("[id]").evaluate_all("l => l.map(i => i.id)")
        )
        addresses = page.locator("a[href]").evaluate_all("l => l.map(i => new URL("
            "i.getAttribute('href'), location.href).href)")  # fmt: skip
        links += [(name, link) for link in addresses]
        page.close()
    for name, link in links:
        parts = urlsplit(link)
        target = Path(unquote(parts.path)).resolve()
        assert target in anchors, (name, link)
        if parts.fragment:
            assert unquote(parts.fragment) in anchors[target], (name, link)


def test_pages_are_built_for_who_hears_them_read(site: Path, visit):
    here = visit()
    for name in pages(site):
        page = here.open(name)
        for landmark in ("header", "nav", "main", "footer"):
            assert page.locator(landmark).count() >= 1, (name, landmark)
        levels = page.locator("h1, h2, h3, h4").evaluate_all("l => l.map(i => +i.tagName[1])")
        assert levels[0] == 1, name
        assert levels.count(1) == 1, name
        assert all(after <= level + 1 for level, after in itertools.pairwise(levels))
        ids = page.locator("[id]").evaluate_all("l => l.map(i => i.id)")
        assert len(ids) == len(set(ids)), name
        assert page.locator("img:not([alt]), img[alt=''], img:not([width])").count() == 0, name
        assert page.locator("th:not([scope])").count() == 0, name
        unnamed = page.locator("svg").evaluate_all(
            "l => l.filter(i => !i.getAttribute('role') || !i.ariaLabel).length"
        )
        assert unnamed == 0, name
        assert page.locator("html[lang], meta[name=viewport]").count() == 2
        page.close()
    page = here.open("runs/talk-0.html")
    for name, controls in (("runs/talk-0.html", 2), ("compare.html", 4)):
        labels = (
            here.open(name)
            .locator("input, select")
            .evaluate_all(
                "l => l.map(i => [...i.labels].map(label => label.firstChild.textContent.trim()))"
            )
        )
        assert len(labels) == controls
        assert all(len(texts) == 1 and texts[0] for texts in labels), labels


def test_the_keyboard_reaches_the_content_first(visit):
    page = visit().open("runs/talk-0.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    top = page.locator(".skip").bounding_box()
    assert top["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
