"""The training loop against torch.optim, scikit-learn and itself."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run, vary
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from headtohead.options import ConfigError
from headtohead.training import data
from headtohead.training.config import parse
from headtohead.training.loop import logged_steps, may_share_a_pack, schedule_factors, train
from headtohead.training.metrics import recorded_metrics
from headtohead.training.models import initialise

SHORT = ["dataset=digits", "model.widths=[16]", "training.epochs=2", "dataset.train_size=200"]
CPU = torch.device("cpu")


def test_equals_a_loop_written_with_torch_optim(config):
    """Softmax, AdamW, clipping and a cosine schedule with warm-up; only the batches are ours."""
    adamw = ["optimizer=adamw", "optimizer.lr=0.01", "optimizer.clip_norm=0.3", "optimizer.weight_decay=0.1"]
    ours = config(*SHORT, *adamw, "precision=float64", "training.warmup=0.25")
    points, (outcome,) = run([ours])

    pool = data.load(ours.dataset, CPU)
    view = data.view(pool, ours.dataset, 0)
    model = initialise(ours.model, ours.head, pool.input_shape, 10, seed=0).double()
    torch.nn.init.zeros_(model.classifier.bias)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    steps, warmup = 6, 2
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (s + 1) / warmup if s < warmup else (1 + math.cos(math.pi * (s - warmup) / (steps - warmup))) / 2,
    )
    stream = data.batches(pool, [view], ours.dataset, [0], 64, torch.float64)
    losses, norms = [], []
    for _ in range(steps):
        (inputs,), (labels,) = next(stream)
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3).item())
        optimizer.step()
        schedule.step()
        losses.append(loss.item())

    assert [point.step for point in points] == [0, 1, 2, 3, 4, 5, 6]
    assert points[0].values["train_loss"][0] == pytest.approx(losses[0], rel=1e-10)
    assert [point.values["train_loss"][0] for point in points[1:]] == pytest.approx(losses, rel=1e-10)
    assert [point.values["grad_norm_total"][0] for point in points[:-1]] == pytest.approx(norms, rel=1e-10)
    assert outcome.metrics["grad_norm_mean"] == pytest.approx(np.mean(norms))
    assert outcome.metrics["grad_norm_max"] == pytest.approx(np.max(norms))
    assert outcome.metrics["grad_norm_cv"] == pytest.approx(np.std(norms) / np.mean(norms))
    with torch.no_grad():
        inputs = pool.inputs[view.val].double()
        logits = model((inputs - view.mean) / view.std)
    labels = pool.labels[view.val]
    assert outcome.metrics["val_nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert outcome.metrics["val_accuracy"] == (logits.argmax(1) == labels).double().mean()


@pytest.mark.parametrize(
    ("head", "oracle"),
    [
        ("softmax", LogisticRegression(tol=1e-10, max_iter=5000)),
        ("sigmoid", OneVsRestClassifier(LogisticRegression(tol=1e-10, max_iter=5000))),
    ],
)
def test_converged_linear_model_equals_scikit_learn(config, head, oracle):
    """Full batches with weight decay as the L2 penalty: C = 1 / (N weight_decay)."""
    decay = 0.01
    ours = config(
        "dataset=wine", "model=linear", f"head={head}", "precision=float64", "training.epochs=3000",
        "training.batch_size=100000", "training.schedule=constant", "training.warmup=0", "training.points=1",
        "training.evaluations=1", "optimizer.lr=0.3", f"optimizer.weight_decay={decay}",
    )  # fmt: skip
    _, (outcome,) = run([ours])
    pool = data.load(ours.dataset, CPU)
    view = data.view(pool, ours.dataset, 0)
    standard = ((pool.inputs.double() - view.mean) / view.std).numpy()
    labels = pool.labels.numpy()
    estimator = oracle.estimator if head == "sigmoid" else oracle
    estimator.C = 1 / (decay * len(view.train))
    oracle.fit(standard[view.train], labels[view.train])
    for split, index in (("val", view.val), ("test", view.test)):
        probabilities = oracle.predict_proba(standard[index])  # one-vs-rest divides by the sum, like our link
        nll = -np.log(probabilities[np.arange(len(index)), labels[index]]).mean()
        assert outcome.metrics[f"{split}_nll"] == pytest.approx(nll, rel=1e-6)


def test_sgd_on_the_mean_at_k_times_the_rate_is_sgd_on_the_sum(config):
    both = [
        vary(config(*SHORT, "head=sigmoid", "precision=float64", "training.epochs=20"), lr=0.05),
        vary(config(*SHORT, "head=sigmoid_mean", "precision=float64", "training.epochs=20"), lr=0.5),
    ]
    points, (summed, averaged) = run(both)
    assert points[-1].values["val_accuracy"][0] > 0.5
    for name in ("val_accuracy", "val_nll", "test_brier", "train_accuracy"):
        assert averaged.metrics[name] == pytest.approx(summed.metrics[name], rel=1e-10)
    assert averaged.metrics["val_loss"] == pytest.approx(summed.metrics["val_loss"] / 10, rel=1e-10)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_diverging_run_leaves_the_others_bitwise_unchanged(config, model):
    common = ["dataset=digits", f"model={model}", "training.epochs=2", "dataset.train_size=200", "head=sigmoid"]
    calm = [vary(config(*common), seed=seed, lr=0.01) for seed in (0, 1)]
    wild = vary(config(*common), seed=1, lr=1e30)
    tame = vary(config(*common), seed=1, lr=1e-3)
    points, outcomes = run([calm[0], tame, calm[1]])
    other_points, other_outcomes = run([calm[0], wild, calm[1]])
    assert outcomes[1].diverged_at is None
    assert other_outcomes[1].diverged_at is not None
    for index in (0, 2):
        np.testing.assert_equal(vars(outcomes[index]), vars(other_outcomes[index]))
        for ours, theirs in zip(points, other_points, strict=True):
            assert ours.rows()[index] == theirs.rows()[index]


def test_a_diverged_run_has_chance_level_and_logs_no_more_values(config):
    points, (outcome,) = run([vary(config(*SHORT, "head=softmax"), lr=1e30)])
    assert outcome.diverged_at == outcome.steps == 1
    assert [point.step for point in points if point.rows()[0]] == [0]
    assert outcome.metrics["val_nll"] == outcome.metrics["test_nll"] == pytest.approx(math.log(10))
    assert outcome.metrics["val_accuracy"] == outcome.metrics["test_accuracy"] == 0.1
    assert math.isnan(outcome.metrics["train_loss"])
    assert math.isfinite(outcome.metrics["grad_norm_max"])


def test_runs_of_one_seed_differ_only_in_the_head(config):
    """At step 0 both heads see the same batch with the same weights, so that their accuracies are equal."""
    softmax, sigmoid, other = (
        config(*SHORT, "head=softmax"), config(*SHORT, "head=sigmoid"), config(*SHORT, "head=softmax", "seed=1"),
    )  # fmt: skip
    pool = data.load(softmax.dataset, CPU)
    batches = {}
    for name, one in {"softmax": softmax, "sigmoid": sigmoid, "other": other}.items():
        view = data.view(pool, one.dataset, one.settings.seed)
        stream = data.batches(pool, [view], one.dataset, [one.settings.seed], 64, torch.float32)
        batches[name] = [next(stream) for _ in range(7)]
    for (inputs, labels), (same_inputs, same_labels) in zip(batches["softmax"], batches["sigmoid"], strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(labels, same_labels)
    assert not torch.equal(batches["softmax"][0][0], batches["other"][0][0])
    first = [next(train([one], pool, False)).values for one in (softmax, sigmoid, other)]
    assert first[0]["val_accuracy"] == first[1]["val_accuracy"]
    assert first[0]["train_accuracy"] == first[1]["train_accuracy"]
    assert first[0]["grad_norm_total"] != first[2]["grad_norm_total"]


def test_with_zero_weights_the_first_gradient_at_the_prior_bias_is_that_of_softmax(config):
    """A fact of the design, checked in the whole loop."""
    both = [
        config(*SHORT, f"head={head}", "precision=float64", "training.zero_classifier=true")
        for head in ("softmax", "sigmoid_prior")
    ]
    points, _ = run(both)
    for name in ("grad_norm_logits", "grad_norm_total", "grad_norm_classifier", "val_nll", "val_brier"):
        softmax, sigmoid = points[0].values[name]
        assert sigmoid == pytest.approx(softmax, rel=1e-12), name
    assert points[0].values["grad_norm_logits"] == pytest.approx(math.sqrt(1 - 1 / 10))


def test_the_same_runs_give_the_same_bits(config):
    runs = [vary(config(*SHORT, "model.dropout=0.3"), seed=seed, lr=lr) for seed in (0, 1) for lr in (0.1, 0.3)]
    (points, outcomes), (again, same) = run(runs), run(runs)
    np.testing.assert_equal([*map(vars, outcomes)], [*map(vars, same)])
    assert [point.rows() for point in points] == [point.rows() for point in again]


def test_bfloat16_trains_close_to_float32(config):
    full, half = (run([config(*SHORT, f"precision={p}")])[1][0].metrics for p in ("float32", "bfloat16"))
    assert half["val_nll"] != full["val_nll"]
    assert half["val_nll"] == pytest.approx(full["val_nll"], rel=0.05)


def test_the_test_split_is_read_only_when_asked_for(config):
    _, (outcome,) = run([config(*SHORT)], test=False)
    assert not any(name.startswith("test_") for name in outcome.metrics)
    assert "val_nll" in outcome.metrics


def test_runs_with_other_numbers_may_share_a_pack_but_those_with_other_shapes_may_not(config):
    base = config(*SHORT)
    assert may_share_a_pack(base) == may_share_a_pack(config(*SHORT, "dataset.label_noise=0.2", "seed=5"))
    assert may_share_a_pack(base) == may_share_a_pack(config(*SHORT, "head=sigmoid", "optimizer.lr=1"))
    schedule = ("training.warmup=0.3", "training.schedule=constant")
    assert may_share_a_pack(base) == may_share_a_pack(config(*SHORT, *schedule, "head.label_smoothing=0.1"))
    others = ["model.widths=[17]", "training.batch_size=32", "optimizer=adamw", "dataset.train_size=100"]
    others += ["training.epochs=3", "training.points=60", "training.zero_classifier=true", "model.dropout=0.2"]
    for other in others:
        assert may_share_a_pack(base) != may_share_a_pack(config(*SHORT, other)), other
    assert len({may_share_a_pack(config(*SHORT, f"model.dropout={rate}")) for rate in (0.2, 0.3)}) == 1


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules(config, schedule):
    training = replace(config().training, schedule=schedule, warmup=0.1)
    factors = schedule_factors(training, 100)
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    progress = np.arange(90) / 90
    expected = {"constant": np.ones(90), "linear": 1 - progress, "cosine": (1 + np.cos(np.pi * progress)) / 2}
    assert factors[10:] == pytest.approx(expected[schedule])


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize(("points", "evaluations"), [(1, 1), (2, 1), (5, 5), (50, 10)])
def test_logged_steps(config, steps, points, evaluations):
    training = replace(config().training, points=points, evaluations=evaluations)
    logged, evaluated, sharpness = logged_steps(training, steps)
    assert sharpness <= evaluated - {steps} and len(sharpness) <= 3
    assert logged == sorted(set(logged))
    assert logged[-1] == steps in evaluated
    assert evaluated <= set(logged)
    if points > 1:
        assert logged[0] == 0
    if steps > points:
        assert len(logged) == points and len(evaluated) == evaluations


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batch_size=0", "training.batch_size=0: must be above 0"),
        ("training.epochs=0", "training.epochs=0"),
        ("training.evaluations=51", "training.evaluations=51: must not be above training.points=50"),
        ("training.schedule=cosin", "did you mean cosine"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: must be above 0"),
        ("optimizer.lr=abc", "optimizer.lr=abc"),
        ("seed=-1", "seed=-1"),
        ("seed=1.5", "seed=1.5"),
        ("name=../x", "name=../x"),
        ("precision=float16", "precision=float16"),
        ("device=gpu", "device=gpu: accepted: auto"),
        ("head.label_smoothing=1", "head.label_smoothing=1.0"),
        ("head.prior_bias=yes", "head.prior_bias"),
        ("+training.lr=1", "training.lr: no such key"),
        ("head.name=sofmax", "did you mean softmax"),
    ],
)
def test_refuses_what_is_out_of_range(config, override, message):
    with pytest.raises(ConfigError) as error:
        config(override)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_parse_names_a_missing_group(config):
    from omegaconf import OmegaConf

    with pytest.raises(ConfigError, match="dataset: missing"):
        parse(OmegaConf.create({"name": "x"}))


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=iris"],
        ["dataset=iris", "dataset.ood=null"],
        ["dataset=digits"],
        ["dataset=digits", "dataset.unknown_classes=3"],
    ],
)
def test_the_metrics_that_are_listed_without_training_are_those_of_a_run(config, overrides, test):
    ours = config(*overrides, "model=linear", "training.epochs=1")
    pool = data.load(ours.dataset, CPU)
    _, (outcome,) = run([ours], test)
    has_unknown = bool(ours.dataset.unknown_classes)
    assert recorded_metrics(pool.is_image, ours.dataset.ood is not None, has_unknown, test) == [*outcome.metrics]
