"""Whether a challenger replaces the champion, and what the verdict says."""

import json
import math
from dataclasses import replace

import pytest
from scipy import stats

from ldebm.config import Params, RuleConfig, load_params, parse
from ldebm.errors import UsageError
from pipelines.candidates import Candidate
from pipelines.champion import Verdict, decide, improvement

RULE = RuleConfig()
FILES = {"train.x.npy": "1", "test.x.npy": "2", "tokenizer.model": "3"}
VALID = {"success": True, "results": []}


def candidate(values: dict[int, float | None], where: str = "here", **more) -> Candidate:
    """Runs with these values of nll."""
    metrics = {seed: {"nll": value} for seed, value in values.items()}
    filled = {"files": FILES, "validation": VALID, "evaluate": {"rows": 200}, **more}
    return Candidate("letters", where, "mail", metrics, **filled)


CHAMPION = candidate({0: 10.0, 1: 10.2, 2: 9.9}, "letters@v1.0.0")
BETTER = candidate({0: 9.0, 1: 9.3, 2: 8.9})


def refused(verdict: Verdict) -> str:
    """The deciding reason of a refusal."""
    assert not verdict.promote
    assert all("\n" not in reason for reason in verdict.reasons)
    return verdict.reasons[0]


def test_a_challenger_that_is_better_on_every_seed_is_promoted_with_the_interval_in_words():
    verdict = decide(CHAMPION, BETTER, RULE)
    assert verdict.promote
    assert "10.033 -> 9.0667: better by 0.9667, 95% interval" in verdict.reasons[0]
    assert "paired over seeds 0, 1, 2" in verdict.reasons[0]
    assert json.loads(json.dumps(verdict.to_json()))["decision"] == "promote"


def test_the_paired_interval_is_that_of_students_t():
    row = improvement("nll", "lower", CHAMPION, BETTER)
    expected = stats.ttest_rel([10.0, 10.2, 9.9], [9.0, 9.3, 8.9]).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_with_other_seeds_the_interval_is_welchs():
    other = candidate({3: 9.0, 4: 9.3})
    row = improvement("nll", "lower", CHAMPION, other)
    test = stats.ttest_ind([10.0, 10.2, 9.9], [9.0, 9.3], equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
    assert "unpaired" in row.how


def test_one_seed_takes_the_interval_of_the_reports_and_says_so():
    old, new = {"nll": 10.0, "nll_low": 9.7, "nll_high": 10.3}, {
        "nll": 9.0, "nll_low": 8.6, "nll_high": 9.4
    }  # fmt: skip
    verdict = decide(replace(CHAMPION, metrics={0: old}), replace(BETTER, metrics={0: new}), RULE)
    assert verdict.promote
    (row,) = verdict.rows
    assert (row.low, row.high) == pytest.approx((0.5, 1.5))
    assert "nll_low, nll_high" in row.how
    assert any("one seed" in note for note in verdict.notes)


def test_one_seed_without_an_interval_is_refused_whatever_the_difference():
    text = refused(decide(candidate({0: 10.0}), candidate({0: 1.0}), RULE))
    assert "give retrain.seeds two seeds or more" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({0: 9.9, 1: 10.6, 2: 9.5}, "that does not show that the challenger is better at all"),
        ({0: 11.0, 1: 11.2, 2: 10.9}, "the challenger is not better"),
    ],
)
def test_a_challenger_within_the_noise_of_seeds_or_worse_is_refused(values, words):
    assert words in refused(decide(CHAMPION, candidate(values), RULE))


def test_the_whole_interval_has_to_lie_above_the_declared_minimum():
    assert "better by more than 2" in refused(decide(CHAMPION, BETTER, RuleConfig(minimum=2.0)))
    verdict = decide(CHAMPION, BETTER, RuleConfig(minimum=0.5))
    assert "more than the 0.5 asked for" in verdict.reasons[0]


def test_where_higher_is_better_more_is_an_improvement():
    rule = RuleConfig(metric="nll", direction="higher")
    assert decide(BETTER, CHAMPION, rule).promote
    assert not decide(CHAMPION, BETTER, rule).promote


