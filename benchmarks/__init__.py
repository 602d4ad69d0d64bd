"""Benchmarks: measured by hand or before a release, never asserted in the tests."""
