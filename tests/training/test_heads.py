"""Closed forms of the losses and their gradients, in double precision."""

import math
from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from plain_heads import OPTIONS, PLAIN, SUMMED, all_heads
from torch.func import grad, jacrev
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.testing import assert_close

from headtohead.options import ConfigError
from headtohead.training.heads import (
    HEADS,
    Head,
    LinearSquared,
    OneLogit,
    Sigmoid,
    SigmoidAsymmetric,
    SigmoidCosine,
    SigmoidFocal,
    SigmoidNormalised,
    SigmoidSquared,
    Softmax,
    SoftmaxBinary,
    SoftmaxCosine,
    SoftmaxFocal,
    SoftmaxLogitNormalised,
    SoftmaxPoly,
    SoftmaxSquared,
    call_key,
    joined,
)
from headtohead.training.heads.head import exp

CLASSES = (2, 3, 10, 100, 1000)
SOFTMAX = Softmax(**PLAIN)
BCE_SUM = Sigmoid(**PLAIN, **SUMMED)
BCE_MEAN = replace(BCE_SUM, reduction="mean")
BCE_PRIOR = replace(BCE_SUM, prior_bias="uniform")
NORMALISED = SigmoidNormalised(**PLAIN | {"prior_bias": "uniform"})
FOCAL = SigmoidFocal(**PLAIN, gamma=2.0)
SIGMOID_SQUARED, SOFTMAX_SQUARED = SigmoidSquared(**PLAIN), SoftmaxSquared(**PLAIN)
LOGIT_NORMALISED = SoftmaxLogitNormalised(**PLAIN, temperature=0.04)


def name(head: Head) -> str:
    return "_".join([type(head).__name__.lower(), *(str(value) for value in list(vars(head).values())[len(PLAIN) :])])


def close(actual, expected):
    assert_close(torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64),
                 atol=1e-10, rtol=1e-10)  # fmt: skip


def start(head: Head, K: int) -> torch.Tensor:
    """Return the logits of a model with weights of zero: the head's initial bias."""
    return head.initial_bias(torch.full((K,), 1 / K, dtype=torch.float64))


def loss_and_gradient(head: Head, logits: torch.Tensor, label: int):
    logits = logits.clone().requires_grad_()
    loss = head.loss(logits.unsqueeze(0), torch.tensor([label])).squeeze(0)
    return loss.item(), torch.autograd.grad(loss, logits)[0]


def hessian(head: Head, logits: torch.Tensor, label: int) -> torch.Tensor:
    """Return the Hessian of one example's loss, (K, K)."""
    return jacrev(grad(lambda z: head.loss(z.unsqueeze(0), torch.as_tensor([label])).sum()))(logits)


@pytest.mark.parametrize("K", CLASSES)
class TestFirstStep:
    """The design's table of facts, for one example at the head's initial bias."""

    def test_loss(self, K):
        expected = {
            SOFTMAX: math.log(K),
            BCE_SUM: K * math.log(2),
            BCE_MEAN: math.log(2),
            BCE_PRIOR: math.log(K) + (K - 1) * math.log(K / (K - 1)),
        }
        for head, value in expected.items():
            close(loss_and_gradient(head, start(head, K), 0)[0], value)

    def test_norm_of_the_logit_gradient(self, K):
        expected = {
            SOFTMAX: math.sqrt(1 - 1 / K),
            BCE_SUM: math.sqrt(K) / 2,
            BCE_MEAN: 1 / (2 * math.sqrt(K)),
            BCE_PRIOR: math.sqrt(1 - 1 / K),
        }
        for head, value in expected.items():
            close(loss_and_gradient(head, start(head, K), K - 1)[1].norm(), value)

    def test_error_of_the_target_logit(self, K):
        expected = {SOFTMAX: 1 - 1 / K, BCE_SUM: 1 / 2, BCE_MEAN: 1 / (2 * K), BCE_PRIOR: 1 - 1 / K}
        for head, value in expected.items():
            close(-loss_and_gradient(head, start(head, K), 1)[1][1], value)

    def test_largest_eigenvalue_of_the_logit_hessian(self, K):
        expected = {SOFTMAX: 1 / K, BCE_SUM: 1 / 4, BCE_MEAN: 1 / (4 * K), BCE_PRIOR: (K - 1) / K**2}
        for head, value in expected.items():
            close(torch.linalg.eigvalsh(hessian(head, start(head, K), 0))[-1], value)

    def test_prior_bias_gives_the_gradient_of_softmax(self, K):
        _, ours = loss_and_gradient(BCE_PRIOR, start(BCE_PRIOR, K), 1)
        _, softmax = loss_and_gradient(SOFTMAX, torch.zeros(K, dtype=torch.float64), 1)
        close(ours, softmax)


