"""hls4ml's fixed-point arithmetic as JAX functions, word by word."""
