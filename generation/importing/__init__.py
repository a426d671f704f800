"""Weights that other programs wrote, as a generator/ folder of this one; nothing in their files is executed."""
