"""The page and the picture: complete, self-contained, and right for odd comparisons."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from matplotlib.text import Annotation

from pedrl_experiments import canvas, panels, plots
from pedrl_experiments.evidence import load
from pedrl_experiments.report import write_report
from pedrl_sandbox import PedrlError
from tests.experiments.conftest import BuildRun

SMALL = {"tasks": 20, "steps": 16, "eval_every": 4}
VOID = {"meta", "link", "br", "path", "use", "line"}


class Page(HTMLParser):
    """Checks nesting, and collects text, ids and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("href", "src", "xlink:href"):
                self.references.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


def report(out: Path) -> Page:
    write_report(out)
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not list(out.glob("*.tmp"))
    return page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, write_comparison: BuildRun) -> Page:
    out = write_comparison(tmp_path_factory.mktemp("page"), seeds=2, **SMALL)
    return report(out)


def test_the_page_fetches_nothing_and_its_ids_are_unique(page: Page) -> None:
    assert page.references
    assert all(ref.startswith(("#", "data:")) for ref in page.references)
    assert len(page.ids) == len(set(page.ids))
    missing = {ref[1:] for ref in page.references if ref.startswith("#")} - set(page.ids)
    assert not missing


def test_the_page_says_what_was_compared_and_how_to_repeat_it(page: Page) -> None:
    assert "Six methods on lexicon (coined=2)" in page.text
    assert "pedagogical is ahead" in page.text
    assert "2 seeds: a headline claim needs 10 or more" in page.text
    assert "pedrl compare --suite lexicon --preset standard --set coined=2 --out OUT" in page.text
    assert "versions.torch" in page.text
    assert "optimizer.learning_rate.grpo" in page.text
    for heading in ("Learning curves", "Mechanism", "What a run cost", "Glossary", "Reproduce"):
        assert heading in page.headings
    for title in ("Teacher: learnability G", "Teacher: largest gap", "Teacher: fused style"):
        assert title in page.headings


def test_the_report_is_the_same_bytes_again_and_below_three_megabytes(build_run: BuildRun) -> None:
    out = build_run(seeds=2, **SMALL)
    write_report(out)
    first = (out / "report.html").read_bytes(), (out / "curves.png").read_bytes()
    write_report(out)
    assert ((out / "report.html").read_bytes(), (out / "curves.png").read_bytes()) == first
    assert len(first[0]) < 3_000_000


def test_twelve_methods_of_ten_seeds_stay_small_and_keep_their_own_colours(
    build_run: BuildRun,
) -> None:
    names = tuple(canvas.COLORS)
    assert len(names) == 12
    out = build_run(methods=names, seeds=10, tasks=12, steps=8, eval_every=4)
    page = report(out)
    assert (out / "report.html").stat().st_size < 3_000_000
    assert all(name in page.text for name in names)
    unknown = [f"mine-{i}" for i in range(6)]
    assert len({canvas.color_of(m, [*names[:6], *unknown]) for m in [*names[:6], *unknown]}) == 12
    pictures = {path.stem: path.read_bytes() for path in (out / "curves").iterdir()}
    assert set(pictures) == set(names)
    assert len(set(pictures.values())) == 12
    assert max(map(len, pictures.values())) < 120_000


def test_one_method_with_one_seed_says_that_its_interval_covers_tasks_only(
    build_run: BuildRun,
) -> None:
    page = report(build_run(methods=("grpo",), seeds=1, **SMALL))
    assert "grpo on lexicon" in page.text
    assert "the intervals cover the choice of held-out tasks only" in page.text
    assert "Method against method" not in page.headings
    assert "not run" in page.text


def test_unfinished_runs_are_announced(build_run: BuildRun) -> None:
    settings = {"methods": ("pedagogical", "grpo"), "seeds": 3, **SMALL}
    page = report(build_run(**settings, unfinished=[("grpo", 1)], missing=[("pedagogical", 2)]))
    assert "Unfinished comparison." in page.text
    assert "grpo: unfinished seed 1 (left out of the scores)" in page.text
    assert "pedagogical: no result for seed 2" in page.text


