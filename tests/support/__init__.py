"""What tests of several kinds, and the benchmarks, share; imported by its full name."""
