"""Analysis: statistics, claims, verdicts and the answer. It needs no torch and draws nothing."""
