"""Frozen parts of a network: `model.freeze` names parameters that are not trained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headtohead.options import ConfigError, require

if TYPE_CHECKING:
    from torch import nn

# Values of `model.freeze` that are no regular expression.
NONE, BACKBONE = "none", "backbone"
# The most names of parameters in an error.
NAMED = 8


def require_pattern(which: str) -> None:
    """Refuse a value of `model.freeze` that is no regular expression; its words are such expressions too."""
    try:
        re.compile(which)
    except re.error as error:
        accepted = "accepted: none, backbone, or a regular expression of names of parameters"
        raise ConfigError(f"model.freeze={which}: no regular expression ({error}); {accepted}") from error


def freeze(network: nn.Module, which: str) -> None:
    """Freeze the parameters that `which` names, and put what is frozen as a whole into evaluation mode.

    That is all but the classifier with "backbone". With a regular expression it is each layer or block that has
    parameters, all of them frozen, with all that it holds. There batch norm keeps its statistics and dropout is off.

    Args:
        which: "none", "backbone", or a regular expression that is searched for in the names of parameters.

    Raises:
        ConfigError: it names no parameter, or leaves none to train.
    """
    if which == NONE:
        return
    names = [name for name, _ in network.named_parameters()]
    matching = {name for name in names if re.search(which, name)}
    frozen = {*_backbone(names)} if which == BACKBONE else matching
    shown = ", ".join(names if len(names) <= NAMED else [*names[: NAMED - 2], "...", *names[-2:]])
    accepted = f"accepted: none, backbone, or a regular expression for some of the {len(names)} parameters {shown}"
    require(frozen, "model.freeze", which, f"names no parameter; {accepted}")
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    left = any(parameter.requires_grad for parameter in network.parameters())
    require(left, "model.freeze", which, f"leaves no parameter to train; {accepted}")
    for layer in _of_backbone(network) if which == BACKBONE else _wholly_frozen(network, frozen):
        layer.training = False


def _backbone(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("classifier.")]


def _of_backbone(network: nn.Module) -> list[nn.Module]:
    of_classifier = {*network.get_submodule("classifier").modules()}
    return [layer for layer in network.modules() if layer not in of_classifier]


def _wholly_frozen(network: nn.Module, frozen: set[str]) -> list[nn.Module]:
    """Return the modules whose parameters are all in `frozen`, at least one, and those within them."""
    found = []
    # Under each of its names a module is the same; its parameters have their first name.
    names = {parameter: name for name, parameter in network.named_parameters()}
    for module in network.modules():
        own = {names[parameter] for parameter in module.parameters()}
        if own and own <= frozen:
            found += module.modules()
    return found
