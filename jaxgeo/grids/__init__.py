"""Where samples lie: HEALPix index arithmetic, rotations and projections; integers and geometry, no parameters."""
