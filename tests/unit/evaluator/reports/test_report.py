"""The report."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import random
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pytest
from luthierd.evaluator.dataset.parsing import detect_task
from luthierd.evaluator.dataset.rows import write_rows
from luthierd.evaluator.domain.arm import DEFAULT_ARMS, Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Results
from luthierd.evaluator.domain.holdout import HoldoutUse, LeakageFinding, LeakageReport
from luthierd.evaluator.domain.metric_details import (
    ClassMetrics,
    CriterionValue,
    JudgeReport,
    LabelReport,
    MetricDetails,
    Share,
    StyleReport,
)
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.retrieval import (
    Relevance,
    RetrievalMetric,
    RetrievalSummary,
    Retriever,
    RetrieverResult,
)
from luthierd.evaluator.domain.rows import Answer, AnswerError
from luthierd.evaluator.domain.scores import (
    Comparison,
    Confusion,
    MetricResult,
    MetricResults,
    SuiteFigure,
    SuiteResult,
)
from luthierd.evaluator.domain.sequential import SequentialDecision, SequentialOutcome, SequentialTarget
from luthierd.evaluator.models.costs import arm_costs
from luthierd.evaluator.reports.plots import Axis, cost_quality_plane, forest_plot
from luthierd.evaluator.reports.report import ReportData, cell, confusion_table, forest_lines, render_report
from luthierd.evaluator.reports.tables import ARM_LABELS, metric_tables
from luthierd.evaluator.scorers.chrf import ChrfScorer
from luthierd.evaluator.scorers.json_validity import JsonValidityScorer
from luthierd.evaluator.scorers.labels import LabelAccuracyScorer
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.rouge_l import RougeLScorer
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.jsonl import write_lines
from luthierd.statistics.estimates import Interval
from markupsafe import escape
from support.evaluator_material import answer, rows

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
INPUTS = EvaluationInputs(
    adapter_revision="tenants/acme/adapters/docs/revisions/r1",
    adapter_sha256="a" * 64,
    base_model="baseModels/smollm2",
    base_model_sha256="b" * 64,
    dataset_revision="tenants/acme/datasets/docs/revisions/r1",
    dataset_sha256="c" * 64,
    rows_sha256="d" * 64,
    train_sha256="e" * 64,
    trained_sha256="e" * 64,
)
ROWS = rows(45)
SPEED_S = {Arm.BASE: 3.0, Arm.PROMPTED: 3.6, Arm.RAG: 5.5, Arm.ADAPTER: 2.2, Arm.ADAPTER_RAG: 4.4}
SKILL = {Arm.BASE: 0.1, Arm.PROMPTED: 0.4, Arm.RAG: 0.6, Arm.ADAPTER: 0.85, Arm.ADAPTER_RAG: 0.8}


def said(rng: random.Random, arm: Arm, reference: str) -> str:
    """An answer that keeps each word of the reference with the arm's skill."""
    if arm is Arm.BASE:
        return "Sure! This <script>alert(1)</script> function returns something."
    words = reference.split(" ")
    return " ".join(word if rng.random() < SKILL[arm] or '"' in word else "thing" for word in words)


async def data() -> ReportData:
    rng = random.Random(0)
    answers: dict[Arm, dict[str, Answer]] = {}
    for arm in DEFAULT_ARMS:
        answers[arm] = {
            row.id: answer(
                arm,
                row.id,
                said(rng, arm, row.reference),
                start_s=i // 16 * SPEED_S[arm],
                total_s=SPEED_S[arm] * rng.uniform(0.5, 1),
            )
            for i, row in enumerate(ROWS)
        }
    failed = answers[Arm.RAG]["holdout-3"]
    answers[Arm.RAG]["holdout-3"] = dataclasses.replace(
        failed, text="", error=AnswerError("PROMPT_TOO_LONG", "too long")
    )
    task = detect_task(ROWS)
    scorers = [JsonValidityScorer(), LabelAccuracyScorer(), RougeLScorer(), ChrfScorer()]
    scored = await Scoring(task=task, scorers=scorers, n_resamples=500).score(ROWS, answers)
    config = EvaluationConfig()
    results = Results(
        overall=scored.overall,
        costs=arm_costs({arm: list(answers[arm].values()) for arm in DEFAULT_ARMS}, machine_price_per_hour=0.1),
        row_count=len(ROWS),
        group_count=15,
        task=task,
        index_sha256="f" * 64,
        versions={"ragas": "0.4.3", "numpy": "2"},
        answers_sha256="0" * 64,
        report_sha256="",
    )
    written = write_rows(ROWS, answers, scored.rows)
    assert len(write_lines(written).splitlines()) == len(ROWS)
    return ReportData(
        name="tenants/acme/evaluations/e1",
        inputs=INPUTS,
        config=config,
        results=results,
        rows=written,
        confusions=scored.confusions,
    )


