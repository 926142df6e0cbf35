"""The words of a report, each explained in a sentence or two."""

# `{choice}` stands for what a study tunes: a learning rate or a trial.

TERMS = {
    "arm": "One side of a comparison: a head with everything else that was swept, but for seeds and tuned settings.",
    "head": "What the outputs of a network mean: its loss and its probabilities, such as softmax with cross-entropy.",
    "setting": "What the arms of one comparison share, such as dataset, model and optimiser.",
    "seed": "The number that fixes the splits, the initial weights and the order of batches. Arms share seeds.",
    "pair": "Runs of two arms with the same seed and the same test examples. Only differences within pairs count.",
    "trial": "One point of the tuned settings, such as a learning rate. Every arm gets the same trials.",
    "search": "The first phase: every arm at every {choice}. It never reads the test examples.",
    "confirm": "The second phase: each arm at its best {choice}, with fresh seeds, on test examples.",
    "claim": "A sentence that the study tests: a metric, a direction and a margin, fixed before any run.",
    "margin": "The size below which a difference does not matter, fixed before any run.",
    "supported": "The difference is real, and in the direction of the claim.",
    "refuted": "The difference is real, and in the other direction.",
    "equivalent": "The difference is shown to be smaller than the margin.",
    "inconclusive": "Neither a difference nor equivalence was shown. It is no sign that the arms are equal.",
    "difference": "The first arm's mean less the other's, over the same pairs.",
    "interval": "The differences that the data allow, for new seeds and for new test examples where they are measured.",
    "p": "How often arms that do not differ would show a difference as large, in this comparison alone.",
    "corrected p": "p, raised because many claims are tested at once and seeds may be added later. Below 0.05 a "
    "difference is called real.",
    "points": "Percentage points: from 97 % to 98 % is one point.",
    "nats": "The unit of the loss (NLL): 0.02 nats change the probability of the true class by 2 %.",
    "NLL": "Negative log-likelihood: the loss by probabilities that can be compared between heads.",
    "diverged": "A run whose loss or gradient was no number any more. It counts as a guess.",
    "look": "A moment at which verdicts are computed. Each look is stricter, so that seeds may be added as often as "
    "one likes.",
    "new setting": "Where the difference in one further setting like these is to be expected.",
    "tau": "How much the true difference varies between settings, as a standard deviation.",
}
