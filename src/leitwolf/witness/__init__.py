"""Passive acceptors: values with compare-and-swap that stand outside of the nodes."""
