"""Graphs as ONNX models, written without a package of ONNX."""