def test_a_guard_that_gets_worse_than_its_tolerance_refuses_a_better_model():
    def runs(one: Candidate, value: float) -> Candidate:
        return replace(one, metrics={s: {**run, "ami": value} for s, run in one.metrics.items()})

    guard = {"direction": "higher", "tolerance": 0.1}
    rule = parse(RuleConfig, {"guards": {"ami": guard}}, "")
    assert decide(runs(CHAMPION, 0.7), runs(BETTER, 0.65), rule).promote
    text = refused(decide(runs(CHAMPION, 0.7), runs(BETTER, 0.5), rule))
    assert text == "ami 0.7 -> 0.5: worse by 0.2, allowed 0.1"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_metric_that_is_not_a_finite_number_is_refused_with_its_seed(value):
    text = refused(decide(CHAMPION, candidate({0: 9.0, 1: value, 2: 9.0}), RULE))
    assert text == "nll of the challenger (here) is undefined, not a finite number, for seed 1"


def test_a_missing_metric_is_refused_on_either_side():
    rule = RuleConfig(metric="bleu")
    assert "bleu of the challenger (here) is missing" in refused(decide(CHAMPION, BETTER, rule))
    full = replace(BETTER, metrics={s: {"bleu": 1.0, "nll": 1.0} for s in range(3)})
    assert "bleu of the champion (letters@v1.0.0) is missing" in refused(
        decide(CHAMPION, full, rule)
    )
    assert "was not evaluated" in refused(decide(CHAMPION, candidate({}), RULE))


def test_failed_validation_is_refused_before_anything_else_and_named():
    failed = [{"success": False, "detail": "text: 12 empty rows"}]
    report = {"success": False, "results": failed}
    for champion in (None, CHAMPION):
        text = refused(decide(champion, replace(BETTER, validation=report), RULE))
        assert text == "data set 'mail' failed validation: text: 12 empty rows"
    assert "not validated" in refused(decide(None, replace(BETTER, validation=None), RULE))


def test_other_test_rows_another_vocabulary_or_other_settings_cannot_be_compared():
    changed = {**FILES, "test.x.npy": "9"}
    assert "the test data of 'mail' changed (test.x.npy)" in refused(
        decide(CHAMPION, replace(BETTER, files=changed), RULE)
    )
    words = {**FILES, "tokenizer.model": "9"}
    assert "tokenizer.model" in refused(decide(CHAMPION, replace(BETTER, files=words), RULE))
    settings = refused(decide(CHAMPION, replace(BETTER, evaluate={"rows": 50}), RULE))
    assert settings == "evaluated with other settings: rows"
    other = refused(decide(CHAMPION, replace(BETTER, data="post"), RULE))
    assert "different data sets" in other


def test_more_training_data_with_the_same_test_rows_compare_and_the_verdict_notes_it():
    verdict = decide(CHAMPION, replace(BETTER, files={**FILES, "train.x.npy": "9"}), RULE)
    assert verdict.promote
    assert verdict.notes == ("trained on other data (train.x.npy), tested on the same",)


def test_the_first_valid_model_is_promoted_and_the_same_model_is_not_promoted_twice():
    first = decide(None, BETTER, RULE)
    assert first.promote
    assert "first version" in first.reasons[0]
    same = replace(CHAMPION, models={0: "a", 1: "b", 2: "c"})
    assert "same bytes" in refused(decide(same, same, RULE))


def test_rules_are_typed_and_a_mistake_in_them_names_the_key():
    content = {
        "run": {"datasets": ["d"], "experiments": ["e"], "seeds": [0]},
        "data": {"d": {"kind": "points", "source": "gaussians16"}},
        "experiments": {
            "e": {
                "data": "d",
                "backbone": {"arch": "mlp", "latent": 2, "training": {"epochs": 1}},
                "prior": {"training": {"updates": 10}},
            }
        },
    }
    assert parse(Params, content, "").retrain.rule_of("e").metric == "nll"
    wrong = {
        "minimun": {"rule": {"minimun": 1}},
        "direction": {"rules": {"e": {"direction": "up"}}},
        "each only once": {"seeds": [1, 1]},
        "git tags": {"stages": ["the champion"]},
    }
    for words, section in wrong.items():
        with pytest.raises(UsageError, match=words) as caught:
            parse(Params, {**content, "retrain": section}, "")
        assert "retrain" in str(caught.value)


def test_the_projects_own_rules_name_metrics_that_its_recorded_runs_have():
    params = load_params("params.yaml")
    for name in params.run.experiments:
        with open(f"results/{name}/0.json", encoding="utf-8") as stream:
            metrics = json.load(stream)["metrics"]
        rule = params.retrain.rule_of(name)
        assert {rule.metric, *rule.guards} <= metrics.keys(), name