@pytest.fixture(params=CLASSES, ids=lambda K: f"K{K}")
def examples(request):
    """Logits (B, K) and labels (B,)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, request.param, dtype=torch.float64, generator=generator)
    return logits, torch.randint(request.param, (20,), generator=generator)


def gradient(head, logits, labels):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(head.loss(logits, labels).sum(), logits)[0]


def onehot(logits, labels):
    return torch.nn.functional.one_hot(labels, logits.shape[-1]).double()


def test_gradient_is_activation_minus_target(examples):
    logits, labels = examples
    close(gradient(SOFTMAX, logits, labels), logits.softmax(-1) - onehot(*examples))
    close(gradient(BCE_SUM, logits, labels), logits.sigmoid() - onehot(*examples))
    close(gradient(BCE_MEAN, logits, labels), (logits.sigmoid() - onehot(*examples)) / logits.shape[1])


def test_losses_equal_those_of_torch(examples):
    logits, labels = examples
    target = onehot(*examples)
    close(SOFTMAX.loss(logits, labels), torch.nn.CrossEntropyLoss(reduction="none")(logits, labels))
    elementwise = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, target)
    close(BCE_SUM.loss(logits, labels), elementwise.sum(-1))
    close(BCE_MEAN.loss(logits, labels), elementwise.mean(-1))


def test_label_smoothing_is_a_change_of_targets(examples):
    logits, labels = examples
    K = logits.shape[1]
    one, targets = onehot(*examples), 0.8 * onehot(*examples) + 0.2 / K
    sigma, p = logits.sigmoid(), logits.softmax(-1)
    present, absent = -sigma.log(), -(-logits).sigmoid().log()
    expected = {
        Softmax: -(targets * p.log()).sum(-1),
        SigmoidNormalised: -(targets * BCE_SUM.probabilities(logits).log()).sum(-1),
        SigmoidSquared: (sigma - targets).square().sum(-1),
        SoftmaxSquared: (p - targets).square().sum(-1),
        SoftmaxBinary: -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(-1),
    }
    for head in all_heads(label_smoothing=0.2):
        match head:
            case SigmoidFocal(gamma=gamma):
                ours = targets * present * (1 - sigma) ** gamma
                expected_x = (ours + (1 - targets) * absent * sigma**gamma).sum(-1)
            case SigmoidAsymmetric():
                shifted = (sigma - head.clip).clamp(min=0)
                ours = targets * present * (1 - sigma) ** head.gamma_present
                theirs = (1 - targets) * -(1 - shifted).log() * shifted**head.gamma_absent
                expected_x = (ours + theirs).sum(-1)
            case SoftmaxFocal(gamma=gamma):
                expected_x = -(targets * (1 - p) ** gamma * p.log()).sum(-1)
            case SoftmaxPoly(epsilon=epsilon):
                expected_x = expected[Softmax] + epsilon * (1 - (targets * p).sum(-1))
            case SoftmaxLogitNormalised(temperature=temperature):
                scaled = logits / logits.norm(dim=-1, keepdim=True) / temperature
                expected_x = -(targets * scaled.log_softmax(-1)).sum(-1)
            case LinearSquared(weight=weight, target=target):
                expected_x = ((1 + (weight - 1) * one) * (logits - target * targets).square()).mean(-1)
            case Sigmoid(pos_weight=weight, reduction=reduction, smoothed_over=over):
                smoothed = targets if over == "classes" else 0.8 * one + 0.1
                elementwise = bce(logits, smoothed, reduction="none", pos_weight=torch.tensor(weight))
                expected_x = elementwise.sum(-1) if reduction == "sum" else elementwise.mean(-1)
            case SoftmaxCosine() | OneLogit():
                expected_x = expected[Softmax]
            case _:
                expected_x = expected[type(head)]
        close(head.loss(logits, labels), expected_x)


def test_a_shift_of_the_logits_changes_only_the_sigmoid(examples):
    logits, labels = examples
    close(SOFTMAX.loss(logits + 5, labels), SOFTMAX.loss(logits, labels))
    assert (BCE_SUM.loss(logits + 5, labels) - BCE_SUM.loss(logits, labels)).abs().min() > 1e-3


def test_softmax_gradients_compete_and_those_of_sigmoid_do_not(examples):
    logits, labels = examples
    close(gradient(SOFTMAX, logits, labels).sum(-1), torch.zeros(len(labels)))
    coupling = hessian(BCE_SUM, logits[0], labels[0])
    close(coupling, coupling.diag().diag())


def test_summed_bce_exceeds_cross_entropy(examples):
    assert (BCE_SUM.loss(*examples) > SOFTMAX.loss(*examples)).all()


def test_two_class_softmax_is_one_logistic_unit(examples):
    logits, labels = examples
    logits, labels = logits[:, :2], labels % 2
    close(SOFTMAX.probabilities(logits)[:, 1], (logits[:, 1] - logits[:, 0]).sigmoid())


def test_sigmoid_probabilities_are_normalised_activations(examples):
    activations = BCE_SUM.activations(examples[0])
    shares = activations / activations.sum(-1, keepdim=True)
    for head in (BCE_SUM, NORMALISED, SIGMOID_SQUARED, FOCAL):
        close(head.probabilities(examples[0]), shares)
    close(NORMALISED.activations(examples[0]), shares)


@pytest.mark.parametrize("head", all_heads(prior_bias="frequencies"), ids=name)
@pytest.mark.parametrize("K", CLASSES)
def test_at_the_prior_bias_probabilities_are_the_prior_and_the_gradient_is_zero(head, K):
    prior = torch.rand(K, dtype=torch.float64, generator=torch.Generator().manual_seed(K)) + 0.1
    prior /= prior.sum()
    bias = head.initial_bias(prior)
    close(head.probabilities(bias), prior)
    expected = prior @ torch.stack([loss_and_gradient(head, bias, label)[1] for label in range(K)])
    match head:  # those of losses that are not proper
        case SigmoidFocal():  # every sigma moves towards one half
            assert (expected.sign() == (prior - 0.5).sign()).all()
        case SoftmaxFocal(gamma=gamma):
            slope = (1 - prior) ** gamma * (1 - gamma * prior * prior.log() / (1 - prior))
            close(expected, prior * (prior @ slope - slope))
        case SoftmaxPoly(epsilon=epsilon):
            close(expected, -epsilon * prior * (prior - prior.square().sum()))
        case SigmoidAsymmetric(gamma_present=0.0):  # absent classes weigh less, so that every sigma rises
            assert (expected < 0).all()
        case SigmoidAsymmetric():
            assert expected.abs().max() > 1e-6
        case Sigmoid(pos_weight=weight):
            close(expected, (1 - weight) * prior * (1 - prior))
        case _:
            close(expected, torch.zeros(K))


@pytest.mark.parametrize("head", all_heads(prior_bias="frequencies"), ids=name)
@pytest.mark.parametrize("prior", [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], ids=str)
def test_prior_bias_is_finite_where_a_class_is_absent(head, prior):
    assert head.initial_bias(torch.tensor(prior)).isfinite().all()


def test_the_prior_bias_of_normalised_logits_is_the_nearest_to_the_prior():
    prior = torch.tensor([0.9, 0.1 - 1e-9, 1e-9], dtype=torch.float64)
    head = SoftmaxLogitNormalised(**PLAIN | {"prior_bias": "frequencies"}, temperature=0.2)
    nearest = head.loss(head.initial_bias(prior).expand(3, 3), torch.arange(3)) @ prior
    assert head.initial_bias(prior).argsort().tolist() == prior.argsort().tolist()
    assert nearest < SOFTMAX.loss(torch.zeros(3, 3, dtype=torch.float64), torch.arange(3)) @ prior


@pytest.mark.parametrize("head", all_heads() + all_heads(label_smoothing=0.1), ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("K", CLASSES)
def test_extreme_logits_stay_finite(head, dtype, K):
    signs = torch.randint(2, (50, K), generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits = torch.cat([signs, torch.ones(1, K), -torch.ones(1, K)]).to(dtype) * 1e4
    labels = torch.arange(len(logits)) % K
    assert head.loss(logits, labels).isfinite().all()
    assert gradient(head, logits, labels).isfinite().all()
    probabilities = head.probabilities(logits)
    assert_close(probabilities.sum(-1), torch.ones(len(logits), dtype=dtype))


@pytest.mark.parametrize("head", all_heads(), ids=name)
def test_any_leading_axes(head):
    logits = torch.randn(3, 4, 5, 7, dtype=torch.float64)
    labels = torch.randint(7, (3, 4, 5))
    flat = logits.flatten(end_dim=2)
    close(head.loss(logits, labels).flatten(), head.loss(flat, labels.flatten()))
    close(head.probabilities(logits).flatten(end_dim=2), head.probabilities(flat))
    close(head.activations(logits).flatten(end_dim=2), head.activations(flat))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head", all_heads(), ids=name)
def test_the_closed_form_equals_autograd(head, smoothing):
    head = replace(head, label_smoothing=smoothing)
    logits, labels = torch.randn(2, 5, 7, dtype=torch.float64) * 10, torch.randint(7, (2, 5))
    ours, theirs = torch.empty_like(logits), torch.empty_like(logits)
    close(head.loss_and_gradient(logits, labels, ours), Head.loss_and_gradient(head, logits, labels, theirs))
    close(ours, theirs)


def with_numbers(cls: type[Head], **options) -> list[Head]:
    """Return three heads of a class that differ in every number, one of which has no smoothing."""
    numbers = {
        "gamma": (0.0, 2.0, 0.5),
        "gamma_present": (0.0, 1.0, 0.5),
        "gamma_absent": (4.0, 0.5, 1.0),
        "clip": (0.0, 0.05, 0.2),
        "epsilon": (0.0, 1.0, -1.0),
        "temperature": (0.04, 1.0, 0.3),
        "label_smoothing": (0.0, 0.1, 0.4),
        "pos_weight": (1.0, 3.0, 0.5),
        "weight": (1.0, 5.0, 2.0),
        "target": (1.0, 10.0, 2.0),
        "tau": (1.0, 0.5, 0.0),
        "beta": (0.0, 0.9, 0.99),
    }
    own = [name for name, kind in get_type_hints(cls).items() if kind is float]
    return [cls(**PLAIN | options | {name: numbers[name][index] for name in own}) for index in range(3)]


@pytest.mark.parametrize("K", [3, 20])
@pytest.mark.parametrize(("cls", "options"), [*((cls, {}) for cls in HEADS.values()), (Sigmoid, {"reduction": "mean"})])
def test_a_joined_head_is_that_of_each_run(cls, options, K):
    heads = with_numbers(cls, **OPTIONS.get(cls, [{}])[0] | options)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 8, K, dtype=torch.float64, generator=generator)
    labels = torch.randint(K, (3, 8), generator=generator)
    assert len({repr(call_key(head)) for head in heads}) == 1
    both = joined(heads, logits)
    assert type(both) is cls and both.label_smoothing.shape == (3, 1)

    def each(name, *tensors):
        return torch.stack([getattr(head, name)(*rows) for head, *rows in zip(heads, *tensors, strict=True)])

    for name in ("activations", "log_probabilities", "probabilities"):
        close(getattr(both, name)(logits), each(name, logits))
    close(both.loss(logits, labels), each("loss", logits, labels))
    ours, theirs = torch.empty_like(logits), torch.empty_like(logits)
    close(both.loss_and_gradient(logits, labels, ours), each("loss", logits, labels))
    each_alone = [gradient(*parts) for parts in zip(heads, logits, labels, strict=True)]
    close(ours, torch.stack(each_alone))
    Head.loss_and_gradient(both, logits, labels, theirs)
    close(ours, theirs)
    few = logits[:, :2, :3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: both.loss(z, labels[:, :2] % 3), few)


def test_numbers_that_agree_stay_numbers_and_heads_with_other_options_are_not_joined():
    smoothed = [replace(FOCAL, label_smoothing=smoothing) for smoothing in (0.1, 0.2)]
    assert joined(smoothed, torch.empty(0)).gamma == 2.0
    assert joined([FOCAL, replace(FOCAL)], torch.empty(0)) is FOCAL
    keys = [repr(call_key(head)) for head in (SOFTMAX, BCE_SUM, BCE_MEAN, BCE_PRIOR, NORMALISED, FOCAL)]
    assert len({*keys}) == len(keys)


def test_the_gradient_of_a_confident_sigmoid_is_precise():
    logits, label = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    gradient = torch.empty_like(logits)
    BCE_SUM.loss_and_gradient(logits, label, gradient)
    assert gradient[0, 0].item() == pytest.approx(-math.exp(-30), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head", all_heads(), ids=name)
def test_the_gradient_equals_finite_differences(head, smoothing):
    head = replace(head, label_smoothing=smoothing)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.randint(5, (4,), generator=generator)
    assert torch.autograd.gradcheck(lambda z: head.loss(z, labels), logits)
    assert torch.autograd.gradgradcheck(lambda z: head.loss(z, labels), logits)


@pytest.mark.parametrize("K", CLASSES)
def test_loss_and_gradient_of_the_other_heads_at_initialisation(K):
    """Loss and norm of the logit gradient of one example, at zero logits unless the head has a prior bias."""
    expected = {
        NORMALISED: (math.log(K), (1 - 1 / K) ** 1.5),
        SIGMOID_SQUARED: (K / 4, math.sqrt(K) / 4),
        SOFTMAX_SQUARED: (1 - 1 / K, 2 / K * math.sqrt(1 - 1 / K)),
        FOCAL: (K * math.log(2) / 4, math.sqrt(K) * (1 + 2 * math.log(2)) / 8),
    }
    for head, (loss, norm) in expected.items():
        actual, gradient = loss_and_gradient(head, start(head, K), 0)
        close(actual, loss)
        close(gradient.norm(), norm)
    uniform = replace(LOGIT_NORMALISED, prior_bias="uniform")
    actual, gradient = loss_and_gradient(uniform, start(uniform, K), 0)
    close(actual, math.log(K))
    close(gradient.norm(), 25 * math.sqrt(1 - 1 / K))


def test_the_first_gradient_of_the_normalised_sigmoid_is_parallel_to_that_of_the_prior_sigmoid():
    ours, sigmoid = (loss_and_gradient(head, start(head, 10), 3)[1] for head in (NORMALISED, BCE_PRIOR))
    close(ours, 0.9 * sigmoid)


def test_normalised_sigmoid_competes_and_is_softmax_of_logsigmoid(examples):
    logits, labels = examples
    close(NORMALISED.loss(logits, labels), SOFTMAX.loss(-torch.log1p(torch.exp(-logits)), labels))
    close(gradient(NORMALISED, logits, labels),
          (NORMALISED.probabilities(logits) - onehot(*examples)) * (-logits).sigmoid())  # fmt: skip
    # It equals softmax if every sigma is small.
    close(gradient(NORMALISED, logits - 60, labels), gradient(SOFTMAX, logits, labels))


def test_the_gradient_of_the_squared_error_vanishes_if_the_sigmoid_is_confident_and_wrong():
    """It vanishes through sigma', which neither cross-entropy contains (section 3 of the design)."""
    labels = torch.tensor([0])
    for z in (5.0, 10.0, 20.0):
        logits = torch.tensor([[-z, z]], dtype=torch.float64)
        slope = logits.sigmoid() * (-logits).sigmoid()
        close(gradient(SIGMOID_SQUARED, logits, labels), 2 * (logits.sigmoid() - onehot(logits, labels)) * slope)
        assert gradient(SIGMOID_SQUARED, logits, labels).abs().max() < 3 * math.exp(-z)
        assert gradient(SOFTMAX_SQUARED, logits, labels).abs().max() < 5 * math.exp(-2 * z)
        for head in (BCE_SUM, SOFTMAX):
            assert gradient(head, logits, labels).abs().min() > 1 - 2 * math.exp(-z)


