"""How far a layer or a model is from commuting with rotations: a meter and a report."""
