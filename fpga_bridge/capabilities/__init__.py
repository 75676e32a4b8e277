"""What the hls4ml route can carry, layer by layer, asked of the bridge itself."""
