"""From a jaxpr to the typed graph: which equation becomes which node."""
