"""A pack on its way through a launcher: as one override of the job, and read back by the process that trains it."""

import json
from dataclasses import asdict, dataclass
from typing import Self

from headtohead.options import build
from headtohead.record.run import ChosenBy, Phase
from headtohead.runner.axes import Run


@dataclass(frozen=True)
class PackJob:
    """A pack as the sweep hands it to a launcher.

    Attributes:
        study: the name of the study.
        common: the overrides that all runs of the study share.
        phase: the phase of the study.
        chosen_by: who chose the size of the pack; "memory" where their choice did not fit into it.
        threads: the number of CPU threads; None takes all.
        runs: the runs of the pack.
    """

    study: str
    common: tuple[str, ...]
    phase: Phase
    chosen_by: ChosenBy
    threads: int | None
    runs: tuple[Run, ...]

    def override(self) -> str:
        """Return the pack as an override that adds the key `pack` to a job."""
        # Hydra would end the text at a quote, and OmegaConf would replace what stands in `${}`.
        text = json.dumps(asdict(self)).replace("'", r"\u0027").replace("$", r"\u0024")
        return f"+pack='{text}'"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pack from the value that `override` gave to the key `pack`."""
        return build(cls, json.loads(text), "pack")