async def test_the_report_is_one_file_that_fetches_nothing_and_runs_no_script() -> None:
    html = render_report(await data())
    assert "<script" not in html
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", html)
    assert "default-src 'none'" in html


async def test_the_verdict_stands_before_every_figure() -> None:
    html = render_report(await data())
    body = html[html.index("<body>") :]
    assert body.index('class="word">GO<') < body.index("<table>")
    assert body.index("Fine-tune: not shown to differ from adapter_rag") < body.index("<table>")


async def test_every_digest_is_in_the_lineage() -> None:
    html = render_report(await data())
    for digest in [letter * 64 for letter in "abcdef0"]:
        assert digest in html


async def test_answers_are_shown_as_text_and_failures_by_reason() -> None:
    html = render_report(await data())
    assert "PROMPT_TOO_LONG" in html
    assert "98%" in html  # coverage of the arm with one failed row of 45


async def test_the_same_data_gives_the_same_bytes() -> None:
    assert render_report(await data()) == render_report(await data())


async def test_an_evaluation_of_the_adapter_alone_has_no_verdict_and_still_a_report() -> None:
    full = await data()
    figures = dataclasses.replace(
        full.results.overall,
        metrics=[found for found in full.results.overall.metrics if found.arm is Arm.ADAPTER],
        comparisons=[],
    )
    results = dataclasses.replace(
        full.results, overall=figures, costs=[cost for cost in full.results.costs if cost.arm is Arm.ADAPTER]
    )
    config = dataclasses.replace(full.config, arms=(Arm.ADAPTER,))
    html = render_report(dataclasses.replace(full, config=config, results=results))
    assert "No verdict: there is nothing to compare adapter with." in html
    assert "INCONCLUSIVE" in html


def test_an_axis_puts_round_ticks_inside_its_ends() -> None:
    assert Axis(-0.13, 0.42, 0, 100).ticks(6) == pytest.approx([-0.1, 0.0, 0.1, 0.2, 0.3, 0.4])
    assert Axis(0, 0.004, 0, 100).ticks(5) == pytest.approx([0, 0.001, 0.002, 0.003, 0.004])
    assert Axis(0.0, 1.0, 10, 110).at(0.5) == 60


def test_without_figures_there_is_no_plot() -> None:
    assert forest_plot([]) == ""
    assert cost_quality_plane([], quality_label="x") == ""


def test_many_labels_are_shown_as_the_most_frequent_and_the_rest() -> None:
    counts = {(f"label-{number:02}", f"label-{number:02}"): 30 - number for number in range(20)}
    counts |= {("label-00", "label-19"): 3, ("label-19", "(other)"): 2}
    table = confusion_table(Confusion(tuple(f"label-{number:02}" for number in range(20)), counts))
    assert table is not None
    assert table.labels == (*(f"label-{number:02}" for number in range(11)), "(rest)")
    assert sum(map(sum, table.counts)) == sum(counts.values())
    assert table.counts[0][table.columns.index("(rest)")] == 3
    assert table.counts[-1][table.columns.index("(other)")] == 2
    assert table.largest == 3


async def test_what_only_some_evaluations_have_is_shown_where_there_is_some() -> None:
    plain = await data()
    assert "Decided in rounds" not in render_report(plain)
    interval = Interval(0.1, 0.3, "by hand", 20)
    target = SequentialTarget(Metric("rouge_l"), Arm.ADAPTER, Arm.BASE)
    figures = (RetrievalMetric("recall@3", 0.5, 0.4, 0.6),)
    results = dataclasses.replace(
        plain.results,
        slices={"label:stats": plain.results.overall},
        suites=[
            SuiteResult(
                suite="retention",
                sha256="f" * 64,
                item_count=9,
                answers_sha256="",
                figures=[SuiteFigure(Arm.BASE, "bits_per_byte", 1.25, interval, 9)],
            )
        ],
        retrieval=RetrievalSummary(
            chosen=Retriever.BM25,
            judged_on="validation",
            relevance=Relevance.SIMILAR_REFERENCE,
            cutoff=3,
            retrievers=(RetrieverResult(Retriever.BM25, figures, "e" * 64),),
            row_count=12,
            judged_count=10,
        ),
        sequential_decisions=(
            SequentialDecision(
                target=target,
                outcome=SequentialOutcome.ABOVE,
                row_count=40,
                group_count=20,
                round_count=2,
                difference=0.2,
                interval=interval,
            ),
        ),
        holdout_use=HoldoutUse(access_count=12),
        leakage=LeakageReport((LeakageFinding("near_duplicate", "h1", "t1", "train", 0.71),), {"near_duplicate": 1}),
        metric_details=MetricDetails(failures={"rag": {"faithfulness": {"JUDGE_UNREADABLE": 2}}}),
    )
    html = render_report(dataclasses.replace(plain, results=results))
    for shown in (
        "label:stats",
        "1.250 [0.100, 0.300]",
        "bm25 (used)",
        "10 of 12 validation rows",
        "rouge_l: Adapter minus Base above 0",
        results.holdout_use.warning if results.holdout_use else "",
        "t1 in train",
        "JUDGE_UNREADABLE",
    ):
        assert html.count(str(escape(shown))) >= 1, shown