def test_focal_loss_without_focus_is_binary_cross_entropy(examples):
    close(replace(FOCAL, gamma=0.0).loss(*examples), BCE_SUM.loss(*examples))


def test_focal_loss_equals_that_of_torchvision(examples):
    from torchvision.ops import sigmoid_focal_loss

    logits, labels = examples
    close(FOCAL.loss(logits, labels), sigmoid_focal_loss(logits, onehot(*examples), alpha=-1, gamma=2).sum(-1))


def test_heads_without_their_option_are_the_plain_ones(examples):
    plain = SOFTMAX.loss(*examples)
    close(SoftmaxFocal(**PLAIN, gamma=0.0).loss(*examples), plain)
    close(SoftmaxPoly(**PLAIN, epsilon=0.0).loss(*examples), plain)
    asymmetric = SigmoidAsymmetric(**PLAIN, gamma_present=0.0, gamma_absent=0.0, clip=0.0)
    close(asymmetric.loss(*examples), BCE_SUM.loss(*examples))
    symmetric = replace(asymmetric, gamma_present=2.0, gamma_absent=2.0)
    close(symmetric.loss(*examples), FOCAL.loss(*examples))


def test_losses_equal_numbers_computed_by_hand():
    """For sigma = 0.8 at an absent and 0.6 at the present class; for p = 0.7 of the target of softmax."""
    logits, label = torch.tensor([[math.log(4), math.log(1.5)]], dtype=torch.float64), torch.tensor([1])
    head = SigmoidAsymmetric(**PLAIN, gamma_present=1.0, gamma_absent=2.0, clip=0.3)
    close(head.loss(logits, label), [-0.4 * math.log(0.6) - 0.25 * math.log(0.5)])
    below_the_clip = SigmoidAsymmetric(**PLAIN, gamma_present=0.0, gamma_absent=2.0, clip=0.9)
    close(below_the_clip.loss(logits, label), [-math.log(0.6)])
    logits = torch.tensor([[0.3, 0.7]], dtype=torch.float64).log()
    close(SoftmaxPoly(**PLAIN, epsilon=2.0).loss(logits, label), [-math.log(0.7) + 2 * 0.3])
    close(SoftmaxFocal(**PLAIN, gamma=2.0).loss(logits, label), [-0.09 * math.log(0.7)])
    close(SoftmaxBinary(**PLAIN).loss(logits, label), [-2 * math.log(0.7)])
    squared = LinearSquared(**PLAIN, weight=3.0, target=2.0)
    close(squared.loss(torch.tensor([[0.5, 1.0]], dtype=torch.float64), label), [(0.25 + 3) / 2])


