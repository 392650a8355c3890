"""Hostile models: small honest ones, ways to damage them, and a fuzzer that does so for as long as it is told."""
