"""Pruning: fewer weights, fewer channels."""
