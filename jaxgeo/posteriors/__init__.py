"""Fitted parameters to a distribution over them, and the HMC reference on the same log joint."""
