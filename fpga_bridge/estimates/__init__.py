"""Cycles, FIFO depths and resources before any synthesis, and reports of those that were made."""
