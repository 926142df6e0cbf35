"""How a study was done, so that it can be repeated."""

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from headtohead.analysis.study import Study, device, settings
from headtohead.analysis.text import listed, ranges


def differing_settings(study: Study) -> tuple[pd.DataFrame, dict[str, str]]:
    """The config keys in which arms differ, (keys, arms), and the settings that all share."""
    configs = {}
    for arm in study.arms:
        record = next((record for record in study.records.values() if record["arm"] == arm), None)
        if record is not None:
            configs[arm] = settings(record)
    table = pd.DataFrame(configs).sort_index()
    same = (table.nunique(axis=1, dropna=False) <= 1).to_numpy(bool) if len(table) else []
    if not len(table):
        return table, {}
    return table[~same].fillna("–"), table[same].iloc[:, 0].to_dict()


def command(study: Study) -> str:
    """What was typed, ready for a shell."""
    return shlex.join(map(str, study.asked.get("command") or []))


def facts(study: Study) -> dict[str, str]:
    """How the study was done, in a few lines."""
    protocol = study.asked["protocol"]
    environment = study.asked["environment"]
    packs = Counter(_pack(record) for record in study.records.values())
    learning_rates = study.grid or sorted(set(study.results.lr.dropna()))
    lines = {
        "started": study.asked.get("started"),
        "arms": listed(study.arms, most=20),
        "learning rates": ", ".join(f"{lr:g}" for lr in learning_rates),
        "seeds of the search" if study.tuned else "seeds": ranges(protocol.get("search_seeds")),
        "fresh seeds to confirm": ranges(protocol.get("confirm_seeds")),
        "rates chosen by": f"mean {protocol.get('selected_by', 'val_accuracy')}" if study.tuned else "nobody",
        "compared": "in pairs of one seed: 95 % t interval, exact sign-flip test, Holm's correction over the claims; "
        "equivalent by two one-sided t tests against the claim's margin",
        "runs": f"{len(study.results)}, {study.results.wall_s.sum():.0f} s of training in all",
        "packs": listed(f"{mode} ({count} runs)" for mode, count in packs.most_common()),
        "device": device(environment),
        "commit": environment.get("commit"),
    }
    return {what: str(text) for what, text in lines.items() if text}


def versions(study: Study) -> dict[str, str]:
    """Of Python and the packages that the study's command ran with."""
    environment = study.asked["environment"]
    found = {"python": environment.get("python"), **(environment.get("versions") or {})}
    return {package: str(version) for package, version in found.items() if version}


def _pack(record: Mapping[str, Any]) -> str:
    pack = record.get("pack") or {}
    return f"{pack.get('mode') or 'unknown'}, size {pack.get('size', 'unknown')}"
