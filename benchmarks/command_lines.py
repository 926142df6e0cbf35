"""Random command lines for `faults.py`: each is wrong or valid by construction.

A wrong line is a valid one with a single fault of a known kind, or an odd call of a subcommand.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

TABLES = ("iris", "wine", "breast_cancer")
MODELS = {**dict.fromkeys((*TABLES, "gaussians"), ("linear", "mlp")), "digits": ("linear", "mlp", "cnn")}
HEADS = (
    "softmax", "sigmoid", "sigmoid_mean", "sigmoid_prior", "sigmoid_focal", "sigmoid_normalised", "sigmoid_smoothed",
    "sigmoid_squared", "softmax_cosine", "softmax_logit_normalised", "softmax_smoothed", "softmax_squared",
)  # fmt: skip
CLAIMS = ("accuracy", "loss", "stability", "gradients", "competition", "ambiguity", "speed", "generalisation")
# Valid values of keys, of which a line takes a few.
COMMON = {
    "training.batch_size": ("2", "16", "64", "100000"),
    "training.schedule": ("constant", "cosine", "linear"),
    "training.warmup": ("0", "0.05", "0.9", "5e-2"),
    "training.zero_classifier": ("true", "false", "True"),
    "precision": ("float32", "float64", "bfloat16"),
    "pack_size": ("null", "1", "2", "1000"),
    "checkpoint_s": ("0", "30", "1.5"),
    "device": ("cpu", "auto"),
    "accept_drift": ("true", "false"),
    "protocol.confirm_seeds": ("null", "0", "2"),
    "protocol.metric": ("accuracy", "balanced_accuracy", "macro_f1", "nll"),
    "dataset.val_fraction": ("0.2", "0.3", "2.5e-1"),
    "dataset.label_noise": ("0", "0.1"),
    "dataset.ood": ("null", "permuted"),
    "optimizer.clip_norm": ("null", "1", "0.001"),
    "optimizer.weight_decay": ("0", "0.01", "1e-3"),
    "head.label_smoothing": ("0", "0.1"),
    "head.prior_bias": ("none", "uniform", "frequencies"),
}
OF_OPTION = {
    **{key: {"dataset.folds": ("2", "3", "5"), "fold": ("0", "1", "0,1")} for key in TABLES},
    "mlp": {"model.widths": ("[4]", "[8,4]"), "model.batch_norm": ("true", "false"), "model.dropout": ("0", "0.5")},
    "cnn": {"model.widths": ("[2]", "[2,3]")},
    "sgd": {"optimizer.momentum": ("0.5", "0.9"), "optimizer.nesterov": ("true", "false")},
    "adamw": {"optimizer.beta1": ("0", "0.8"), "optimizer.eps": ("1e-8", "0.1")},
    "digits": {"dataset.crop_padding": ("0", "1"), "dataset.flip": ("true", "false"), "dataset.folds": ("2", "5")},
    "gaussians": {
        "dataset.test_fraction": ("0.2", "0.4"),
        "dataset.separation": ("0", "4", "100"),
        "dataset.dimensions": ("1", "7"),
    },
}
# What is no range, or none that could be tuned.
NO_RANGES = (
    "interval(1,0.1)", "interval(0.1,0.1)", "interval(0.1,inf)", "tag(log,interval(0,0.5))",
    "tag(lg,interval(0.1,0.5))", "int(interval(1,5))", "interval(-1,0.5)", "0.1,interval(0.1,0.5)",
    "[interval(0.1,0.5)]",
)  # fmt: skip
# Ranges that every line may tune; several of them need as many trials.
RANGES = {
    "optimizer.lr": ("interval(0.01,1)", "tag(log,interval(1e-3,1))", "tag(log,interval(1e-9,1e3))"),
    "optimizer.weight_decay": ("interval(0,0.1)", "tag(log,interval(1e-6,1e-2))"),
    "training.warmup": ("interval(0,0.3)", "interval(0.01,0.99)"),
}
# Wrong values of keys that every line has.
WRONG = {
    "training.epochs": ("0", "-1", "1.5", "many", "null", "[1]", "{a:1}", "nan", "''", "interval(1,5)"),
    "training.batch_size": ("0", "-3", "big", "2.5", "null", "inf"),
    "training.points": ("0", "-1", "x", "null"),
    "training.evaluations": ("0", "1000000", "none", "-1"),
    "training.schedule": ("cosin", "3", "null", "[cosine]", "Cosine"),
    "training.warmup": ("1", "-0.1", "nan", "half", "null", "interval(0,1)", *NO_RANGES),
    "training.zero_classifier": ("maybe", "2", "null", "[]"),
    "precision": ("float16", "double", "64", "null"),
    "pack_size": ("0", "-1", "1.5", "all"),
    "checkpoint_s": ("-1", "nan", "soon", "null"),
    "device": ("gpu", "cuda:99", "tpu", "''"),
    "accept_drift": ("perhaps", "null"),
    "seed": ("-1", "1.5", "a", "null", "1e400"),
    "name": ("''", "a/b", "..", "'a b'", "null", "x" * 300),
    "protocol.confirm_seeds": ("-1", "few", "1.5"),
    "protocol.metric": ("acuracy", "3", "null"),
    "protocol.trials": ("0", "-1", "1.5", "many", "null", "4"),
    "protocol.search": ("half", "3", "null"),
    "protocol.max_seeds": ("1", "-1", "1.5", "few", "5"),
    "protocol.until_decided": ("true", "maybe", "null"),
    "protocol.ladder": ("[softmax]", "7", "[a,a]"),
    "dataset.val_fraction": ("0", "1", "-0.2", "1.5", "nan", "half", "null"),
    "dataset.test_fraction": ("0", "1", "nan", "-0.1"),
    "dataset.folds": ("0", "1", "-1", "1.5", "x", "1000000"),
    "fold": ("-1", "5", "1.5", "x", "null"),
    "dataset.label_noise": ("-0.1", "1.5", "nan", "null"),
    "dataset.imbalance": ("0", "0.5", "nan", "null"),
    "dataset.train_size": ("0", "-5", "1.5", "1000000000"),
    "dataset.ood": ("nowhere", "3"),
    "dataset.crop_padding": ("-1", "x", "null"),
    "dataset.flip": ("maybe", "null"),
    "optimizer.lr": ("0", "-0.1", "nan", "inf", "fast", "null", "[0.1]", *NO_RANGES),
    "optimizer.weight_decay": ("-1", "nan", "x", "null"),
    "optimizer.clip_norm": ("0", "-1", "nan", "x"),
    "head.label_smoothing": ("1", "-0.1", "nan", "x", "null"),
    "head.prior_bias": ("some", "1", "null"),
    "claims": ("[accurcy]", "7", "[accuracy,accuracy,nothing]", "[1.5]", "[[1]]"),
    "head": ("softmx", "[1.5]", "3", "null", "''"),
    "model": ("mpl", "[1]", "null"),
    "dataset": ("digit", "7", "null"),
    "optimizer": ("adam", "[sgd]", "null"),
    "experiment": ("digitz", "[[1]]", "7"),
}
WRONG_OF_OPTION = {
    "mlp": {
        "model.widths": ("[]", "[0]", "[-1]", "8", "[a]", "null"),
        "model.dropout": ("1", "-0.1", "nan", "x"),
        "model.batch_norm": ("maybe", "null"),
    },
    "cnn": {"model.widths": ("[1,1,1,1,1,1]", "[0]", "[]", "x")},
    "sgd": {"optimizer.momentum": ("1", "-0.1", "nan", "x"), "optimizer.nesterov": ("maybe",)},
    "adamw": {"optimizer.beta1": ("1", "-1", "nan"), "optimizer.beta2": ("1", "x"), "optimizer.eps": ("0", "nan")},
    "gaussians": {"dataset.classes": ("0", "1", "-2", "x"), "dataset.dimensions": ("0", "1.5")},
}
# Arguments that are no overrides that Hydra can read, or that ask for nothing.
MALFORMED = (
    "seed=range(", "seed=[1,2", "=3", "training.epochs=1,", "a", "seed=range(0)", "seed==1", "training..epochs=1",
    "optimizer.lr=0.1,,0.2", "model.widths=[4", "head=", "dataset={a:", "seed=range(a)", "head=softmax,,sigmoid",
    "optimizer.lr=choice()", "seed=range(3,1)", "'name=\"x'", "~model", "~dataset", "~training", "~seed",
    "name=${oc.env:NOT_SET_ANYWHERE}", "optimizer.lr=${nothing}", "name=${name}", "seed=${optimizer.lr",
    "--no-such-flag", "--cfg=nothing", "hydra.mode=RUN", "hydra.sweep.dir=elsewhere", "hydra/launcher=nothing",
)  # fmt: skip
CLAIM = """mine:
  sentence: a is better
  metric: {metric}
  phase: {phase}
  direction: {direction}
  margin: {margin}
  favours: {favours}
