"""Report: the pages, figures and TensorBoard views that a person reads."""
