"""Record: what a run and a study are on disk, as typed classes. The contract between training and analysis."""