"""
RIGHT_CLAIM = {"metric": "test_accuracy", "phase": "confirm", "direction": "higher"}
RIGHT_CLAIM |= {"margin": "0.01", "favours": "softmax"}
WRONG_CLAIM = {
    "metric": ("test_acuracy", "3", "null"),
    "phase": ("confrm", "null"),
    "direction": ("up", "1"),
    "margin": ("0", "-1", "nan", "wide", "null"),
    "favours": ("sofmax", "3", "null"),
}
# Contents of a YAML file of the user that cannot be read, or says nothing that can be used.
BROKEN_YAML = {
    "syntax": b"name: [\n",
    "tab": b"name: softmax\n\tlabel_smoothing: 0\n",
    "duplicate key": b"name: softmax\nlabel_smoothing: 0\nlabel_smoothing: 0.1\nprior_bias: none\n",
    "encoding": "name: softmax # ü\n".encode("utf-16"),
    "bytes": b"\x80\x81\x82",
    "list": b"- softmax\n",
    "text": b"softmax\n",
    "no name": b"label_smoothing: 0.0\nprior_bias: none\n",
    "unknown name": b"name: softmx\nlabel_smoothing: 0.0\nprior_bias: none\n",
    "missing value": b"name: softmax\n",
    "unknown key": b"name: softmax\nlabel_smoothing: 0.0\nprior_bias: none\nextra: 1\n",
}
ODD_CALLS = (
    ["report"], ["report", "nowhere"], ["report", "file"], ["report", "empty"], ["report", "empty", "--to"],
    ["report", "empty", "--to", "there", "more"], ["report", "--what", "empty"], ["report", "broken"],
    ["board"], ["board", "nowhere"], ["board", "file"], ["board", "empty"], ["board", "empty", "--port", "x"],
    ["board", "empty", "--port", "-1"], ["board", "empty", "--port", "70000"], ["board", "empty", "--runs", "3"],
    ["reproduce"], ["reproduce", "nowhere"], ["reproduce", "file"], ["reproduce", "empty"], ["reproduce", "broken"],
    ["reproduce", "a", "b"], ["reproduce", "x" * 300], ["report", "x" * 300], ["raport", "empty"], ["--versoin"],
)  # fmt: skip


@dataclass
class Line:
    """A command line.

    Attributes:
        kind: kind of its fault, or "valid".
        arguments: arguments of `headtohead`.
        files: contents of files in the working directory, by path.
    """

    kind: str
    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_study(self) -> bool:
        """Whether Hydra reads the line."""
        return bool(self.arguments) and self.arguments[0] not in ("report", "board", "reproduce")


def _base(random: random.Random) -> dict[str, str]:
    """Return a small valid study."""
    dataset = random.choice([*MODELS])
    model, optimizer = random.choice(MODELS[dataset]), random.choice(("sgd", "adamw"))
    heads = random.sample(HEADS, random.choice((1, 1, 2)))
    points = random.choice((1, 2, 3))
    values = {
        "name": "s", "dataset": dataset, "model": model, "head": ",".join(heads), "optimizer": optimizer,
        "training.epochs": random.choice(("1", "2")), "training.points": str(points),
        "training.evaluations": str(random.randint(1, points)), "seed": random.choice(("0", "0,1", "range(2)", "7")),
    }  # fmt: skip
    if dataset == "gaussians":
        values |= {"dataset.classes": random.choice(("2", "3", "10")), "dataset.examples": "200"}
    if dataset == "digits":
        values["dataset.train_size"] = "64"
    if model == "mlp":
        values["model.widths"] = "[8]"
    if model == "cnn":
        values["model.widths"] = "[2]"
    if random.random() < 0.4:
        values["optimizer.lr"] = random.choice(("0.1", "0.01,0.1", "1e-9", "1000", "choice(0.1,0.2)"))
    return values


def valid(random: random.Random) -> Line:
    """Return a valid command line."""
    values = _base(random)
    options = dict(COMMON)
    for option in (values["dataset"], values["model"], values["optimizer"]):
        options |= OF_OPTION.get(option, {})
    for key in random.sample([*options], random.randint(0, 5)):
        values[key] = random.choice(options[key])
    if "softmax_cosine" in values["head"]:
        values.pop("training.zero_classifier", None)  # its weights have no direction at zero
    if "," in values["head"]:
        # Options of a head could make two heads the same one.
        values.pop("head.label_smoothing", None), values.pop("head.prior_bias", None)
    if random.random() < 0.25:
        ranges = random.sample([*RANGES], random.randint(1, 3))
        values |= {key: random.choice(RANGES[key]) for key in ranges} | {"protocol.trials": "3"}
        if values["seed"] in ("0,1", "range(2)"):
            values["protocol.search"] = random.choice(("full", "halving"))
    if random.random() < 0.3:
        values["claims"] = f"[{','.join(random.sample(CLAIMS, random.randint(0, 3)))}]"
    arguments = [f"{key}={value}" for key, value in values.items()]
    random.shuffle(arguments)
    return Line("valid", arguments)


def _value(random: random.Random) -> Line:
    values = _base(random)
    wrong = dict(WRONG)
    for option in (values["dataset"], values["model"], values["optimizer"]):
        wrong |= WRONG_OF_OPTION.get(option, {})
    key = random.choice([*wrong])
    values[key] = random.choice(wrong[key])
    return Line("value", [f"{key}={value}" for key, value in values.items()])


def _swept_value(random: random.Random) -> Line:
    good = {"training.epochs": "1", "optimizer.lr": "0.1", "seed": "3", "training.batch_size": "16", "head": "softmax"}
    key = random.choice([*good])
    bad = random.choice([value for value in WRONG[key] if value not in ("''", "null", "[1.5]")])
    values = _base(random) | {key: f"{good[key]},{bad}"}
    return Line("swept value", [f"{key}={value}" for key, value in values.items()])


def _unknown_key(random: random.Random) -> Line:
    values = _base(random)
    group, _, key = random.choice([*WRONG]).rpartition(".")
    at = random.randrange(len(key))
    typo = random.choice((key[:at] + "q" + key[at:], key + "s_", "zz" + key))
    plus = random.choice(("", "", "+", "++"))
    key = f"{group}.{typo}" if group else typo
    if "/" in key or (not group and plus):
        plus = ""
    return Line("unknown key", [*(f"{k}={v}" for k, v in values.items()), f"{plus}{key}=1"])


def _malformed(random: random.Random) -> Line:
    values = _base(random)
    argument = random.choice(MALFORMED)
    values.pop(argument.split("=")[0], None)
    return Line("malformed", [*(f"{k}={v}" for k, v in values.items()), argument])


def _together(random: random.Random) -> Line:
    values = _base(random) | random.choice(
        (
            {"training.points": "2", "training.evaluations": "3"},
            {"optimizer": "sgd", "optimizer.momentum": "0", "optimizer.nesterov": "true"},
            {"dataset": "iris", "model": "cnn", "model.widths": "[2]"},
            {"dataset": "wine", "model": "resnet18"},
            {"dataset": "iris", "model": "mlp", "model.batch_norm": "true", "training.batch_size": "1"},
            {"head": "softmax_cosine", "training.zero_classifier": "true"},
            {"model": "factory"}, {"model": "factory", "model.path": "nothing_here:make"},
            {"model": "factory", "model.path": "math:nothing"}, {"model": "factory", "model.path": "math"},
            {"model": "torchvision", "dataset": "digits"},
            {"model": "torchvision", "dataset": "digits", "model.architecture": "resnet"},
            {"dataset": "image_folder"}, {"dataset": "image_folder", "dataset.root": "nowhere"},
            {"dataset": "image_folder", "dataset.root": "file"}, {"dataset": "image_folder", "dataset.root": "empty"},
            {"dataset": "image_folder", "dataset.root": "broken"}, {"dataset": "mnist", "dataset.root": "file"},
            {"dataset": "composite", "dataset.base": "iris"}, {"dataset": "digits", "dataset.ood": "iris"},
        )
    )  # fmt: skip
    if values["model"] not in ("mlp", "cnn"):
        values.pop("model.widths", None)
    if values["dataset"] != "gaussians":
        values.pop("dataset.classes", None), values.pop("dataset.examples", None)
    return Line("together", [f"{k}={v}" for k, v in values.items()])


def _own_yaml(random: random.Random) -> Line:
    values = _base(random) | {"head": "mine"}
    content = BROKEN_YAML[random.choice([*BROKEN_YAML])]
    return Line(
        "own YAML", [*(f"{k}={v}" for k, v in values.items()), "--config-dir=mine"], {"mine/head/mine.yaml": content}
    )


def _own_claim(random: random.Random) -> Line:
    values = _base(random) | {"claims": "[mine]", "head": "softmax,sigmoid"}
    if random.random() < 0.3:
        content = random.choice(("7\n", "- a\n", "mine: 7\n", "mine:\n", "mine: [1]\n", "mine: {sentence: a}\n"))
    else:
        key = random.choice([*WRONG_CLAIM])
        content = CLAIM.format(**RIGHT_CLAIM | {key: random.choice(WRONG_CLAIM[key])})
    return Line(
        "own claim", [*(f"{k}={v}" for k, v in values.items()), "--config-dir=mine"],
        {"mine/claims/mine.yaml": content.encode()},
    )  # fmt: skip


def _odd_call(random: random.Random) -> Line:
    return Line("odd call", random.choice(ODD_CALLS))


KINDS: tuple[Callable[[random.Random], Line], ...] = (
    _value, _value, _value, _swept_value, _unknown_key, _malformed, _together, _own_yaml, _own_claim, _odd_call
)  # fmt: skip
# What every working directory holds.
FILES = {"file": b"a file\n", "broken/run.json": b"{", "broken/study.json": b"{", "broken/x/a.png": b"no picture"}


def wrong(random: random.Random) -> Line:
    """Return a command line that must be refused with exit status 2."""
    return random.choice(KINDS)(random)
