"""Client and server in one process, generated cohorts, and the benchmarks."""