def test_a_metric_that_nobody_logs_leaves_its_panel_out(build_run: BuildRun) -> None:
    out = build_run(methods=("grpo",), seeds=1, **SMALL)
    page = report(out)
    assert "Student: correct rollouts" in page.headings
    assert not any(heading.startswith("Teacher") for heading in page.headings)
    metrics = pd.read_parquet(out / "metrics.parquet")
    metrics[metrics["split"] == "test"].to_parquet(out / "metrics.parquet")
    bare = report(out)
    assert "Mechanism" not in bare.headings
    assert "Wall time of one run" not in bare.headings


def test_text_of_the_config_is_escaped(build_run: BuildRun) -> None:
    out = build_run(methods=("grpo",), seeds=1, config={"preset": "<script>x</script>"}, **SMALL)
    write_report(out)
    assert "<script" not in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("method", "role"), [("pedagogical", "teacher"), ("opsd", "student")])
def test_a_style_that_stops_being_used_falls_to_zero_instead_of_ending(
    build_run: BuildRun, method: str, role: str
) -> None:
    out = build_run(methods=(method,), seeds=1, **SMALL)
    metrics = pd.read_parquet(out / "metrics.parquet")
    gone = (metrics["name"] == f"{role}/style:fused") & (metrics["step"] > 8)
    metrics[~gone].to_parquet(out / "metrics.parquet")
    _, (ax,) = canvas.figure(canvas.PAPER, 4, 3)
    panel = panels.panel_for(f"{role}/style:fused")
    assert plots.draw_panel(ax, panel, load(out)) == [method]
    line = ax.get_lines()[0]
    assert np.asarray(line.get_xdata())[-1] == 10_240
    assert np.asarray(line.get_ydata())[-1] == 0.0


def test_the_curve_png_is_a_wide_picture_with_the_methods_colours(build_run: BuildRun) -> None:
    out = build_run(methods=("pedagogical", "grpo"), seeds=2, **SMALL)
    write_report(out)
    picture = imread(out / "curves.png")
    assert picture.shape[1] > 1.8 * picture.shape[0] > 1000
    seen = {tuple(pixel) for pixel in (picture[..., :3] * 255).round().astype(int).reshape(-1, 3)}
    for method in ("pedagogical", "grpo"):
        color = canvas.COLORS[method]
        assert tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) in seen


def test_labels_at_the_ends_of_curves_do_not_touch(build_run: BuildRun) -> None:
    out = build_run(methods=tuple(f"method-{i}" for i in range(12)), seeds=2, **SMALL)
    results = pd.read_parquet(out / "results.parquet")
    results.assign(correct=results["samples"]).to_parquet(out / "results.parquet")  # all at 100%
    _, (ax,) = canvas.figure(canvas.PAPER, 5, 4)
    plots.draw_curves(ax, load(out), canvas.PAPER)
    places = sorted(text.xy[1] for text in ax.texts if isinstance(text, Annotation))
    assert len(places) == 12
    assert min(b - a for a, b in itertools.pairwise(places)) > 0.05
    assert places[-1] <= 1.0


def test_low_curves_get_a_scale_on_which_they_can_be_told_apart(build_run: BuildRun) -> None:
    out = build_run(methods=("opsd", "reference-sft"), seeds=2, **SMALL)
    tops = {}
    for solved in (0, 1, 4):
        results = pd.read_parquet(out / "results.parquet")
        on_task = results["task_id"] < f"lexicon/{solved:03d}"
        results.assign(correct=results["samples"] * on_task).to_parquet(out / "results.parquet")
        _, (ax,) = canvas.figure(canvas.PAPER, 5, 4)
        plots.draw_curves(ax, load(out), canvas.PAPER)
        tops[solved] = ax.get_yticks()[-1]
    assert tops == {0: 0.05, 1: 0.1, 4: 0.25}  # 0, 1 and 4 of 20 tasks


def test_every_known_panel_and_budget_is_explained() -> None:
    assert all(panel.reading.endswith(".") for panel in panels.KNOWN)
    other = panels.panels(["teacher/G:steps", "student/length", "my/number", "budget/rollouts"])
    assert [panel.metric for panel in other] == ["my/number", "student/length", "teacher/G:steps"]
    assert not any(panel.main for panel in other)


def test_a_folder_without_results_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(PedrlError, match=r"config\.json"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_sentence_of_the_template_names_a_winner() -> None:
    source = Path(plots.__file__).parent / "templates" / "report.html.j2"
    words = re.sub(r"{[{%].*?[%}]}", "", source.read_text(encoding="utf-8"))
    assert not re.search(r"pedagogical|grpo|opsd", words)
