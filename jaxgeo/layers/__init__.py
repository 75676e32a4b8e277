"""Learnable maps, each a Flax linen module or a pure function on a parameter tree."""
