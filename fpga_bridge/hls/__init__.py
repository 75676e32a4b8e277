"""The way through hls4ml: Keras model, project, C++ emulation, export for a board."""
