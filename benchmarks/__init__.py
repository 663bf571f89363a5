"""One module per question, each measured against a baseline in the same run. `python -m benchmarks` runs them all."""