async def measured() -> ReportData:
    """A report with everything that measuring can tell."""
    plain = await data()
    interval = Interval(0.71, 0.89, "by hand", 20)
    own = [
        Metric("style"),
        Metric("forgetting_choice"),
        Metric("counterfactual_stability"),
        Metric("expected_behaviour"),
    ]
    own.append(Metric("lm_eval"))
    cloze = [
        MetricResult(arm=arm, metric=Metric("lm_eval"), value=value, interval=None, row_count=5, scored_count=5)
        for arm, value in ((Arm.BASE, 0.2), (Arm.ADAPTER, 0.6))
    ]
    further = [
        MetricResult(arm=arm, metric=metric, value=0.8, interval=interval, row_count=7, scored_count=7)
        for metric in own
        for arm in (Arm.BASE, Arm.ADAPTER)
    ]
    change = Comparison(
        metric=Metric("forgetting_choice"),
        arm=Arm.ADAPTER,
        reference=Arm.BASE,
        difference=-0.04,
        interval=Interval(-0.09, 0.01, "", 9),
        minimum_detectable_effect=0.1,
        row_count=7,
        group_count=9,
    )
    figures = dataclasses.replace(
        plain.results.overall,
        metrics=[*plain.results.overall.metrics, *further],
        comparisons=[*plain.results.overall.comparisons, change],
    )
    share = Share(0.5, 0.4, 0.6)
    metric_details = MetricDetails(
        labels={"adapter": LabelReport(0.61, 0.52, (ClassMetrics("<b>stats", 9, share, Share(0.25), 0.333),))},
        criteria={
            "base": (CriterionValue("Tone <i>", Share(0.31), 0.9),),
            "adapter": (CriterionValue("Tone <i>", share, 1.0), CriterionValue("Brevity", Share(0.7), 1.0)),
        },
        judge=JudgeReport(
            judge="judges/<script>",
            model="m",
            prompts_sha256="9" * 64,
            call_count=40,
            cached_count=3,
            parse_failure_count=2,
            failure_counts={"REFUSED": 1},
            pair_count=12,
            disagreement_count=5,
            first_position_share=0.75,
        ),
        style=StyleReport(0.93, 60, 58),
    )
    rates = [SuiteFigure(Arm.ADAPTER, "flip_rate_gender", 0.125, interval, 8)]
    suites = [SuiteResult(suite="counterfactual", sha256="a" * 64, item_count=8, answers_sha256="", figures=rates)]
    return dataclasses.replace(
        plain,
        results=dataclasses.replace(
            plain.results,
            overall=figures,
            metric_details=metric_details,
            suites=suites,
            slices={"lm_eval:luthier_cloze": MetricResults(cloze, []), "label:stats": plain.results.overall},
        ),
    )


LM_TASKS = "Tasks of lm-evaluation-harness"
SECTIONS = ("Rubric", "Style", "Labels, one by one", "Challenge cases", "Forgetting", "Bias", LM_TASKS, "The judge")


async def test_rubric_style_forgetting_bias_and_the_judge_have_a_section_where_they_were_measured() -> None:
    plain, html = render_report(await data()), render_report(await measured())
    for title in SECTIONS:
        assert f"<h2>{title}</h2>" not in plain
        assert html.count(f"<h2>{title}</h2>") == 1
    for shown in (
        "0.310 (90% graded)",
        "0.500 [0.400, 0.600]",
        "-0.040 [-0.090, +0.010]",
        "flip rate gender",
        "0.125 [0.710, 0.890]",
        "right in 93%",
        "precision 0.610, recall 0.520",
        "Pairs whose winner changed with the order",
        "Tone &lt;i&gt;",
        "&lt;b&gt;stats",
        "judges/&lt;script&gt;",
    ):
        assert shown in html, shown


