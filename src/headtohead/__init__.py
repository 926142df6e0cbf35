"""Softmax + cross-entropy against per-class sigmoid + binary cross-entropy, measured."""