def test_weighted_logits_are_read_as_the_probabilities_that_they_fit():
    """At the minimum over logits of the expected loss of each class alone, by a search on a grid."""
    prior = torch.tensor([0.15, 0.85], dtype=torch.float64)
    head = LinearSquared(**PLAIN, weight=5.0, target=10.0)
    grid = torch.linspace(0, 10, 100_001, dtype=torch.float64)
    fitted = [grid[(p * 5 * (grid - 10) ** 2 + (1 - p) * grid**2).argmin()] for p in prior]
    assert_close(head.probabilities(torch.stack(fitted)), prior, atol=1e-4, rtol=0)


def test_one_logit_is_a_logistic_unit(examples):
    z, labels = examples[0][:, 0], examples[1] % 2
    one_logit = OneLogit(**PLAIN)
    close(one_logit.loss(torch.stack([torch.zeros_like(z), z], -1), labels), bce(z, labels.double(), reduction="none"))


def test_cosines_of_the_sigmoid_are_read_by_the_sigmoid(examples):
    close(SigmoidCosine(**PLAIN, **SUMMED, temperature=0.1).loss(*examples), BCE_SUM.loss(*examples))


def test_the_length_of_normalised_logits_has_no_effect(examples):
    logits, labels = examples
    close(LOGIT_NORMALISED.loss(7 * logits, labels), LOGIT_NORMALISED.loss(logits, labels))
    close((gradient(LOGIT_NORMALISED, logits, labels) * logits).sum(-1), torch.zeros(len(labels)))
    close(7 * gradient(LOGIT_NORMALISED, 7 * logits, labels), gradient(LOGIT_NORMALISED, logits, labels))
    unit = logits / logits.norm(dim=-1, keepdim=True)
    close(LOGIT_NORMALISED.probabilities(logits), (25 * unit).softmax(-1))