async def test_what_is_measured_beyond_the_holdout_is_no_column_of_the_holdout_s_table() -> None:
    html = render_report(await measured())
    quality = html[html.index("<h2>Quality</h2>") : html.index("<h2>What the adapter changes</h2>")]
    assert spec_of(Metric("style")).title in quality
    assert spec_of(Metric("forgetting_choice")).title not in quality
    assert spec_of(Metric("forgetting_choice")).title in html[html.index("<h2>Forgetting</h2>") :]


async def test_lm_eval_s_tasks_stand_together_and_one_by_one_with_base_beside_adapter() -> None:
    (table,) = [one for one in metric_tables((await measured()).results) if one.title == LM_TASKS]
    assert table.heads == ("Task", "Items", "Base", "Adapter", "Adapter minus Base")
    assert table.rows[0][:2] == ("all tasks", "7")
    assert table.rows[1:] == (("luthier_cloze", "5", "0.200", "0.600", ""),)


async def test_every_row_of_a_table_is_as_long_as_its_heads() -> None:
    results = (await measured()).results
    found = metric_tables(results)
    assert [table.title for table in found] == list(SECTIONS)
    assert {len(row) - len(table.heads) for table in found for row in table.rows} == {0}


async def test_every_arm_has_a_colour_in_both_schemes() -> None:
    html = render_report(await data())
    assert {html.count(f"--{arm}: #") for arm in ARM_LABELS} == {2}


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
async def test_a_browser_shows_every_section_and_makes_no_element_of_what_a_model_said(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(await measured()))
    found = await asyncio.to_thread(
        subprocess.run,
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shown = Elements()
    shown.feed(found.stdout)
    assert shown.tags["h2"] >= len(SECTIONS)
    assert shown.tags["svg"] == 2
    assert shown.tags["th"] == shown.scopes
    assert not shown.tags.keys() & {"script", "img", "link", "iframe", "form"}
    assert shown.tags.keys() >= {"main", "section", "table"}


class Elements(HTMLParser):
    """Counts the elements of a page, and the heads that say what they head."""

    def __init__(self) -> None:
        super().__init__()
        self.tags = Counter[str]()
        self.scopes = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.scopes += tag == "th" and dict(attrs).get("scope") in ("col", "row")


async def test_a_regression_shows_what_the_rival_was_shown() -> None:
    plain = await data()
    rows = [
        row
        | {
            "answers": [
                said | {"shown_row_ids": ["train-7"] if said["arm"] == "rag" else []} for said in row["answers"]
            ]
        }
        for row in plain.rows
    ]
    html = render_report(dataclasses.replace(plain, rows=rows, shown={"train-7": "What the <index> held."}))
    assert "What the &lt;index&gt; held." in html


async def test_a_metric_that_no_row_has_a_score_of_shows_none_and_no_difference() -> None:
    found = await data()
    whole = Interval(0.0, 0.2, "test", 15)
    unscored = [
        MetricResult(arm=arm, metric=Metric("rubric"), value=0.0, interval=whole, row_count=45, scored_count=0)
        for arm in (Arm.BASE, Arm.ADAPTER)
    ]
    equal = Comparison(
        metric=Metric("rubric"),
        arm=Arm.ADAPTER,
        reference=Arm.BASE,
        difference=0.0,
        interval=Interval(-0.2, 0.2, "test", 15),
        minimum_detectable_effect=None,
        row_count=45,
        group_count=15,
    )
    figures = found.results.overall
    figures = dataclasses.replace(
        figures, metrics=[*figures.metrics, *unscored], comparisons=[*figures.comparisons, equal]
    )
    results = dataclasses.replace(found.results, overall=figures)
    shown = cell(results, Arm.ADAPTER, Metric("rubric"))
    assert (shown.value, shown.interval) == ("-", "no row has a score")
    assert forest_lines(results, [Metric("rubric")]) == []
    assert forest_lines(results, [Metric("rouge_l")]) != []
    slices = {"lm_eval:cloze": dataclasses.replace(figures, metrics=unscored, comparisons=[])}
    html = render_report(dataclasses.replace(found, results=dataclasses.replace(results, slices=slices)))
    assert "no row has a score" in html
    assert "lm_eval:cloze" not in html
