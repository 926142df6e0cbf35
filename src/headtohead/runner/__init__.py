"""Runner: from a command line to packs, launchers, checkpoints and records."""
