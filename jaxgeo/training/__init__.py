"""Losses, pure steps, ensembles in one program, device meshes."""
