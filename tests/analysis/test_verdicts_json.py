"""verdicts.json: every study's fits the schema, and its answer says what the verdicts say."""

import json
from importlib.resources import files

import jsonschema
import pandas as pd
import pytest

from headtohead.analysis.claims import KEYS
from headtohead.analysis.judging import judge_runs
from headtohead.analysis.runs import Asked, Metric
from headtohead.analysis.settings import SETTINGS_KEYS
from headtohead.analysis.summary import ANSWER_KEYS, VERDICTS_VERSION, answer_fields, summarise, verdicts_json
from headtohead.testing import ACCURACY, make_study

SCHEMA = json.loads((files("headtohead.record") / "verdicts.schema.json").read_text(encoding="utf-8"))
BETTER = {"sigmoid": {"test_accuracy": -0.05, "val_accuracy": -0.05}}
TWO = {
    f"classes={count},{head}": [f"head={head}", f"classes={count}"]
    for count in (2, 9)
    for head in ("softmax", "sigmoid")
}
STUDIES = {
    "default": {},
    "better": {"effects": BETTER},
    "one_arm": {"arms": ("softmax",)},
    "untuned": {"tuned": False},
    "one_seed": {"seeds": 1},
    "diverged": {"diverged": [(None, None, None)], "seeds": 2, "records": True},
    "failed": {"failed": [(None, None, None)], "seeds": 2, "lrs": (0.1, 1.0)},
    "no_claims": {"claims": {}},
    "settings": {"arms": TWO, "claims": {"accuracy": ACCURACY | {"weight": 1.0}}, "seeds": 4},
}


def validated(summary):
    content = json.loads(verdicts_json(summary), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    return content


@pytest.mark.parametrize("name", STUDIES)
def test_the_verdicts_of_a_study_fit_the_schema(tmp_path, name):
    content = validated(summarise(make_study(tmp_path / name, **{"seeds": 4, "records": False} | STUDIES[name])))
    assert content["version"] == VERDICTS_VERSION
    assert len(content["claims"]) > 0 or name in ("one_arm", "no_claims")
    assert bool(content["settings"]) == bool(content["answer"]["settings"]) == (name == "settings")


def test_the_verdicts_of_other_runs_fit_the_schema():
    rows = [
        {"head": head, "seed": seed, "data": data, "loss": seed + index * 0.3 + (seed * 7 % 5) * 0.01 * index}
        for data in ("x", "y")
        for index, head in enumerate("abc")
        for seed in range(4)
    ]
    for settings in ((), ("data",)):
        frame = pd.DataFrame(rows).iloc[: None if settings else len(rows) // 2]
        summary = judge_runs(frame, Asked("head", "seed", (Metric("loss", 0.1, "lower"),), settings), "frame")
        assert len(validated(summary)["settings"]) == 2 * len(settings)


def test_the_schema_names_every_key_and_no_other():
    defined = SCHEMA["$defs"]
    for name, keys in (("claim", KEYS), ("across", SETTINGS_KEYS), ("comparison", ANSWER_KEYS)):
        assert set(defined[name]["properties"]) == set(defined[name]["required"]) == set(keys)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == VERDICTS_VERSION


@pytest.mark.parametrize(
    ("effects", "decision", "winner"),
    [
        (BETTER, "winner", "softmax"),
        ({"sigmoid": {"test_accuracy": -0.05, "val_accuracy": 0.01}}, "winner", "softmax"),
        ({"sigmoid": {"test_accuracy": 0.004, "val_accuracy": 0.05}}, "undecided", None),
        ({}, "equivalent", None),
    ],
)
def test_the_answer_names_its_decision_and_winner(tmp_path, effects, decision, winner):
    noise = 0.2 if decision == "equivalent" else 1.0
    claims = {"accuracy": ACCURACY | {"weight": 1.0}}
    study = make_study(tmp_path / "s", seeds=10, effects=effects, noise=noise, claims=claims, records=False)
    answer = summarise(study).answer
    assert (answer.decision, answer.winner) == (decision, winner), answer
    assert (f"Use {winner} at" in answer.headline) == (winner is not None)


def test_an_answer_that_recommends_nothing_decides_nothing(tmp_path):
    for name in ("untuned", "one_seed", "diverged", "one_arm"):
        options = {"effects": BETTER, "records": False, "seeds": 4} | STUDIES[name]
        answer = summarise(make_study(tmp_path / name, **options)).answer
        assert (answer.decision, answer.winner) == ("none", None), answer


def test_the_answer_across_settings_holds_that_of_each(tmp_path):
    effects = {arm: {"test_accuracy": -0.05, "val_accuracy": -0.05} for arm in TWO if "sigmoid" in arm}
    options = STUDIES["settings"] | {"seeds": 8, "records": False}
    answer = summarise(make_study(tmp_path / "s", effects=effects, **options)).answer
    assert (answer.decision, answer.winner) == ("winner", "softmax")
    assert [(part.decision, part.winner) for part in answer.settings.values()] == [("winner", "softmax")] * 2
    assert [*answer_fields(answer)["settings"]] == ["classes=2", "classes=9"]
    assert str(answer).splitlines() == [answer.headline, *answer.sentences]
