"""A network as a small graph of typed nodes: what every way to hardware starts from."""
