"""Machines made of namespaces: for the demo, the benchmarks and the integration tests."""