def test_zero_logits_give_uniform_probabilities():
    logits, labels = torch.zeros(1, 5), torch.tensor([2])
    assert_close(LOGIT_NORMALISED.probabilities(logits), torch.full((1, 5), 0.2))
    assert gradient(LOGIT_NORMALISED, logits, labels).isfinite().all()


def test_options_out_of_range_are_refused_by_name():
    for cls, own in OPTIONS.items():
        for key in own[0].keys() & {"gamma", "gamma_present", "gamma_absent", "clip", "pos_weight", "weight", "target"}:
            with pytest.raises(ConfigError, match=rf"head\.{key}=-1\.0"):
                cls(**PLAIN | own[0] | {key: -1.0})
    for key, value in {"adjustment": "los", "class_weights": "inverted", "tau": -1.0, "beta": 1.0}.items():
        with pytest.raises(ConfigError, match=rf"head\.{key}={value}"):
            Softmax(**PLAIN | {key: value})
    for key in ("reduction", "smoothed_over"):
        with pytest.raises(ConfigError, match=rf"head\.{key}=all"):
            Sigmoid(**PLAIN | SUMMED | {key: "all"})
    with pytest.raises(ConfigError, match=r"head\.epsilon=-1\.5"):
        SoftmaxPoly(**PLAIN, epsilon=-1.5)
    with pytest.raises(ConfigError, match=r"head\.temperature=0\.0"):
        SoftmaxLogitNormalised(**PLAIN, temperature=0.0)
    with pytest.raises(ConfigError, match=r"head\.temperature=-1\.0"):
        SoftmaxCosine(**PLAIN, temperature=-1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_is_exp_and_never_leaves_the_normal_range(dtype):
    log_p = torch.linspace(-60, 0, 100, dtype=dtype)
    assert torch.equal(exp(log_p), log_p.exp())
    batch = 1024
    assert (exp(torch.tensor([-1e2, -1e3, -1e5, -torch.inf], dtype=dtype)) / batch > 0).all()
    assert (exp(log_p.new_tensor([-1e3, -torch.inf])) / batch >= torch.finfo(dtype).tiny).all()
    assert exp(log_p.new_tensor([torch.nan])).isnan().all()
