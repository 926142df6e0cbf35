"""Comparison of output heads: softmax + cross-entropy against per-class sigmoid + binary cross-entropy."""
