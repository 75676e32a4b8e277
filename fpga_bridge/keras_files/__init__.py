"""Keras and QKeras files as graphs, read without any of their objects being made."""
